"""The answer page is one file without anything from elsewhere, and every page of it shows whole in a real browser."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest
from ptqflow.decide import Decide
from ptqflow.reporting import answer, page
from ptqflow.reporting.render import TextTable
from ptqflow.reporting.variants import BASELINE
from test_answer import rows, scored, sized

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Clicks through all pages, sorts and filters each table, and leaves in the title what was wrong.
VISIT = """
const wrong = window.wrong;
(async () => {
  const links = [...document.querySelectorAll("nav a")];
  let seen = 0;
  for (const link of links) {
    link.click();
    await new Promise(done => setTimeout(done, 100));
    const shown = [...document.querySelectorAll("section")].filter(s => !s.hidden);
    if (shown.length !== 1 || !shown[0].innerText.trim()) wrong.push(link.hash + ": not shown alone");
    seen += shown.length;
    for (const img of shown[0].querySelectorAll("img"))
      if (!(img.complete && img.naturalWidth)) wrong.push(link.hash + ": no picture of " + img.alt);
    const root = document.documentElement;
    if (root.scrollWidth > root.clientWidth) wrong.push(`${link.hash}: ${root.scrollWidth} wider than ${root.clientWidth}`);
    for (const e of shown[0].querySelectorAll(".answer, .answer *, td, th, li"))
      if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline")
        wrong.push(link.hash + ": clipped " + e.textContent);
    if (link === links[0] && innerWidth > 1200)
      for (const e of shown[0].querySelectorAll(".wide"))
        if (e.scrollWidth > e.clientWidth) wrong.push("the answer's table scrolls");
    for (const table of shown[0].querySelectorAll("table")) {
      const column = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[1].textContent));
      const head = table.tHead.rows[0].cells[1];
      if (link.hash === "#numbers") {
        head.click();
        if (JSON.stringify(column()) !== "[2,9,1,null]") wrong.push("sorted up: " + JSON.stringify(column()));
        head.click();
        if (JSON.stringify(column()) !== "[1,9,2,null]") wrong.push("sorted down: " + JSON.stringify(column()));
        const field = shown[0].querySelector("input");
        field.value = "nine"; field.dispatchEvent(new Event("input"));
        if ([...table.tBodies[0].rows].filter(row => !row.hidden).length !== 1) wrong.push("not filtered");
      }
      if (link.hash === "#bounds") {
        head.click();
        const order = [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join(" ");
        if (order !== "1 2 3 4 5") wrong.push("sorted: " + order);
      }
    }
  }
  if (seen !== links.length || seen < 3) wrong.push("pages seen: " + seen);
  document.title = "VISITED " + JSON.stringify(wrong);
})();
"""
WATCH = """
window.wrong = [];
addEventListener("error", e => wrong.push(e.message));
console.error = (...said) => wrong.push(said.join(" "));
"""


def text() -> str:
    names = ["gptq-w4a16-g128-with-a-long-name", "awq-w4", "<b>&"]
    accuracy = [scored(name, p) for name, p in zip(names, (0.95, 0.5, 0.01), strict=True)]
    found = rows(
        accuracy, [sized(name, 300) for name in names], serving={("cpu", "demo", names[0], "compressed-tensors"): "vllm serve x"}
    )
    numbers = TextTable(
        "Numbers",
        ["Name", "Value"],
        [["many", "1 600 GiB"], ["none", "–"], ["nine", "9.0 MiB"], ["two", "2 MiB"]],
        notes=["A note."],
    )
    bounds = TextTable(
        "Bounds", ["Place", "Value"], [["5", "above 99 %"], ["3", "±10.0"], ["1", "below 1 %"], ["4", "95 %"], ["2", "±2.0"]]
    )
    wide = TextTable("Wide", ["Name", *(f"column {i}" for i in range(40))], [["x", *("123.4 [1.0, 2.0]" for _ in range(40))]])
    others = {"Numbers": page.Page(tables=[("", [numbers])]), "Bounds": page.Page(tables=[("", [bounds])])}
    return page.page(found, others | {"Wide": page.Page(tables=[("<p>Read it so.</p>", [wide])])})


def test_the_answer_comes_first_and_nothing_comes_from_elsewhere():
    html = text()
    assert html.index("Deploy gptq-w4a16-g128") < html.index("<table")
    assert "<code>vllm serve x</code>" in html
    assert escape("<b>&") in html
    assert "<b>&<" not in html
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)|url\(|@import|https?:", html)


def test_a_study_without_anything_has_a_page():
    assert "What to deploy" in page.page([], {})
    assert BASELINE in page.page(answer.build(answer.Tables([scored(BASELINE)]), Decide()), {})


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH; apt install chromium")
@pytest.mark.parametrize("size", ["1440,900", "640,800"])
@pytest.mark.parametrize("dark", [False, True])
def test_every_page_shows_whole_in_a_browser(size, dark, tmp_path):
    html = text().replace("<head>", f"<head><script>{WATCH}</script>").replace("</body>", f"<script>{VISIT}</script></body>")
    (tmp_path / "page.html").write_text(html)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}", "--virtual-time-budget=5000"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run([str(BROWSER), *options], capture_output=True, text=True, timeout=120, check=True)
    (title,) = re.findall(r"<title>VISITED (.*?)</title>", done.stdout)
    assert json.loads(unescape(title)) == []
