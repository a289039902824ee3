"""The answer page: one self-contained HTML file, the answer first, every table behind it; opens offline, dark or light."""

import html
from collections.abc import Mapping, Sequence

from ptqflow.reporting.answer import Row
from ptqflow.reporting.answer_text import Said, printed, said
from ptqflow.reporting.render import TextTable, html_grid

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d9dee4; --back: #fff;
  --raised: #f3f6f9; --mark: #0b5cad }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a4adb8; --line: #3a424c; --back: #15191e;
  --raised: #20262d; --mark: #7cb8ff } }
* { box-sizing: border-box }
body { font: 14px/1.45 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; margin: 0 auto; padding: 0 1.5rem 2rem;
  max-width: 88rem; color: var(--ink); background: var(--back) }
nav { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: .7rem 0;
  background: var(--back); border-bottom: 1px solid var(--line) }
nav a { color: var(--soft); text-decoration: none; padding: .1rem 0 }
nav a[aria-current] { color: var(--ink); border-bottom: 2px solid var(--mark) }
section[hidden] { display: none }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem }
.answer { border-left: 4px solid var(--mark); background: var(--raised); padding: .8rem 1.1rem; margin: 1.2rem 0;
  max-width: 68rem; overflow-wrap: anywhere }
.answer h2 { margin: 0; color: var(--soft); font-size: .9rem; font-weight: normal }
.answer strong { font-size: 1.15rem; font-weight: 600 }
.answer p { margin: .4rem 0 0 }
code { font-family: ui-monospace, "Liberation Mono", monospace; user-select: all }
input { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--line); padding: .25rem .5rem;
  margin: 1rem 0 0; width: min(22rem, 100%) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: right; vertical-align: top }
th { white-space: normal; border-bottom: 2px solid var(--soft); vertical-align: bottom; cursor: pointer }
th[aria-sort=ascending]::after { content: " ↑" }
th[aria-sort=descending]::after { content: " ↓" }
.name { text-align: left }
#page-answer td:last-child, #page-answer th:last-child { white-space: normal; text-align: left; min-width: 16rem }
#page-answer table { font-size: 13px }
tbody tr:hover { background: var(--raised) }
ul { color: var(--soft); padding-left: 1.2rem; max-width: 68rem; overflow-wrap: anywhere }
"""
_SCRIPT = """
const sections = [...document.querySelectorAll("section")], links = [...document.querySelectorAll("nav a")];
function show() {
  const asked = "page-" + location.hash.slice(1), id = sections.some(s => s.id === asked) ? asked : sections[0].id;
  sections.forEach(s => s.hidden = s.id !== id);
  for (const a of links)
    "page-" + a.hash.slice(1) === id ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current");
  scrollTo(0, 0);
}
addEventListener("hashchange", show);
show();
const NUMBER = /^[<>]?\\s*(-?[\\d.]+(?:e[+-]?\\d+)?)/;
const numeric = text => { const found = text.replace(/\\u2212/g, "-").match(NUMBER);
  return found ? +found[1] : null };
document.querySelectorAll("th").forEach(th => th.addEventListener("click", () => {
  const body = th.closest("table").tBodies[0], i = th.cellIndex, down = th.getAttribute("aria-sort") === "ascending";
  th.parentNode.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
  const missing = text => text === "\\u2013" || text === "n/a";
  const order = (a, b) => { const x = numeric(a), y = numeric(b); return x !== null && y !== null ? x - y : a.localeCompare(b) };
  [...body.rows].sort((r, s) => {
    const a = r.cells[i].textContent, b = s.cells[i].textContent;
    return missing(a) || missing(b) ? missing(a) - missing(b) : (down ? -1 : 1) * order(a, b);
  }).forEach(row => body.append(row));
}));
document.querySelectorAll("input").forEach(input => input.addEventListener("input", () => {
  const words = input.value.toLowerCase().split(/\\s+/);
  input.closest("section").querySelectorAll("tbody tr").forEach(row =>
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)));
}));
"""


def page(answers: Sequence[Row], others: Mapping[str, Sequence[TextTable]]) -> str:
    """The page: the answer, then a page for each of `others` by its title, in their order; tables sort and filter."""
    pages = {"Answer": "".join(map(_said, said(answers))) + _tables(printed(answers, sentences=False))}
    pages |= {title: _tables(grids) for title, grids in others.items()}
    names = {title: "-".join(title.lower().replace("×", "by").split()) for title in pages}
    links = "".join(f'<a href="#{names[title]}">{html.escape(title)}</a>' for title in pages)
    body = "\n".join(f'<section id="page-{names[title]}">{content}</section>' for title, content in pages.items())
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>What to deploy</title>'
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<link rel="icon" href="data:,"><style>{_STYLE}</style></head>\n'
        f"<body><nav>{links}</nav>\n{body}\n<script>{_SCRIPT}</script></body></html>\n"
    )


def _tables(grids: Sequence[TextTable]) -> str:
    field = '<input type="search" placeholder="Filter rows" aria-label="Filter rows">'
    return field + "\n".join(map(html_grid, grids))


def _said(answer: Said) -> str:
    lines = [
        f"<h2>{html.escape(answer.place)}</h2><strong>{html.escape(answer.recommendation)}</strong>",
        *(f"<p>{html.escape(remark)}</p>" for remark in answer.remarks),
        *([f"<p>Serve it: <code>{html.escape(answer.serve)}</code></p>"] if answer.serve else []),
    ]
    return f'<div class="answer">{"".join(lines)}</div>'
