"""What the pages of a study share: their looks, and what sorts and filters their tables. All in the file itself."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d9dee4; --back: #fff;
  --raised: #f3f6f9; --mark: #0b5cad }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a4adb8; --line: #3a424c; --back: #15191e;
  --raised: #20262d; --mark: #7cb8ff } }
* { box-sizing: border-box }
body { font: 14px/1.45 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; margin: 0 auto; padding: 0 1.5rem 2rem;
  max-width: 90rem; color: var(--ink); background: var(--back) }
nav { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: .6rem 0;
  background: var(--back); border-bottom: 1px solid var(--line) }
nav a { color: var(--soft); text-decoration: none; padding: .1rem 0 }
nav a[aria-current] { color: var(--ink); border-bottom: 2px solid var(--mark) }
a { color: var(--mark) }
section[hidden] { display: none }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; overflow-wrap: anywhere }
.answer { border-left: 4px solid var(--mark); background: var(--raised); padding: .8rem 1.1rem; margin: 1.2rem 0;
  max-width: 68rem; overflow-wrap: anywhere }
.answer h2 { margin: 0; color: var(--soft); font-size: .9rem; font-weight: normal }
.answer strong { font-size: 1.15rem; font-weight: 600 }
.answer p { margin: .4rem 0 0 }
code { font-family: ui-monospace, "Liberation Mono", monospace; user-select: all; overflow-wrap: anywhere }
input, select, button { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--line);
  padding: .25rem .5rem }
section > input { margin: 1rem 0 0; width: min(22rem, 100%) }
/* Where a table goes on beyond its frame, the frame's edge is in shadow. */
.wide { overflow-x: auto; background:
  linear-gradient(to right, var(--back) 30%, transparent) left / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--back) 30%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to right, var(--line), transparent) left / 1.2rem 100% no-repeat scroll,
  linear-gradient(to left, var(--line), transparent) right / 1.2rem 100% no-repeat scroll }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: right;
  vertical-align: top }
th { white-space: normal; border-bottom: 2px solid var(--soft); vertical-align: bottom; cursor: pointer }
th[aria-sort=ascending]::after { content: " ↑" }
th[aria-sort=descending]::after { content: " ↓" }
.name { text-align: left }
.long { white-space: normal; text-align: left; min-width: 14rem; max-width: 44rem; overflow-wrap: anywhere }
tbody tr:hover { background: var(--raised) }
ul, details, figcaption { color: var(--soft); max-width: 68rem; overflow-wrap: anywhere }
ul { padding-left: 1.2rem }
ul:empty { display: none }
@media (max-width: 60rem) { th { min-width: 4.5rem } .long { min-width: 26rem } }
details { margin: 1rem 0 0 }
summary { cursor: pointer }
figure { margin: 1.4rem 0 0; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; align-items: flex-start }
figcaption { flex: 1 1 22rem }
figure img { display: block; max-width: 100%; background: #fff; border: 1px solid var(--line) }
figcaption p, details p { margin: .4rem 0 }
"""
TABLES = """
const NUMBER = /^(?:[<>+±]|above|below)?\\s*(-?\\d[\\d.]*(?: \\d{3})*(?:e[+-]?\\d+)?)(?: (KiB|MiB|GiB|TiB|ms|s|min|h)\\b)?/;
const UNITS = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40, ms: 1e-3, s: 1, min: 60, h: 3600 };
const numeric = text => { const found = text.replace(/\\u2212/g, "-").match(NUMBER);
  return found ? found[1].replaceAll(" ", "") * (UNITS[found[2]] ?? 1) : null };
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
document.querySelectorAll("section > input").forEach(input => input.addEventListener("input", () => {
  const words = input.value.toLowerCase().split(/\\s+/);
  input.closest("section").querySelectorAll("tbody tr").forEach(row =>
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)));
}));
"""
FIGURES = """
document.querySelectorAll("img[data-svgz]").forEach(async img => {
  const packed = Uint8Array.from(atob(img.dataset.svgz), letter => letter.charCodeAt(0));
  const svg = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
  img.src = URL.createObjectURL(new Blob([await svg.arrayBuffer()], { type: "image/svg+xml" }));
});
"""
SECTIONS = """
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
"""


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole HTML file: no script, font, style or picture from elsewhere."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<title>{title}</title><link rel="icon" href="data:,"><style>{STYLE}{style}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n<script>{script}</script></body></html>\n'
