"""Grids of text as Markdown, LaTeX and HTML, and tables as CSV."""

import html as _html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.csv


class Bold(str):
    """Text that stands out in every rendering."""

    __slots__ = ()


@dataclass(frozen=True)
class TextTable:
    """A table as printed. The first `names` columns are names (left-aligned), the others numbers (right-aligned).

    `notes` go below it: how to read it, and what is missing.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    notes: Sequence[str] = field(default_factory=tuple)


def number(value: float | None, digits: int) -> str:
    """Fixed digits, a true minus sign, six significant digits from 100 000 on; an en dash for nothing."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.3g}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def asked(bound: float, digits: int) -> str:
    """A bound as the user wrote it: of so many digits, or of as many as it has."""
    return number(bound, digits) if round(bound, digits) == bound else f"{bound:g}"


def speed(value: float | None) -> str:
    """Tokens per second: whole from ten on."""
    return number(value, 0 if value is None or value >= 10 else 2)


def markdown(grids: Sequence[TextTable]) -> str:
    """Pipe tables, padded so that they also read well as plain text."""
    return "\n".join(_markdown(grid) for grid in grids)


def _markdown(grid: TextTable) -> str:
    def cell(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace("|", "\\|")
        return f"**{escaped}**" if isinstance(text, Bold) else escaped

    lines = [[cell(text) for text in row] for row in [grid.header, *grid.rows]]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(grid.header))]

    def joined(line: Sequence[str]) -> str:
        padded = [t.ljust(w) if i < grid.names else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < grid.names else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    table = [joined(lines[0]), joined(rule), *(joined(line) for line in lines[1:])]
    notes = [f"- {note}" for note in grid.notes]
    return "\n".join([f"## {grid.title}", "", *table, *(["", *notes] if notes else [])]) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--", "±": r"$\pm$", "≤": r"$\le$", "≥": r"$\ge$",
    "<": "$<$", ">": "$>$", "×": r"$\times$",
}  # fmt: skip


def latex(grids: Sequence[TextTable]) -> str:
    """One `tabular` (booktabs) per grid, its notes below; needs \\usepackage{booktabs}."""
    return "\n".join(_latex(grid) for grid in grids)


def _latex(grid: TextTable) -> str:
    def cell(text: str) -> str:
        escaped = "".join(_LATEX.get(character, character) for character in text)
        return rf"\textbf{{{escaped}}}" if isinstance(text, Bold) else escaped

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell(text) for text in cells) + r" \\"

    columns = "l" * grid.names + "r" * (len(grid.header) - grid.names)
    body = [line(grid.header), r"\midrule", *(line(row) for row in grid.rows)]
    table = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
    notes = [rf"\par\smallskip {cell(note)}" for note in grid.notes]
    return "\n".join([f"% {grid.title}", *table, *notes]) + "\n"


_STYLE = """
body { font: 14px/1.45 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; margin: 1.5rem;
  color: #1b1f24; background: #fff }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d9dee4; white-space: nowrap; text-align: right }
th { border-bottom: 2px solid #57606a; vertical-align: bottom }
.name { text-align: left }
.long { white-space: normal; text-align: left; min-width: 16rem }
tbody tr:hover { background: #f3f6f9 }
ul { color: #57606a; padding-left: 1.2rem; max-width: 60rem }
"""


_LONG = 60  # characters of a cell from which on those of its column break into lines


def html(grids: Sequence[TextTable]) -> str:
    """A self-contained page, titled as its first grid: no script, no font or style from elsewhere."""
    body = "\n".join(html_grid(grid) for grid in grids)
    head = f'<meta charset="utf-8"><title>{_html.escape(grids[0].title)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def html_grid(grid: TextTable) -> str:
    """A table as part of a page, its title above and its notes below."""

    long = {i for row in grid.rows for i, text in enumerate(row) if len(text) > _LONG}

    def cell(tag: str, i: int, text: str) -> str:
        escaped = _html.escape(text)
        inner = f"<b>{escaped}</b>" if isinstance(text, Bold) else escaped
        kinds = [*(["name"] if i < grid.names else []), *(["long"] if i in long else [])]
        return f'<{tag} class="{" ".join(kinds)}">{inner}</{tag}>' if kinds else f"<{tag}>{inner}</{tag}>"

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(cell(tag, i, text) for i, text in enumerate(cells)) + "</tr>"

    rows = "\n".join(line("td", row) for row in grid.rows)
    notes = "".join(f"<li>{_html.escape(note)}</li>" for note in grid.notes)
    table = f"<table>\n<thead>{line('th', grid.header)}</thead>\n<tbody>\n{rows}\n</tbody></table>"
    return f'<h2>{_html.escape(grid.title)}</h2>\n<div class="wide">{table}</div>\n<ul>{notes}</ul>'


def csv(table: pa.Table) -> str:
    """All columns at full precision; nulls are empty."""
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer, pyarrow.csv.WriteOptions(quoting_style="needed"))
    return buffer.getvalue().decode()


GRIDS = {"md": markdown, "tex": latex, "html": html}
