"""A self-contained HTML page: text, tables and figures in one file without any outside link."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape as escape_html
from pathlib import Path
from typing import Self

from matplotlib.figure import Figure

from common.analysis.style import to_png
from common.train.workdir import replace_file

_STYLE = """
:root { color: #1a1a1a; background: #fff; }
body { font: 17px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  max-width: 52rem; margin: 0 auto; padding: 1.5rem 1.1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 0.4rem; padding-top: 0.9rem;
  border-top: 1px solid #e3e3e3; }
p { margin: 0.6rem 0; }
.lead { font-size: 1.2rem; border-left: 4px solid #0072B2; padding: 0.1rem 0 0.1rem 0.9rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
figure { margin: 0; }
img { display: block; width: 100%; min-width: 34rem; height: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 1.1rem 0.35rem 0;
  border-bottom: 1px solid #e3e3e3; }
thead th { border-bottom: 2px solid #8c8c8c; }
tbody th { font-weight: normal; color: #555; }
th[scope] + td { overflow-wrap: anywhere; }
thead + tbody td:not(:last-child) { white-space: nowrap; }
thead + tbody td:last-child { min-width: 12rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: #0072B2; }
pre { font-size: 0.82rem; line-height: 1.4; background: #f6f6f6; padding: 0.9rem;
  overflow-x: auto; }
@media print { body { font-size: 11pt; max-width: none; } img { min-width: 0; }
  figure, table { break-inside: avoid; } h2 { break-after: avoid; } }
"""


class Page:
    """Collects the parts of a page in order; every method returns the page, so that calls chain.

    Text is plain: markup in it is shown as it stands. A number and its % are not torn apart.
    """

    def __init__(self, title: str):
        self._title = title
        self._parts = [f"<h1>{_text(title)}</h1>"]
        self._pictures: dict[str, bytes] = {}

    def lead(self, text: str) -> Self:
        """Adds a paragraph that stands out: what the reader should take away."""
        return self._add(f'<p class="lead">{_text(text)}</p>')

    def section(self, heading: str) -> Self:
        """Begins a section."""
        return self._add(f"<h2>{_text(heading)}</h2>")

    def paragraph(self, text: str) -> Self:
        """Adds a paragraph."""
        return self._add(f"<p>{_text(text)}</p>")

    def figure(self, figure: Figure, name: str, description: str) -> Self:
        """Adds a figure.

        Args:
            figure: rendered now, as PNG.
            name: `write` also puts the picture beside the page as <name>.png.
            description: what a reader who cannot see the picture is told.

        Raises:
            ValueError: the page has a figure of this name.
        """
        return self._add_picture(to_png(figure), name, "png", description)

    def animation(self, gif: bytes, name: str, description: str) -> Self:
        """Adds a moving picture; `write` also puts it beside the page as <name>.gif.

        Args:
            gif: the file's content.
            name: as for `figure`.
            description: what a reader who cannot see it is told.

        Raises:
            ValueError: the page has a figure of this name.
        """
        return self._add_picture(gif, name, "gif", description)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Self:
        """Adds a table."""
        head = "".join(f"<th>{_text(str(cell))}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{_text(str(cell))}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return self._add(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def facts(self, facts: Mapping[str, object]) -> Self:
        """Adds a list of names and values."""
        rows = "".join(
            f'<tr><th scope="row">{_text(name)}</th><td>{_text(str(value))}</td></tr>'
            for name, value in facts.items()
        )
        return self._add(f'<div class="wide"><table><tbody>{rows}</tbody></table></div>')

    def details(self, summary: str, text: str) -> Self:
        """Adds preformatted text that opens on a click."""
        return self._add(
            f"<details><summary>{_text(summary)}</summary><pre>{escape_html(text)}</pre></details>"
        )

    def html(self) -> str:
        """Returns the whole page."""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{_text(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            + "\n".join(self._parts)
            + "\n</body>\n</html>\n"
        )

    def write(self, path: Path) -> Path:
        """Writes the page, whole or not at all, and its pictures beside it; makes the folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, picture in self._pictures.items():
            (path.parent / name).write_bytes(picture)
        replace_file(path, self.html())
        return path

    def _add_picture(self, picture: bytes, name: str, form: str, description: str) -> Self:
        if any(name == file.rpartition(".")[0] for file in self._pictures):
            raise ValueError(f"the page has two figures named {name!r}")
        self._pictures[f"{name}.{form}"] = picture
        source = base64.b64encode(picture).decode("ascii")
        return self._add(
            f'<div class="wide"><figure><img alt="{_text(description)}" '
            f'src="data:image/{form};base64,{source}"></figure></div>'
        )

    def _add(self, html: str) -> Self:
        self._parts.append(html)
        return self


def _text(text: str) -> str:
    """Escapes markup, and ties each number to a following per cent sign."""
    return escape_html(re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text))
