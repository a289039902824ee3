"""LiveCodeBench (livecodebench/code_generation_lite): problems of contests; a program, or a function, must pass all hidden tests.

Published scores of quantized reasoning models are of the window v4_v5, `file: "test[45].jsonl"`: 268 problems.
"""

import base64
import hashlib
import io
import json
import pickle
import zlib
from functools import partial
from typing import Any

from ptqflow.evaluation.answers import after_thinking
from ptqflow.evaluation.items import Benchmark, GenerationItem, Row
from ptqflow.evaluation.scoring.code import Case, block, passes
from ptqflow.evaluation.scoring.generation import Metric, extracted
from ptqflow.evaluation.scoring.verdict import NOT_FINITE, Verdict

_STARTER = "You will use the following starter code to write the solution to the problem and enclose your code within delimiters."
_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample inputs). "
    "Enclose your code within delimiters as follows."
)


def item(row: Row, index: int) -> GenerationItem:
    """The question with its starter code; gold is the digest of the tests, which are too large to travel with each answer."""
    starter = row.get("starter_code") or ""
    form, fenced = (_STARTER if starter else _STDIN), f"```python\n{starter or '# YOUR CODE HERE'}\n```\n\n"
    prompts = {
        "paper": "You will be given a question (problem specification) and will generate a correct Python program that matches "
        f"the specification and passes all tests.\n\nQuestion: {{problem}}\n\n{form}{fenced}",
        "aisbench": f"### Question:\n{{problem}}\n\n### Format: {form}\n{fenced}"
        "### Answer: (use the provided format with backticks)\n\n",
    }
    tests = json.dumps([[test.given, test.expected] for test in _tests(row)])
    return GenerationItem(str(row["question_id"]), row["question_content"], hashlib.sha256(tests.encode()).hexdigest(), prompts)


def score(row: Row, metric: Metric) -> Verdict:
    """Whether the last block of code (AISBench: the first) passes the tests of the data set's row, which is under `data`."""
    if row["finish_reason"] == "not_finite":
        return NOT_FINITE
    code = extracted(row, metric, _code, partial(block, first=0)) or ""
    function = json.loads(row["data"].get("metadata") or "{}").get("func_name")
    return Verdict(code or None, passes(code, _tests(row["data"]), function))


def _code(text: str, *, thinking: bool, truncated: bool, legacy: bool) -> str:
    """The last block of what is said; a block that was cut off has no end."""
    return block((text if legacy else after_thinking(text, thinking)) or "")


class _TextOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"private_test_cases holds a {module}.{name}, where text was expected")


def _tests(row: Row) -> list[Case]:
    """The public tests, then the private ones: JSON, or JSON packed as the data set packs it."""
    private = row["private_test_cases"]
    try:
        hidden = json.loads(private)
    except ValueError:
        hidden = json.loads(_TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(private)))).load())
    tests = [Case(test["input"], test["output"]) for test in [*json.loads(row["public_test_cases"]), *hidden]]
    if not tests:
        raise ValueError("it has no tests")
    return tests


BENCHMARK = Benchmark("generation", judged_by_rows=True, published=268)
