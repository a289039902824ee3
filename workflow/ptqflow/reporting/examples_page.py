"""The viewer of samples: one self-contained HTML file, a list of completions and the baseline's beside a variant's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ptqflow.reporting.page_parts import document

_STYLE = """
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; padding: .8rem 0; align-items: end;
  border-bottom: 1px solid var(--line) }
header label { display: flex; flex-direction: column; color: var(--soft); font-size: 12px; max-width: 100% }
header select, header input { max-width: 22rem; color: var(--ink); font-size: 14px }
main { display: grid; grid-template-columns: minmax(11rem, 17rem) minmax(0, 1fr); gap: 1.2rem; padding-top: .8rem }
#list { list-style: none; margin: 0; padding: 0; max-height: calc(100vh - 9rem); overflow-y: auto }
#list button { display: block; width: 100%; text-align: left; border: 0; border-bottom: 1px solid var(--line);
  padding: .35rem .5rem; cursor: pointer; overflow-wrap: anywhere }
#list button[aria-current] { background: var(--raised); border-left: 4px solid var(--mark) }
#list small { color: var(--soft); display: block }
#sides { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.2rem }
@media (max-width: 800px) { main, #sides { grid-template-columns: minmax(0, 1fr) } #list { max-height: 14rem } }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--raised); padding: .6rem .8rem; margin: .3rem 0 0;
  font: 13px/1.45 ui-monospace, "Liberation Mono", monospace }
h3 { font-size: .95rem; margin: .8rem 0 0 }
.right { color: #1a7f37 } .wrong { color: #c4320a }
@media (prefers-color-scheme: dark) { .right { color: #56d364 } .wrong { color: #ff8a65 } }
th { cursor: default }
td.option { white-space: pre-wrap; text-align: left; overflow-wrap: anywhere }
p.said { color: var(--soft); margin: .3rem 0 0 }
"""
_SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const NAMES = {lost: "baseline right, variant wrong", gained: "baseline wrong, variant right", neither: "both wrong",
  both: "both right"};
const field = name => document.getElementById(name);
const make = (tag, text, kind) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind; return e };
function options(name, values) {
  const select = field(name), before = select.value;
  select.replaceChildren(...[...new Set(values)].map(v => new Option(v, v)));
  if ([...select.options].some(o => o.value === before)) select.value = before;
}
const places = () => data.groups.filter(g => g.place === field("place").value);
const tasks = () => places().filter(g => g.task === field("task").value);
let rows = [], group = null;
function choose() {
  options("place", data.groups.map(g => g.place));
  options("task", places().map(g => g.task));
  options("variant", tasks().map(g => g.variant));
  group = tasks().find(g => g.variant === field("variant").value);
  const wanted = field("outcome"), before = wanted.value || "lost", counts = group ? group.counts : {};
  wanted.replaceChildren(...Object.entries(NAMES).map(([k, said]) => new Option(`${said} (${counts[k] || 0})`, k)));
  wanted.value = before;
  list();
}
function list() {
  const words = field("words").value.toLowerCase().split(/\\s+/);
  const said = r => JSON.stringify([r[1], r[2], data.questions[group.asked][r[1]]]).toLowerCase();
  rows = group ? group.rows.filter(r => r[0] === field("outcome").value && words.every(w => said(r).includes(w))) : [];
  const all = group ? group.counts[field("outcome").value] : 0;
  field("count").textContent = `${rows.length} of ${all} shown`;
  field("list").replaceChildren(...rows.map((r, i) => {
    const li = make("li"), b = make("button", r[1]);
    b.append(make("small", r[2].extracted === undefined ? "no answer" : `answered ${r[2].extracted}`));
    b.addEventListener("click", () => open(i));
    li.append(b);
    return li;
  }));
  open(0);
}
function side(name, said) {
  const box = make("div"), right = said.correct;
  box.append(make("h3", name), make("p", said.unscored ? said.unscored : right ? "right" : "wrong", right ? "right" : "wrong"));
  const facts = [said.extracted === undefined ? "no answer found" : `answered ${said.extracted}`, `${said.tokens} tokens`];
  if (said.ended) facts.push(`ended by ${said.ended}`);
  for (const sign of ["looping", "thinks on"]) if (said[sign]) facts.push(sign);
  box.append(make("p", facts.join(", "), "said"));
  if (said.text !== undefined) box.append(make("pre", said.text));
  return box;
}
function likelihoods(asked, base, own) {
  const table = make("table"), head = make("tr"), best = x => {
    const known = x.filter(value => value !== null);
    return known.length ? x.indexOf(Math.max(...known)) : -1;
  };
  const names = ["Alternative", "baseline (nats)", "variant (nats)", "difference"];
  names.forEach((text, i) => head.append(make("th", text, i ? "" : "name")));
  table.append(make("thead"), make("tbody"));
  table.tHead.append(head);
  asked.options.forEach((text, i) => {
    const tr = make("tr"), marks = [i === asked.gold && "gold", best(base.logprobs) === i && "baseline's most likely",
      best(own.logprobs) === i && "variant's most likely"].filter(Boolean).join(", ");
    tr.append(make("td", text + (marks ? `  (${marks})` : ""), "option"));
    const [before, after] = [base.logprobs[i], own.logprobs[i]];
    const difference = before === null || after === null ? null : after - before;
    [before, after, difference].forEach(x => tr.append(make("td", x === null ? "not finite" : x.toFixed(2))));
    table.tBodies[0].append(tr);
  });
  return table;
}
function open(i) {
  const shown = field("shown");
  field("list").querySelectorAll("button").forEach((b, j) =>
    i === j ? b.setAttribute("aria-current", "true") : b.removeAttribute("aria-current"));
  if (!rows.length) { shown.replaceChildren(make("p", "None.")); return; }
  const [, key, own] = rows[i], asked = data.questions[group.asked][key], base = data.baselines[group.baseline][key];
  const parts = [make("h3", "Asked"), make("pre", asked.prompt)];
  if (asked.options && base.logprobs && own.logprobs) parts.push(make("h3", "Log-likelihoods"), likelihoods(asked, base, own));
  else parts.push(make("p", `Right answer: ${asked.gold}`, "said"));
  const sides = make("div");
  sides.id = "sides";
  sides.append(side("Baseline", base), side(group.variant, own));
  shown.replaceChildren(...parts, sides);
}
["place", "task", "variant"].forEach(name => field(name).addEventListener("change", choose));
field("outcome").addEventListener("change", list);
field("words").addEventListener("input", list);
choose();
"""


def page(groups: Sequence[Mapping[str, Any]], questions: Mapping[str, Any], baselines: Mapping[str, Any]) -> str:
    """The viewer. `groups`: a variant on a task at a seed, with `place`, `task`, `variant`, `counts` by outcome, `rows` (outcome,
    key, answer), and the names `asked` in `questions` and `baseline` in `baselines`, where both are by key.
    """
    shown = {"groups": groups, "questions": questions, "baselines": baselines}
    data = json.dumps(shown, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")  # nothing in it ends the element that it stands in
    labels = {"place": "Model", "task": "Task", "variant": "Variant", "outcome": "Outcome"}
    fields = "".join(f'<label>{said}<select id="{name}"></select></label>' for name, said in labels.items())
    fields += '<label>Filter<input id="words" type="search" placeholder="words"></label><span id="count"></span>'
    body = f'<header><a href="report.html">Report</a>{fields}</header>\n<main><ul id="list"></ul><div id="shown"></div></main>\n'
    body += f'<script type="application/json" id="data">{data}</script>'
    return document("Samples", body, _STYLE, _SCRIPT)
