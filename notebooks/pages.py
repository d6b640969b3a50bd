"""Makes a static site of the executed lessons and the pages for teaching: `python notebooks/pages.py [--out DIR]`.

nbconvert turns notebooks into HTML; the frame around it is ours, because nbconvert's own asks the network for MathJax,
require.js and mermaid. The result opens from disk: no script, no font, no picture from elsewhere; light and dark.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import nbformat
import typer
from handouts import glossary_terms, handout_of, page_of, sheet_of, terms_by_lesson

from adamix_lab.core.files import write_text

HERE = Path(__file__).resolve().parent
TEACHING = HERE.parent / "docs" / "teaching"
WIDGET = "application/vnd.jupyter.widget-view+json"
TEX = re.compile(r"\$\$.+?\$\$|(?<![\\$\w])\$[^$\n]*\\[a-z]+[^$\n]*\$", re.S)
INDEX = """<h1>AdaMix Lab</h1>
<p>Lessons on mixtures of adaptations, as they ran. To move their controls, open them in JupyterLab: \
<code>python bootstrap.py run -m adamix_lab lab</code>.</p>
"""
MISSING = "*In JupyterLab a control stands here. A picture of it in its first state follows.*"

PAGE, STYLE = ((HERE / "site" / name).read_text(encoding="utf-8") for name in ("page.html", "page.css"))


def lesson(path: Path) -> tuple[str, str]:
    """(title, HTML) of an executed notebook. Raises ValueError for TeX, which would need a script to be read."""
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and TEX.search(cell.source):
            raise ValueError(f"{path.name} holds TeX ({TEX.search(cell.source)[0][:40]!r}): write it in Unicode.")  # type: ignore[index]
        cell.outputs = [_still(output) for output in cell.get("outputs", [])] if cell.cell_type == "code" else []
        if cell.cell_type != "code":
            del cell["outputs"]
    exporter = HTMLExporter(template_name="basic", mathjax_url="", require_js_url="", embed_images=True)
    body, _ = exporter.from_notebook_node(notebook)
    return _title(notebook.cells[0].source), body


def _still(output: Any) -> Any:
    """The output, or words in the place of a control."""
    if WIDGET not in output.get("data", {}):
        return output
    return nbformat.v4.new_output("display_data", {"text/markdown": MISSING})


def page(path: Path) -> tuple[str, str]:
    """(title, HTML) of a Markdown page."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    text = path.read_text(encoding="utf-8")
    return _title(text), markdown2html_mistune(text)


def _title(text: str) -> str:
    found = re.search(r"^# (.+)$", text, re.M)
    return found[1].strip() if found else "Untitled"


def relink(body: str, names: set[str]) -> str:
    """Links to notebooks and Markdown pages go to their pages here; links to the project's other files are left out."""

    def one(match: re.Match[str]) -> str:
        target, _, anchor = html.unescape(match[1]).partition("#")
        if not target or target.startswith(("http:", "https:", "mailto:", "print/")):
            return match[0]
        stem = Path(target).stem
        if stem in names and Path(target).suffix in (".ipynb", ".md", ".html"):
            return f'href="{stem}.html{"#" + anchor if anchor else ""}"'
        return ""

    return re.sub(r'href="([^"]*)"', one, body)


def style() -> str:
    """The style sheet: ours, and Pygments' for code in light and dark."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    clear = ".highlight { background: transparent !important; }\n"
    return f"{STYLE}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{clear}"


def handouts(out: Path) -> dict[str, str]:
    """Writes a printable page a lesson under `print/`; `{lesson: address}`."""
    read = {path.stem: nbformat.read(path, as_version=4).cells for path in sorted(HERE.glob("[0-9][0-9]_*.ipynb"))}
    texts = {name: "\n".join(c.source for c in cells if c.cell_type == "markdown") for name, cells in read.items()}
    terms = terms_by_lesson(texts, glossary_terms((TEACHING / "glossary.md").read_text(encoding="utf-8")))
    sheets = (TEACHING / "sheets.md").read_text(encoding="utf-8")
    made = {}
    for name, cells in read.items():
        made[name] = f"print/{name}.html"
        write_text(out / made[name], page_of(name, handout_of(cells, sheet_of(sheets, name[:2]), terms[name])))
    return made


def _listed(heading: str, links: dict[str, str], words: str = "") -> str:
    # links: titles by address
    items = "".join(f'<li><a href="{address}">{html.escape(title)}</a></li>' for address, title in links.items())
    return f"<h2>{heading}</h2>\n{words}<ul>{items}</ul>\n"


def build(out: Path) -> list[Path]:
    """Writes the site and returns its pages, the index first, the hand-outs last."""
    made = {path.stem: lesson(path) for path in sorted(HERE.glob("[0-9][0-9]_*.ipynb"))}
    lessons = list(made)
    made |= {path.stem: page(path) for path in sorted(TEACHING.glob("*.md"))}
    titles, printed = {name: title for name, (title, _) in made.items()}, handouts(out)
    body = INDEX + _listed("Lessons", {f"{name}.html": titles[name] for name in lessons})
    body += _listed("For teaching", {f"{name}.html": title for name, title in titles.items() if name not in lessons})
    by_address = {address: titles[name] for name, address in printed.items()}
    body += _listed("To print", by_address, "<p>A page a lesson, A4 or Letter.</p>\n")
    made = {"index": ("Contents", body), **made}
    write_text(out / "site.css", style())
    written = []
    for name, (title, text) in made.items():
        shown = ["index", *lessons]
        nav = " ".join(
            f'<a href="{n}.html"{" aria-current=page" if n == name else ""}>'
            f"{html.escape(made[n][0] if n == 'index' else n.replace('_', ' '))}</a>"
            for n in shown
        )
        written.append(out / f"{name}.html")
        text = relink(text, set(made))
        write_text(written[-1], PAGE.format(title=html.escape(title), nav=nav, body=text))
    return [*written, *(out / address for address in printed.values())]


def main(out: Path = HERE.parent / "runs" / "site") -> None:
    """Makes a static site of the executed lessons and the pages for teaching."""
    pages = build(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB: open {pages[0]}")


if __name__ == "__main__":
    typer.run(main)
