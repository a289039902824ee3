"""A hook of MkDocs (`mkdocs.yml`): pages of the repository that lie outside `docs/`, and links between them and the others.

On the site README.md is `index.md`, a file of `docs/` lies at the top, and the pages below keep their paths.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "config/README.md"),
    *("resources/demo-model/README.md",),
)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside `docs/`."""
    for path in OUTSIDE:
        text = re.sub(r"\A---\n.*?\n---\n", "", (ROOT / path).read_text(), flags=re.S)  # a model card's metadata
        files.append(File.generated(config, _on_site(path) or path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site has them: to a page, to a picture, or, of another file of the repository, its path alone."""
    uri = page.file.src_uri
    source = "README.md" if uri == "index.md" else uri if uri in OUTSIDE else f"docs/{uri}"

    def moved(link: re.Match[str]) -> str:
        picture, text, target, anchor = link.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            raise PluginError(f"{source} links to {target}, which is not there")
        place = _on_site(path)
        if place is None:
            return f"{text} (`{path}`)"
        return f"{picture}[{text}]({os.path.relpath(place, posixpath.dirname(uri) or '.')}{anchor or ''})"

    return _LINK.sub(moved, markdown)


def _on_site(path: str) -> str | None:
    """Where a file of the repository lies on the site; None where it does not."""
    if path == "README.md":
        return "index.md"
    if path in OUTSIDE:
        return path
    return path.removeprefix("docs/") if path.startswith("docs/") else None
