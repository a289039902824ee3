"""Tasks that agreement and speed are measured on: the repository's, and those whose rows lie below PTQFLOW_DATA."""

from pathlib import Path

from ptqflow.sources import Source

RESOURCES = Path(__file__).resolve().parents[2] / "resources"
# By name: our benchmark, folder (the repository's, or below that of the data sets), subset and split.
TASKS: dict[str, tuple[str, str, str | None, str]] = {
    "arithmetic": ("problems", str(RESOURCES / "tasks/arithmetic"), None, "test"),
    "facts": ("choices", str(RESOURCES / "tasks/facts"), None, "test"),
    "hellaswag": ("hellaswag", "hellaswag", None, "validation"),
    "arc-easy": ("arc", "ai2_arc", "ARC-Easy", "test"),
    "arc-challenge": ("arc", "ai2_arc", "ARC-Challenge", "test"),
    "piqa": ("piqa", "piqa", None, "validation"),
    "winogrande": ("winogrande", "winogrande", None, "validation"),
    "lambada": ("lambada", "lambada_openai", None, "test"),
    "gsm8k": ("gsm8k", "gsm8k", "main", "test"),
    "math-500": ("math-500", "MATH-500", None, "test"),
    "aime-90": ("aime", "AIME90", None, "train"),
    "aime-2024": ("aime", "aime_2024", None, "train"),
    "aime-2025": ("aime", "aime_2025", None, "train"),
}


def rows(name: str, root: Path) -> tuple[str, Source] | None:
    """Benchmark and source of a task; None where its rows are not below `root`."""
    kind, folder, subset, split = TASKS[name]
    return (kind, Source(path=str(root / folder), subset=subset, split=split)) if (root / folder).is_dir() else None
