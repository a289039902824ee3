"""Rows in the schemas of the six QA data sets, in our own words, with what is odd in the real ones: where those are not at hand.

Tags and double blanks in HellaSwag, an empty `ctx_b`; ARC's items of three and five options, and digits as labels; WinoGrande's
blank within a word's genitive; LAMBADA's line breaks and quotation marks.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ENDINGS = ["ties the rope to the mast.", "  eats the map [laughs].", "[step] folds the sail and rows home.", "is asleep"]


def _hellaswag(number: int, activity: str, ctx_a: str, ctx_b: str, label: int) -> dict[str, Any]:
    names = {"ind": number, "activity_label": activity, "ctx_a": ctx_a, "ctx_b": ctx_b, "ctx": f"{ctx_a} {ctx_b}".strip()}
    return names | {
        "split": "val",
        "split_type": "indomain",
        "label": str(label),
        "endings": _ENDINGS,
        "source_id": f"planted~{number}",
    }


def _arc(number: int, question: str, options: list[str], labels: str, answer: str) -> dict[str, Any]:
    choices = {"text": options, "label": list(labels)}
    return {"id": f"planted_{number}", "question": question, "choices": choices, "answerKey": answer}


ROWS: dict[str, list[dict[str, Any]]] = {
    "piqa/data/validation": [
        {"goal": "How do I keep a door open?", "sol1": "Put a wedge under it.", "sol2": "Put a wedge over it.", "label": 0},
        {"goal": "To dry a wet book,", "sol1": "stand it in water", "sol2": "stand it in a dry room, pages apart", "label": 1},
        {"goal": "boil an egg ", "sol1": " seven minutes in hot water", "sol2": "seven minutes in hot sand.", "label": 0},
        {"goal": 'Write "seven" in digits:', "sol1": "17", "sol2": "7", "label": 1},
    ],
    "winogrande/data/validation": [
        {"sentence": "Ines lent Fenn the cello because _ had two.", "option1": "Ines", "option2": "Fenn", "answer": "1"},
        {
            "sentence": "Kolbe is colder than Monta, so _'s winter is longer.",
            "option1": "Kolbe",
            "option2": "Monta",
            "answer": "1",
        },
        {"sentence": "The cup did not fit the box, as the _ was small.", "option1": "cup", "option2": "box", "answer": "2"},
        {"sentence": "_ bought honey from Ines.", "option1": "Fenn", "option2": "Ines", "answer": "1"},
    ],
    "ai2_arc/ARC-Easy/test": [
        _arc(0, "Which of these melts in the sun?", ["ice", "iron", "glass", "sand"], "ABCD", "A"),
        _arc(1, "What do plants take from the air?", ["carbon dioxide", "salt", "honey"], "ABC", "A"),
        _arc(2, "How many legs has a spider?", ["six", "seven", "eight", "nine", "ten"], "ABCDE", "C"),
        _arc(3, "Water boils at", ["10 °C.", "100 °C.", "1000 °C."], "123", "2"),
    ],
    "ai2_arc/ARC-Challenge/test": [
        _arc(0, "A stone falls for two seconds. How far?", ["5 m", "10 m", "20 m", "40 m"], "ABCD", "C"),
        _arc(1, "Which is a mixture?\n", ["air", "gold", "water", "salt"], "1234", "1"),
        _arc(2, "Why is the sky blue?", ["It reflects the sea.", "Air scatters blue light most."], "AB", "B"),
    ],
    "hellaswag/data/validation": [
        _hellaswag(0, "Sailing", "A boat leaves the harbour.", "a woman", 0),
        _hellaswag(1, "Home and Garden", "[header] How to fold a sail [title] Dry it. [step] Hang it  up.", "", 2),
        _hellaswag(2, "Rowing", "Two men row. The older one", "stops and", 2),
        _hellaswag(3, "Sleeping", "It is night [substeps] and a child", "", 3),
    ],
    "lambada_openai/data/test": [
        {"text": "Ines asked for honey. There was no more\n\nin the house, so Fenn went out to buy honey"},
        {"text": '"Who plays the cello?" asked Fenn. "I do," said Ines'},
        {"text": "They walked from Kolbe to Monta, and at night they came to Monta's"},
        {"text": "He counted: one, two, three, four, five, six, seven"},
    ],
}
_CARD = """---
configs:
- config_name: ARC-Challenge
  data_files:
  - split: test
    path: ARC-Challenge/test-*
- config_name: ARC-Easy
  data_files:
  - split: test
    path: ARC-Easy/test-*
---
"""


def plant(root: Path) -> Path:
    """Write the rows in the hub's layout; returns `root`."""
    for place, rows in ROWS.items():
        file = root / f"{place}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), file)
    (root / "ai2_arc/README.md").write_text(_CARD)
    return root
