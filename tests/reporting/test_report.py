"""The report is made of a study's tables and figures alone, and shows each; samples are chosen by a rule, within their room."""

import json
import re
import subprocess

import pytest
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.schemas import GENERATIONS, LOSSES, SAMPLES
from ptqflow.artifacts.table_schemas import LAYER_ERROR
from ptqflow.artifacts.tables import to_table, write_rows
from ptqflow.cli import main
from ptqflow.environments import ROOT
from ptqflow.reporting import catalogue, examples, examples_page, flips, layer_error, learning, made_from
from ptqflow.reporting.figures import layer_error as by_block
from ptqflow.reporting.figures import linear_error
from ptqflow.reporting.variants import Chunk, Variant
from ptqflow.stages import report
from synthetic_study import HARM, diagnostics, sample, served, whole_study
from test_page import BROWSER, VISIT, WATCH

LEARNED = Chunk(platform="cpu", model="demo", recipe="flatquant-w4a4", chunk=0)


def losses(blocks=(0, 1), steps=100):
    plain = [
        {"layer": layer, "step": step, "measure": measure, "value": (1 + layer) / (1 + step), "event": None}
        for layer in blocks
        for step in range(steps)
        for measure in ("loss", "held_out_loss")
    ]
    return to_table(LOSSES, [*plain, {"layer": 1, "step": 37, "measure": "held_out_loss", "value": 9.0, "event": "rollback"}])


def test_every_table_and_figure_has_its_page():
    assert {*report.TABLES, "answer"} == set(catalogue.TABLES)
    assert set(report.FIGURES) == set(catalogue.FIGURES)


def test_curves_are_thinned_but_keep_both_ends_and_every_rollback():
    rows = learning.build([(LEARNED, losses())])
    whole = [[r for r in rows if (r["layer"], r["measure"]) == (layer, "held_out_loss")] for layer in (0, 1)]
    plain, thrown_back = map(learning.thinned, whole)
    assert [plain[0]["step"], plain[-1]["step"]] == [0, 99]
    assert len(plain) == learning.POINTS < len(whole[0])
    assert [r["step"] for r in thrown_back if r["event"] == "rollback"] == [37]
    (line,) = learning.printed(rows).rows
    assert line[:5] == ["cpu", "demo", "flatquant-w4a4", "2", "1.0"]  # the best loss in percent of the first
    assert line[-2:] == ["1", "1"]


def test_a_block_of_which_nothing_is_quantized_has_no_curve_and_leaves_the_table_of_the_others():
    rows = learning.build([(LEARNED, losses())])
    idle = [rows[0] | {"layer": 2, "measure": measure} for measure in ("held_out_update", "deployed_held_out_loss")]
    assert learning.printed([*rows, *idle]).rows == learning.printed(rows).rows


@pytest.mark.parametrize("broken", [0, 2, 3])
def test_a_block_whose_error_is_no_number_is_the_worst_wherever_it_stands(broken):
    rows = [dict.fromkeys(LAYER_ERROR.names) | LEARNED.model_dump() | d for d in diagnostics(0.1, range(4))]
    rows = [r | ({"output_error": float("nan"), "weight_error": float("nan")} if r["layer"] == broken else {}) for r in rows]
    for line in layer_error.printed(rows)[0].rows:
        assert line[5:7] == ["nan", str(broken)]
        assert "nan" not in (line[4], line[7])
    (said,) = re.findall("Left out: .*", linear_error.chart({"layer_error": to_table(LAYER_ERROR, rows)}).title.subtitle[-1])
    assert said == "Left out: 7 errors that are not finite."


def test_errors_that_were_not_measured_are_left_out_and_named():
    rows = [dict.fromkeys(LAYER_ERROR.names) | LEARNED.model_dump() | d for d in diagnostics(0.1, range(4))]
    unmeasured = [r | {"recipe": "rtn-w4a16", "output_error": None, "output_mse": None} for r in rows]
    lines = layer_error.printed([*rows, *unmeasured])[0].rows
    assert [line[4:7] for line in lines if line[2] == "rtn-w4a16"] == [["–"] * 3] * 8
    for found, left in (([*rows, *unmeasured], "4 blocks"), (unmeasured, "4 blocks")):
        table = {"layer_error": to_table(LAYER_ERROR, found)}
        assert f"Not measured (layer_errors: false): {left}." in by_block.chart(table).to_json()
    assert "No errors of outputs were measured (layer_errors: false)." in linear_error.chart(table).to_json()
    both = linear_error.chart({"layer_error": to_table(LAYER_ERROR, [*rows, *unmeasured])}).to_json()
    assert "Not measured (layer_errors: false): 28 linears." in both
    assert "rtn-w4a16" not in both


