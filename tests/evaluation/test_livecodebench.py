"""LiveCodeBench on planted problems in its schema: gold programs pass, planted wrong ones fail, tests stay out of the answers."""

import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest
from ptqflow.artifacts.schemas import GENERATIONS, SAMPLES
from ptqflow.artifacts.tables import read_table, write_rows
from ptqflow.cli import main
from ptqflow.digest import closure
from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.evaluation.benchmark import load, load_items
from ptqflow.evaluation.sandbox.session import sandbox
from ptqflow.evaluation.scoring.code import Case, block, passes, same_lines
from ptqflow.evaluation.tasks import scoring, task
from ptqflow.jobs import Jobs
from ptqflow.sources import Source

LCB = load("livecodebench")


def packed(tests: list[dict]) -> str:
    """Private tests as the data set packs them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def problem(name: str, tests: list[tuple[str, str]], function: str | None = None, pack: bool = True) -> dict:
    kind = "functional" if function else "stdin"
    cases = [{"input": given, "output": expected, "testtype": kind} for given, expected in tests]
    return {
        "question_title": name,
        "question_content": f"Solve {name}.",
        "platform": "leetcode" if function else "atcoder",
        "question_id": name,
        "contest_id": "abc1",
        "contest_date": "2024-09-01T00:00:00",
        "starter_code": f"class Solution:\n    def {function}(self, n):\n        " if function else "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(cases[:1]),
        "private_test_cases": packed(cases[1:]) if pack else json.dumps(cases[1:]),
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


DOUBLE = problem("double", [("2\n", "4\n"), ("5\n", "10\n"), ("0\n", "0\n")])
PAIRS = problem("pairs", [("3", "[0, 1, 2]"), ("0", "[]")], "upto", pack=False)


@pytest.fixture(scope="module")
def sandboxed() -> str:
    try:
        return sandbox().name
    except ConfigError as error:
        pytest.skip(str(error))


def test_a_problem_is_asked_with_its_starter_code_and_its_tests_stay_behind() -> None:
    stdin, function = LCB.item(DOUBLE, 0), LCB.item(PAIRS, 1)
    asked = stdin.asked("paper", 0).prompt
    assert "Question: Solve double.\n\nRead the inputs from stdin" in asked
    assert asked.endswith("```python\n# YOUR CODE HERE\n```\n\n")
    assert "```python\nclass Solution:\n    def upto(self, n):" in function.asked("paper", 0).prompt
    assert function.asked("aisbench", 0).prompt.startswith("### Question:\nSolve pairs.\n\n### Format: You will use")
    assert stdin.asked("aisbench", 0).prompt.endswith("### Answer: (use the provided format with backticks)\n\n")
    assert len(stdin.gold) == 64
    assert LCB.item(DOUBLE | {"private_test_cases": packed([])}, 0).gold != stdin.gold


def test_a_pickle_that_is_no_text_is_refused_and_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "escaped",))

    row = DOUBLE | {"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ArtifactError, match="where text was expected"):
        load_items("t", "livecodebench", Source(path=str(tmp_path / "a.jsonl")))
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("text", "code", "first"),
    [
        ("```python\na\nb\n```", "a\nb", "a\nb"),
        ("```\nfirst\n```\nor\n```python\nsecond\n```\n", "second", "first"),
        ("```python\nnever ends", "", ""),
        ("no code", "", ""),
    ],
)
def test_the_last_block_counts_and_the_first_for_aisbench(text: str, code: str, first: str) -> None:
    assert (block(text), block(text, 0)) == (code, first)


@pytest.mark.parametrize(
    ("said", "expected", "same"),
    [
        ("4\n", "4", True),
        ("  4  \n\n", "4\n", True),
        ("1 2\n3", "1 2 \n 3", True),
        ("0.50", "0.5", True),
        ("1e3 2", "1000 2.0", True),
        ("50000000000000001", "50000000000000000", False),
        ("0.3000001", "0.3", False),
        ("yes", "YES", False),
        ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("", "", True),
        ("", "0", False),
        ("nan", "nan", True),
        (None, "None", False),
    ],
)
def test_outputs_are_compared_line_by_line_and_as_decimals(said: object, expected: str, same: bool) -> None:
    assert same_lines(said, expected) is same


STDIN = [Case("2\n", "4\n"), Case("5\n", "10\n")]
FUNCTION = [Case("3\n[1, 2]", "[3, [1, 2]]"), Case("4\n[]", "[4, []]")]


@pytest.mark.parametrize(
    ("code", "tests", "function", "right"),
    [
        ("print(int(input()) * 2)", STDIN, None, True),
        ("import sys\nsys.stdout.write(str(int(sys.stdin.readline()) * 2))", STDIN, None, True),
        ("if __name__ == '__main__':\n    print(2 * int(open(0).read()))", STDIN, None, True),
        ("print(2 * int(input())); exit()", STDIN, None, True),
        ("print(heappop([2 * int(input())]))", STDIN, None, True),  # the checker's imports stand before a program
        ("from __future__ import annotations\nprint(int(input()) * 2)", STDIN, None, True),
        ("from __future__ import annotations\ndef f(n: Never, l) -> 'list': return [n, l]", FUNCTION, "f", True),
        ("print(4)", STDIN, None, False),
        ("print(int(input()) * 2 + 1)", STDIN, None, False),
        ("print(int(input()) * 2, 'done')", STDIN, None, False),
        ("print(int(input()) * 2)\nraise ValueError", STDIN, None, False),
        ("print(int(input()) * 2", STDIN, None, False),
        ("", STDIN, None, False),
        ("class Solution:\n    def f(self, n, l): return (n, l)", FUNCTION, "f", True),  # a tuple counts as a list
        ("def f(n, l): return [n, l]", FUNCTION, "f", True),
        ("class Solution:\n    def f(self, n, l): return [n, tuple(l)]", FUNCTION, "f", False),  # one within another does not
        ("class Solution:\n    def f(self, n, l): return [n, l + [0]]", FUNCTION, "f", False),
        ("class Solution:\n    def g(self, n, l): return [n, l]", FUNCTION, "f", False),
        ("class A(list):\n    def __eq__(self, o): return True\ndef f(n, l): return A()", FUNCTION, "f", False),
        ("import builtins\ndef f(n, l):\n    import os; os._exit(0)", FUNCTION, "f", False),
    ],
)
def test_gold_programs_pass_and_planted_wrong_ones_fail(
    code: str, tests: list[Case], function: str | None, right: bool, sandboxed: str
) -> None:
    assert passes(code, tests, function) is right


def test_expected_outputs_are_not_in_the_memory_of_the_program(sandboxed: str) -> None:
    seek = (
        "import gc\nkey = ''.join(map(chr, [115, 119, 111, 114, 100]))\n"
        "held = [o for o in gc.get_objects() if type(o) in (list, tuple, dict)]\n"
        "texts = [t for o in held for t in (o.values() if type(o) is dict else o) if type(t) is str]\n"
        "print(*(t for t in texts if t.startswith(key)), end='')"
    )
    assert not passes(seek, [Case("", "swordfish")], None)
    assert passes("print('swordfish')", [Case("", "swordfish")], None)


def test_stages_judge_by_the_data_sets_rows_and_refuse_changed_ones(tmp_path: Path, sandboxed: str) -> None:
    data = tmp_path / "test4.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in (DOUBLE, PAIRS)))
    source = {"path": str(tmp_path), "file": "test[45].jsonl"}
    said = {
        "double": ["so</think>```python\nprint(2 * int(input()))\n```", "so</think>```python\nprint(4)\n```"],
        "pairs": ["so</think>```python\nclass Solution:\n    def upto(self, n): return list(range(n))\n```", "no code"],
    }
    rows = [
        {"task": "lcb", "kind": "generation", "item": item.id, "seed": 0, "completion": number, "prompt_sha256": "0",
         "prompt_tokens": 1, "completion_tokens": 1, "finish_reason": "stop", "thinking": True,
         "seconds": 1.0, "tokens": [1], "text": text, "gold": item.gold}
        for item in load_items("lcb", "livecodebench", Source(**source), 2) for number, text in enumerate(said[item.id])
    ]  # fmt: skip
    generations, samples = tmp_path / "generations.parquet", tmp_path / "samples.parquet"
    write_rows(generations, GENERATIONS, rows[::-1], {"settings": {"benchmark": "livecodebench"}})

    def scored(**changes: object) -> int:
        settings = {"benchmark": "livecodebench", "source": source} | changes
        asked = ["--settings", json.dumps(settings), "--generations", str(generations), "--output", str(samples)]
        return main(["score", *asked])

    assert scored() == 0
    verdicts = read_table(samples, SAMPLES).to_pylist()
    assert [(row["item"], row["completion"], row["correct"]) for row in verdicts] == [
        ("double", 0, True), ("double", 1, False), ("pairs", 0, True), ("pairs", 1, False)
    ]  # fmt: skip
    assert scored(source=None) == 2
    data.write_text(json.dumps(DOUBLE | {"private_test_cases": packed([])}) + "\n" + json.dumps(PAIRS) + "\n")
    assert scored() == 2
    data.write_text(json.dumps(PAIRS) + "\n")
    assert scored() == 2


def test_only_a_task_of_code_depends_on_the_sandbox_and_on_the_rows() -> None:
    def reached(name: str) -> set[str]:
        modules = scoring(task({"benchmark": name, "source": {"path": "x"}}))
        return set(closure("ptqflow.stages.score", *(f"ptqflow.{module}" for module in modules)))

    sandboxes = {f"ptqflow.evaluation.sandbox.{name}" for name in ("inside", "runtimes", "session")}
    assert sandboxes <= reached("livecodebench")
    assert not sandboxes & reached("gsm8k")
    assert hasattr(Jobs, "score_source")
