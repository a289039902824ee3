"""The report: one self-contained HTML file, the answer first, every table and figure behind it; opens offline, dark or light."""

import base64
import gzip
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ptqflow.reporting.answer import Row
from ptqflow.reporting.answer_text import Said, printed, said
from ptqflow.reporting.page_parts import FIGURES, SECTIONS, TABLES, document
from ptqflow.reporting.render import TextTable, html_grid

ANSWER = "Answer"


@dataclass(frozen=True)
class Figure:
    """A picture with its caption in HTML; `pdf`, for print, is offered beside the SVG."""

    name: str
    svg: bytes
    caption: str = ""
    pdf: bytes | None = None


@dataclass
class Page:
    """What is under one title: a line of HTML that leads in, figures, and tables, each kind of them with its caption."""

    lead: str = ""
    figures: list[Figure] = field(default_factory=list)
    tables: list[tuple[str, Sequence[TextTable]]] = field(default_factory=list)


def page(answers: Sequence[Row], others: Mapping[str, Page]) -> str:
    """The report: the answer, then a page for each of `others` by its title, in their order; tables sort and filter.

    What `others` has under the answer's own title stands below the answer.
    """
    # The answer's table comes before its figures, since it belongs to the sentences; elsewhere the picture comes first.
    first = Page(lead="".join(map(_said, said(answers))), tables=[("", printed(answers, sentences=False))])
    pages = {ANSWER: _content(first) + _content(others.get(ANSWER, Page()))}
    pages |= {title: _content(content) for title, content in others.items() if title != ANSWER}
    names = {title: "-".join(title.lower().replace("×", "by").split()) for title in pages}
    links = "".join(f'<a href="#{names[title]}">{html.escape(title)}</a>' for title in pages)
    body = "\n".join(f'<section id="page-{names[title]}">{content}</section>' for title, content in pages.items())
    return document("What to deploy", f"<nav>{links}</nav>\n{body}", script=SECTIONS + TABLES + FIGURES)


def _content(content: Page) -> str:
    field = '<input type="search" placeholder="Filter rows" aria-label="Filter rows">' if content.tables else ""
    tables = "\n".join(_captioned(caption) + "\n".join(map(grid, grids)) for caption, grids in content.tables)
    figures = "\n".join(map(_figure, content.figures))
    return "\n".join([content.lead, figures, field, tables])


def _captioned(caption: str) -> str:
    return f"<details><summary>How to read this</summary>{caption}</details>" if caption else ""


def grid(table: TextTable) -> str:
    """A table; names that all its rows share go into its title, so that the numbers fit beside what differs."""
    shared = [i for i in range(table.names - 1) if len(table.rows) > 1 and len({row[i] for row in table.rows}) == 1]
    if not shared:
        return html_grid(table)
    kept = [i for i in range(len(table.header)) if i not in shared]
    title = ", ".join(
        [table.title, *(f"{table.header[i].lower()} {table.rows[0][i]}" for i in shared if table.rows[0][i] != "–")]
    )
    rows = [[row[i] for i in kept] for row in table.rows]
    return html_grid(
        replace(table, title=title, header=[table.header[i] for i in kept], rows=rows, names=table.names - len(shared))
    )


def _figure(figure: Figure) -> str:
    def text(content: bytes) -> str:
        return base64.b64encode(content).decode()

    # As a picture, not as elements: ids within two SVG would be one another's. Packed: a deep model's are megabytes of axes.
    picture = text(gzip.compress(figure.svg, mtime=0))
    copied = "this.href = this.closest('figure').querySelector('img').src"
    save = f'<a download="{figure.name}.svg" onclick="{copied}" href="#">SVG</a>'
    if figure.pdf is not None:
        save += f' <a download="{figure.name}.pdf" href="data:application/pdf;base64,{text(figure.pdf)}">PDF</a>'
    shown = f'<img alt="{figure.name}" data-svgz="{picture}">'
    return f"<figure>{shown}<figcaption>{figure.caption}<p>Save as {save}</p></figcaption></figure>"


def _said(answer: Said) -> str:
    lines = [
        f"<h2>{html.escape(answer.place)}</h2><strong>{html.escape(answer.recommendation)}</strong>",
        *(f"<p>{html.escape(remark)}</p>" for remark in answer.remarks),
        *([f"<p>Serve it: <code>{html.escape(answer.serve)}</code></p>"] if answer.serve else []),
    ]
    return f'<div class="answer">{"".join(lines)}</div>'