def test_flips_count_what_a_drop_of_zero_hides():
    before = [sample("t", f"i{i}", i < 6) for i in range(10)]
    after = [sample("t", f"i{i}", i >= 4) for i in range(10)]
    tables = [(served(name), to_table(SAMPLES, rows)) for name, rows in (("baseline", before), ("rtn-w4a16", after))]
    (row,) = flips.build(tables)
    assert [row[name] for name in ("completions", "both", "lost", "gained", "neither")] == [10, 2, 4, 4, 0]
    assert flips.printed([row]).rows[0][-1] == "80.0"


def test_layers_say_where_the_worst_is_and_what_fell_back():
    rows = [{**LEARNED.model_dump(), **d, "clip_fraction": 0.01} for d in diagnostics(0.1, range(4))]
    full = [{"damping": None, "condition_number": None, "fallback": None, "warning": None} | row for row in rows]
    full[9]["fallback"] = "rounded to nearest"
    errors, fallbacks = layer_error.printed(full)
    assert {row[3]: row[6] for row in errors.rows}["q_proj"] == "3"
    (line,) = fallbacks.rows
    assert line[3:] == ["rounded to nearest", "1", "1"]
    full[4]["warning"] = "nothing learned"
    assert [row[3:] for row in layer_error.printed(full)[2].rows] == [["nothing learned", "1", "0"]]


def test_provenance_names_model_data_recipe_and_what_differs():
    model, recipe = (
        Variant(platform="cpu", model="m", **more) for more in ({"recipe": "baseline"}, {"recipe": "r", "form": "fake"})
    )
    origin = {"source": {"repo": "org/m", "revision": "0" * 40}}
    made = [("cpu", "scores", {"stage": "score", "versions": {"torch": v}, "code": "a+b:1f"}) for v in ("2.0", "2.0", "2.1")]
    rows = made_from.build([(model, origin), (recipe, origin | {"license": "mit"})], made)  # its checkpoint carries it
    said = {(r["kind"], r["name"], r["detail"]): r["files"] for r in rows}
    assert said["model", "m", f"repo org/m, revision {'0' * 40}, licence mit"] == 1
    assert said["software", "cpu: score", "torch 2.0; code 1f"] == 2
    assert said["software", "cpu: score", "torch 2.1; code 1f"] == 1


def answer(item, correct, text="so it is", completion=0):
    named = {"item": item, "completion": completion, "text": text, "choice_logprobs": None, "extracted": "7", "correct": correct}
    ends = {"completion_tokens": 9, "finish_reason": "stop", "unscored": None, "looping": False, "open_thinking": None}
    return named | ends


def test_what_was_lost_is_shown_first_and_the_room_is_kept():
    pairs = [(answer(f"i{i}", i % 2 == 0), answer(f"i{i}", i % 3 == 0, "x" * 1000)) for i in range(60)]
    kept, counts = examples.choose(pairs, 12_000)
    assert counts == {"lost": 20, "gained": 10, "neither": 20, "both": 10}
    assert [outcome for outcome, _ in kept][:7] == ["lost"] * 7
    assert sum(examples.size(examples.shown(a)) for _, a in kept) <= 12_000
    everything, _ = examples.choose(pairs, 10**6)
    assert len(everything) == 60
    one, _ = examples.choose(pairs, 10)
    assert [outcome for outcome, _ in one] == ["lost"]


