"""A report as blocks, and two ways to write it down: Markdown with picture files, one HTML file with all in it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adamix_lab.analysis.plots import Picture, save_figure
from adamix_lab.core.files import write_text


@dataclass(frozen=True)
class Heading:
    """A heading of a level from 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of lines."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table: heads, rows of as many cells, and what it shows."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True)
class Image:
    """A picture, and the name of its file."""

    picture: Picture
    name: str


Block = Heading | Paragraph | Bullets | Grid | Image

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; display: block; overflow-x: auto }
caption { text-align: left; font-weight: 600; padding: 0.3rem 0 }
th, td { border: 1px solid #999; padding: 0.25rem 0.5rem; text-align: left; vertical-align: top }
th { background: #eee }
img { max-width: 100%; height: auto }
"""


def write_report(blocks: Sequence[Block], folder: Path, title: str) -> tuple[Path, Path]:
    """Writes report.md with its pictures, and report.html; returns both paths."""
    for block in blocks:
        if isinstance(block, Image):
            save_figure(block.picture.figure, folder / block.name, block.picture.alt)
    text = "\n\n".join(markdown(block) for block in blocks)
    write_text(folder / "report.md", f"# {title}\n\n{text}\n")
    body = "\n".join(to_html(block) for block in blocks)
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n<h1>{html.escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )
    write_text(folder / "report.html", page)
    return folder / "report.md", folder / "report.html"


def markdown(block: Block) -> str:
    """A block in Markdown."""
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Bullets(lines):
            return "\n".join(f"- {line}" for line in lines)
        case Grid(heads, rows, caption):
            every: list[Sequence[str]] = [heads, ["---"] * len(heads), *rows]
            table = "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in every)
            return f"{caption}\n\n{table}"
        case Image(picture, name):
            return f"![{picture.alt.replace('[', '(').replace(']', ')')}]({name})"


def _cell(text: str) -> str:
    """Text in a Markdown table: neither a new cell nor markup."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def to_html(block: Block) -> str:
    """A block in HTML; whatever stands in results is text, never markup."""
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(lines):
            return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
        case Grid(heads, rows, caption):
            head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in heads)
            body = "".join(_row(row) for row in rows)
            caption = f"<caption>{html.escape(caption)}</caption>"
            return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        case Image(picture, _):
            return f"<figure>{picture._repr_mimebundle_()[0]['text/html']}</figure>"


def _row(cells: Sequence[str]) -> str:
    first = f'<th scope="row">{html.escape(cells[0])}</th>'
    return "<tr>" + first + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[1:]) + "</tr>"
