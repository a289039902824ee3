"""Items that stand in a calibration set are found, whatever their layout there, and others are not."""

import json
from pathlib import Path

import pytest
from ptqflow.artifacts.evidence_schemas import OVERLAP
from ptqflow.artifacts.schemas import TOKENS
from ptqflow.artifacts.tables import read_table, to_table, write_rows
from ptqflow.cli import main
from ptqflow.evaluation.items import ChoiceItem, GenerationItem, TextItem
from ptqflow.evaluation.overlap import Overlap, overlaps
from ptqflow.reporting import overlap
from ptqflow.reporting.overlap import Pair

LONG = "A train leaves the station at nine and another at ten; when do both of them meet on the way?"
OTHER = "How many ways are there to colour the faces of a cube with six colours so that all of them differ?"
MIDDLE = "Find the sum of all primes below one hundred."
SHORT = "What is 1 + 1?"
ITEMS = [GenerationItem(str(number), text, "1") for number, text in enumerate((LONG, OTHER, MIDDLE, SHORT))]


def seen(*rows: dict) -> list[bool]:
    return [found.seen for found in overlaps(ITEMS, rows)]


def test_items_are_found_in_every_column_and_spelling() -> None:
    assert seen({"prompt": LONG.upper(), "completion": "x"}) == [True, False, False, False]
    assert seen({"messages": [{"role": "user", "content": f"Solve: {OTHER}\n\nThink."}]}) == [False, True, False, False]
    assert seen({"text": f"x {MIDDLE} {SHORT}"}) == [False, False, True, False]  # a short one may be there by chance
    assert seen({"text": LONG.replace("ten", "eleven")}) == [False] * 4  # every 13-gram holds that word


def test_half_of_an_item_is_enough_and_less_is_not() -> None:
    words = LONG.split()
    assert overlaps(ITEMS[:1], [{"text": " ".join(words[:16])}]) == [Overlap("0", 8, 4)]
    assert overlaps(ITEMS[:1], [{"text": " ".join(words[:16])}])[0].seen
    assert not overlaps(ITEMS[:1], [{"text": " ".join(words[:15])}])[0].seen
    assert not overlaps(ITEMS[:1], [{"text": " ".join(words[:7])}, {"text": " ".join(words[7:])}])[0].seen  # not over two texts


def test_choices_and_text_are_compared_with_all_that_they_show() -> None:
    items = [ChoiceItem("c", (LONG,), (" a", " b"), 0), TextItem("t", OTHER)]
    assert [found.seen for found in overlaps(items, [{"text": LONG + " a b"}, {"text": OTHER}])] == [True, True]


@pytest.mark.parametrize(("ids", "drawn"), [(("r0", "r1"), "r1"), ((None, None), "1")])
def test_the_stage_reads_the_rows_that_were_drawn_and_no_others(tmp_path: Path, ids: tuple[str | None], drawn: str) -> None:
    calibration, task, tokens = tmp_path / "c.jsonl", tmp_path / "t.jsonl", tmp_path / "tokens.parquet"
    calibration.write_text(
        "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in zip(ids, (LONG, OTHER), strict=True))
    )
    task.write_text("".join(json.dumps({"id": n, "question": i.problem, "answer": "1"}) + "\n" for n, i in enumerate(ITEMS)))
    write_rows(tokens, TOKENS, [{"sequence": 0, "tokens": [1], "source": "c", "rows": [drawn], "offset": 0}], {})
    settings = {
        "calibration": {"path": str(calibration)},
        "task": "t",
        "benchmark": "problems",
        "source": {"path": str(task)},
        "limit": 3,
    }
    asked = ["overlap", "--settings", json.dumps(settings), "--tokens", str(tokens), "--output", str(tmp_path / "o.parquet")]
    assert main(asked) == 0
    rows = read_table(tmp_path / "o.parquet", OVERLAP).to_pylist()
    assert [(row["item"], row["seen"]) for row in rows] == [("0", False), ("1", True), ("2", False)]


def test_scores_of_recipes_that_saw_the_items_are_marked_and_no_others() -> None:
    def table(share: int) -> object:
        return to_table(
            OVERLAP, [{"item": str(n), "ngrams": 5 if n else 0, "found": 5, "seen": 0 < n <= share} for n in range(201)]
        )

    files = [
        (Pair(model="m", calibration="leak", task=task, recipes=("r",)), table(share)) for task, share in (("a", 5), ("b", 2))
    ]
    scores = [{"model": "m", "recipe": r, "task": t, "note": None} for r in ("baseline", "r", "other") for t in ("a", "b")]
    scores[2]["note"] = "odd"
    overlap.mark(scores, overlap.touched(files))
    noted = {(row["recipe"], row["task"]): row["note"] for row in scores if row["note"]}
    assert noted == {("r", "a"): "odd; 5 of 200 items stand in its calibration set leak"}
    rows = overlap.build(files)
    assert [(row["items"], row["judged"], row["seen"], row["marked"]) for row in rows] == [
        (201, 200, 5, True),
        (201, 200, 2, False),
    ]
    assert overlap.printed(rows).rows[0] == ["m", "leak", "a", "201", "200", "5", "2.5"]