def test_a_log_likelihood_that_is_not_finite_is_null_in_the_page():
    """JSON has no infinity: a browser would show an empty page."""
    said = examples.shown(answer("i0", True) | {"text": None, "choice_logprobs": [float("-inf"), -2.0]})
    assert said["logprobs"] == [None, -2.0]
    group = {"place": "p", "task": "t", "variant": "v", "counts": {"both": 1}, "rows": [("both", "i0", said)]}
    asked = {"x": {"i0": {"prompt": "", "options": ["a", "b"], "gold": 1}}}
    page = examples_page.page([group | {"asked": "x", "baseline": "x"}], asked, {"x": {"i0": said}})
    (data,) = re.findall(r'id="data">(.*?)</script>', page)

    def refuse(constant):
        raise ValueError(constant)

    json.loads(data, parse_constant=refuse)


def test_a_long_text_keeps_both_ends_and_says_what_is_left_out():
    text = "a" * 5000 + "b" * 5000
    assert examples.cut(text).startswith("a" * 1500 + "\n\n[… 7000 characters left out …]")
    assert examples.cut(text).endswith("b" * 1500)
    assert examples.cut("short") == "short"


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    """Two tasks on data of their own, one generated and one of alternatives, for the baseline and one variant."""
    root = tmp_path_factory.mktemp("samples")
    (root / "sums.jsonl").write_text(
        "".join(f'{{"id": "s{i}", "question": "What is {i}+1? </script>", "answer": "{i + 1}"}}\n' for i in range(8))
    )
    choices = [{"id": f"c{i}", "question": f"Sky {i}?", "choices": ["blue", "red"], "answer": 0} for i in range(4)]
    (root / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    entries, scores, said = [], [], []
    asked = {"sums": ("problems", "generation", 8), "facts": ("choices", "choices", 4)}
    for recipe in ("baseline", "rtn-w4a16"):
        for task, (name, kind, count) in asked.items():
            rows, verdicts = [], []
            for i in range(count):
                right = recipe == "baseline" or i % 2 == 0
                row = sample(task, f"{task[0].replace('f', 'c')}{i}", right, kind=kind) | {"gold": "0"}
                verdicts.append(row | {"extracted": str(i + right), "looping": False, "silent": False})
                own = (
                    {"text": f"It is {i + right}."}
                    if kind == "generation"
                    else {"choice_logprobs": [-1.0, -2.0 + 2 * (not right)]}
                )
                rows.append({key: value for key, value in row.items() if key in GENERATIONS.names} | own)
            settings = {"task": task, "benchmark": name, "source": {"path": str(root / f"{task}.jsonl")}}
            shots = {"num_fewshot": 1, "examples": settings["source"]} if kind == "choices" else {}
            settings |= {"protocol": {"limit": None, "protocol": "paper"} | shots}
            generations, scored = root / f"{recipe}.{task}.said.parquet", root / f"{recipe}.{task}.parquet"
            write_rows(generations, GENERATIONS, rows, {"settings": settings})
            write_rows(scored, SAMPLES, verdicts, {"inputs": {"generations": sha256(generations)}})
            entries.append(served(recipe).model_dump() | {"task": task, "seed": 0})
            scores.append(str(scored))
            said.append(str(generations))
    options = ["--scores", *scores, "--generations", *said, "--output", str(root / "samples.html")]
    assert main(["samples", "--settings", json.dumps({"scores": entries}), *options]) == 0
    return root / "samples.html", [*options], entries


def test_the_viewer_holds_prompts_answers_and_likelihoods(viewer):
    html = viewer[0].read_text()
    (found,) = re.findall(r'id="data">(.*?)</script>', html, re.S)
    data = json.loads(found)
    sums, facts = data["groups"]
    assert sums["counts"] == {"lost": 4, "gained": 0, "neither": 0, "both": 4}
    assert {row[1] for row in sums["rows"] if row[0] == "lost"} == {"s1", "s3", "s5", "s7"}
    asked = data["questions"][sums["asked"]]["s1"]
    assert asked["prompt"].startswith("What is 1+1? </script>")
    assert asked["gold"] == "2"
    behind = data["questions"][facts["asked"]]["c1"]
    assert behind["options"] == [" blue", " red"]
    assert behind["prompt"].index("Sky 0?") < behind["prompt"].index(" blue") < behind["prompt"].index("Sky 1?")  # its example
    assert data["baselines"][facts["baseline"]]["c1"]["logprobs"] == [-1.0, -2.0]
    assert next(row[2]["logprobs"] for row in facts["rows"] if row[1] == "c1") == [-1.0, 0.0]


def test_verdicts_on_other_answers_are_refused(viewer, capsys):
    _, options, entries = viewer
    swapped = [option.replace("baseline.sums.said", "rtn-w4a16.sums.said") for option in options]
    assert main(["samples", "--settings", json.dumps({"scores": entries}), *swapped]) == 2
    assert "made from another generations" in capsys.readouterr().err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    assert main(whole_study(root).arguments(root / "tables")) == 0
    drawn = []
    for figure in ("pareto", "layer_error", "linear_error"):
        tables = [f"--{n.replace('_', '-')}={root}/tables/{n}.parquet" for n in catalogue.tables_of(figure)]
        drawn += [str(root / f"{figure}.svg"), str(root / f"{figure}.pdf")]
        assert main(["plot", "--settings", json.dumps({"figure": figure}), *tables, "--output", *drawn[-2:]]) == 0
    options = [
        "--tables",
        str(root / "tables"),
        "--captions",
        str(ROOT / "workflow/report"),
        "--output",
        str(root / "report.html"),
    ]
    settings = json.dumps({"samples": "samples.html"})
    assert main(["report", "--settings", settings, *options, "--figures", *drawn[::2]]) == 0
    return root / "report.html"


def test_the_report_opens_with_the_answer_and_has_its_pages(made):
    html = made.read_text()
    pages = re.findall(r'<section id="page-([^"]+)">', html)
    assert pages[0] == "answer"
    wanted = {"accuracy", "recipe-by-recipe", "collapse-and-length", "samples", "layers", "latency", "checkpoints", "provenance"}
    assert wanted <= set(pages)
    assert html.index('class="answer"') < html.index("<table")
    assert all(name in html for name in HARM)
    assert "Mean squared error of each decoder block" in html  # the caption, of its figure alone
    assert "Points lost against the unquantized model" not in html
    assert html.count('data-svgz="') == html.count("data:application/pdf;base64,") == 3
    assert "<td>emulation</td>" in html
    assert set(re.findall(r"(?:src|href)=\"(?!#|data:)([^\"]*)|url\(|@import", html)) == {"samples.html"}


def visited(file, folder, size, dark, script):
    html = (
        file.read_text()
        .replace("<head>", f"<head><script>{WATCH}</script>")
        .replace("</body>", f"<script>{script}</script></body>")
    )
    (folder / "page.html").write_text(html)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}", "--virtual-time-budget=8000"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    options += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "page.html").as_uri()]
    done = subprocess.run([str(BROWSER), *options], capture_output=True, text=True, timeout=120, check=True)
    (title,) = re.findall(r"<title>VISITED (.*?)</title>", done.stdout)
    return title


