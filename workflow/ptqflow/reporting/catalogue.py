"""Which tables are published in which renderings, and which figures draw from which tables. Imports no figure."""

import ast
from pathlib import Path

from ptqflow.errors import ConfigError

TABLES = {
    "answer": ("parquet", "csv", "md", "html"),
    "accuracy": ("parquet", "csv", "md", "tex", "html"),
    "cost": ("parquet", "csv", "md", "tex", "html"),
    "collapse": ("parquet", "csv", "md", "html"),
    "comparison": ("parquet", "csv", "md", "html"),
    "flips": ("parquet", "csv", "md", "html"),
    "layer_error": ("parquet", "csv", "md", "html"),
    "outliers": ("parquet", "csv", "md", "html"),
    "learning": ("parquet", "csv", "md", "html"),
    "latency": ("parquet", "csv", "md", "html"),
    "latency_parts": ("parquet", "csv", "md", "html"),
    "noise": ("parquet", "csv", "md", "html"),
    "rescue": ("parquet", "csv", "md", "html"),
    "sizes": ("parquet", "csv", "md", "html"),
    "verification": ("parquet", "csv", "md", "html"),
    "overlap": ("parquet", "csv", "md", "html"),
    "published": ("parquet", "csv", "md", "html"),
    "selftest": ("parquet", "csv", "md", "html"),
    "provenance": ("parquet", "csv", "md", "html"),
}
_FOLDER = Path(__file__).with_name("figures")
FIGURES = sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


def tables_of(figure: str) -> tuple[str, ...]:
    """The tables that a figure draws from: `TABLES` of its file `figures/<name>.py`, read without its imports.

    Raises ConfigError for an unknown figure.
    """
    if figure not in FIGURES:
        raise ConfigError(f"figure {figure!r} is unknown; use one of {', '.join(FIGURES)}")
    tree = ast.parse((_FOLDER / f"{figure}.py").read_bytes())
    stated = {t.id: s.value for s in tree.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)}
    return tuple(ast.literal_eval(stated["TABLES"]))