# Opens every task and outcome, filters, and leaves in the title what was wrong.
LOOK = """
(async () => {
  const set = (id, value) => { const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event("change"));
    e.dispatchEvent(new Event("input")) };
  const listed = () => document.querySelectorAll("#list button").length;
  set("task", "sums");
  if (listed() !== 4) wrong.push("lost sums: " + listed());
  document.querySelectorAll("#list button")[1].click();
  if (!document.getElementById("shown").innerText.includes("</" + "script>")) wrong.push("the prompt is not as asked");
  set("words", "s7");
  if (listed() !== 1) wrong.push("not filtered");
  set("words", "");
  set("task", "facts");
  if (!document.getElementById("shown").innerText.includes("gold, baseline's most likely")) wrong.push("no likelihoods");
  set("outcome", "gained");
  if (listed() !== 0) wrong.push("gained");
  set("outcome", "both");
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) wrong.push(`${root.scrollWidth} wider than ${root.clientWidth}`);
  document.title = "VISITED " + JSON.stringify(wrong);
})();
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH; apt install chromium")
@pytest.mark.parametrize("size", ["1440,900", "640,800"])
@pytest.mark.parametrize("dark", [False, True])
def test_report_and_viewer_show_whole_in_a_browser(made, viewer, size, dark, tmp_path):
    assert visited(made, tmp_path, size, dark, VISIT) == "[]"
    assert visited(viewer[0], tmp_path, size, dark, LOOK) == "[]"
