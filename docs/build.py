"""Makes the site: `python docs/build.py [--out DIR]`, by Sphinx: lessons as they ran, guides, the API, results, search.

The pages are copied to a folder of their own first, laid out as in the project so that links between them hold, and
lessons lose their controls, which need a kernel. The site opens from disk and asks nothing of the network.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import typer

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from handouts import glossary_terms, handout_of, page_of, sheet_of, terms_by_lesson  # noqa: E402

import adamix_lab  # noqa: E402
from adamix_lab.core.files import write_text  # noqa: E402

TEACHING = ROOT / "docs" / "teaching"
WIDGET = "application/vnd.jupyter.widget-view+json"
TEX = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$((?:[^$\n]|\n(?!\n))+?)\$(?![$\w])", re.S)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.S)
MISSING = "*In JupyterLab a control stands here. A picture of it in its first state follows.*"
PAGES = (
    "docs/*.md",
    "docs/teaching/*.md",
    "docs/pictures/*.png",
    "docs/static/*",
    "data/**/README.md",
    "data/results/**/report/*",
)
TOP = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")

# The names of the API by what they are for; a test holds that every public name is among them.
API = {
    "Models and tasks": "load_backbone load_task few_shot Task",
    "Mixtures": "attach detach MixtureModel Adaptation Weight Bottleneck LoRA IA3 Bias",
    "Routes": "Router RouteSpace routed_logits",
    "Training": "train Recipe preset baseline Objective Consistency",
    "Merging": "merge merge_products merge_gap fold",
    "Looking": "evaluate predict parameter_report structure load_twin",
    "In and out": "save load export import_authors import_peft from_pretrained push_to_hub",
    "Errors": "LabError",
}
EXAMPLES = """In the examples `model` and `tokenizer` are a classifier of three classes; `task` and `batch` its rows,
`mixture` holds four bottlenecks a layer (`attach(model, Bottleneck(4), experts=4, share="up")`), `folder` is empty."""
INDEX = (ROOT / "docs" / "index.txt").read_text(encoding="utf-8")


def collect(to: Path) -> None:
    """Copies the pages and the lessons, and writes the index and the API's page."""
    shutil.rmtree(to, ignore_errors=True)
    there = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern)) if path.is_file()]
    there += [ROOT / name for name in TOP]
    lessons = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    kept = {path.resolve() for path in (*there, *lessons)} | {ROOT / "README.md"}
    for path in there:
        if path.suffix == ".md":
            write_text(to / path.relative_to(ROOT), linked(path.read_text(encoding="utf-8"), path.parent, kept))
        else:
            (to / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to / path.relative_to(ROOT))
    for path in lessons:
        write_text(to / path.relative_to(ROOT), nbformat.writes(lesson(path)))
    write_text(to / "docs" / "api.md", api_page())
    write_text(to / "print.md", print_page([path.stem for path in lessons]))
    write_text(to / "index.md", index_page(there, lessons))
    shutil.copy(ROOT / "docs" / "conf.py", to / "conf.py")


def linked(text: str, folder: Path, kept: set[Path]) -> str:
    """The text with links among the pages as they are; of a link to another file of the project only its words."""

    def one(match: re.Match[str]) -> str:
        target = match[3].partition("#")[0]
        if (folder / target).resolve() == ROOT / "README.md":
            return match[0].replace("README.md", "index.md")
        if not target or re.match(r"[a-z]+:", target) or (folder / target).resolve() in kept:
            return match[0]
        return "" if match[1] else match[2]

    return LINK.sub(one, text)


def lesson(path: Path) -> Any:
    """An executed notebook with words in the place of its controls, and MathML, which needs no script, in that of TeX.

    Raises ValueError for TeX that cannot be read.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts = CODE.split(cell.source)
            cell.source = "".join(part if n % 2 else TEX.sub(mathml, part) for n, part in enumerate(parts))
        if cell.cell_type == "code":
            cell.outputs = [_still(output) for output in cell.outputs]
    notebook.metadata.pop("widgets", None)
    return notebook


def mathml(tex: re.Match[str]) -> str:
    """A formula between dollars as MathML in one line. Raises ValueError for TeX that cannot be read."""
    from docutils.utils.math.latex2mathml import tex2mathml

    text = re.sub(r"\\([td]?frac)\s*(\w)\s*(\w)", r"\\\1{\2}{\3}", tex[1] or tex[2])  # it reads \frac12 as \frac{12}
    text = re.sub(r"\\([bB]igg?)(?![a-z])", r"\\\1l", text).replace(r"\dots", r"\ldots")  # which it does not know
    try:
        drawn = tex2mathml(text, as_block=bool(tex[1]))
    except Exception as error:
        raise ValueError(f"TeX that cannot be drawn, {tex[0][:60]!r}: {error}. Write it another way.") from error
    line = re.sub(r"\s*\n\s*", "", drawn).replace("*", "&#42;").replace("_", "&#95;")  # Markdown is read once more
    return f"\n\n{line}\n\n" if tex[1] else line


def _still(output: Any) -> Any:
    if WIDGET not in output.get("data", {}):
        return output
    return nbformat.v4.new_output("display_data", {"text/markdown": MISSING})


def api_page() -> str:
    """Every public name with its docstring, by what it is for."""
    told = f"The {len(adamix_lab.__all__)} public names, each to be imported from `adamix_lab`."
    parts = ["# API", "", told, "", EXAMPLES, ""]
    for heading, names in API.items():
        parts += [f"## {heading}", "", "```{eval-rst}"]
        for name in names.split():
            kind = "autoclass" if isinstance(getattr(adamix_lab, name), type) else "autofunction"
            parts += [f".. {kind}:: adamix_lab.{name}", ""]
        parts += ["```", ""]
    return "\n".join(parts)


def index_page(there: list[Path], lessons: list[Path]) -> str:
    """What the site begins with: the README's first lines, and the contents."""
    names = [path.relative_to(ROOT).with_suffix("").as_posix() for path in there if path.suffix == ".md"]
    guides = ("docs/learn", "docs/teach", "docs/research", "docs/use", "docs/api")
    reports = [name for name in names if name.startswith("data/results/") and name.endswith("/report/report")]
    own = ("data/results/README", *reports)
    intro = (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")[1]
    return INDEX.format(
        intro=intro,
        lessons="\n".join(f"notebooks/{path.stem}" for path in lessons),
        teaching="\n".join(name for name in names if name.startswith("docs/teaching/")),
        pages="\n".join(n for n in names if n.startswith("docs/") and n.count("/") == 1 and n not in guides),
        report="\n".join(reports),
        cards="\n".join(name for name in names if name.startswith("data/") and name not in own),
    )


def print_page(lessons: list[str]) -> str:
    """Links to the printable pages, which are no pages of Sphinx."""
    links = "\n".join(f'- <a href="print/{name}.html">{name}</a>' for name in lessons)
    return f"# To print\n\nA page a lesson, A4 or Letter.\n\n{links}\n"


def handouts(out: Path) -> list[Path]:
    """Writes a printable page a lesson under `print/`."""
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    read = {path.stem: nbformat.read(path, as_version=4).cells for path in paths}
    texts = {name: "\n".join(c.source for c in cells if c.cell_type == "markdown") for name, cells in read.items()}
    terms = terms_by_lesson(texts, glossary_terms((TEACHING / "glossary.md").read_text(encoding="utf-8")))
    sheets = (TEACHING / "sheets.md").read_text(encoding="utf-8")
    for name, cells in read.items():
        page = page_of(name, handout_of(cells, sheet_of(sheets, name[:2]), terms[name]))
        write_text(out / "print" / f"{name}.html", page)
    return [out / "print" / f"{name}.html" for name in read]


def build(out: Path) -> list[Path]:
    """Writes the site and returns its pages, the printable ones last. Raises RuntimeError where Sphinx warns."""
    from sphinx.cmd.build import build_main

    source = out.parent / f"{out.name}-source"
    collect(source)
    shutil.rmtree(out, ignore_errors=True)
    if build_main(["-q", "-W", "--keep-going", "-b", "html", str(source), str(out)]):
        raise RuntimeError(
            f"Sphinx warned: expected pages without warnings. They lie in {out}, their sources in {source}."
        )
    printed = handouts(out)
    shutil.rmtree(source)
    return [out / "index.html", *sorted(set(out.rglob("*.html")) - {out / "index.html", *printed}), *printed]


def main(out: Path = ROOT / "runs" / "site") -> None:
    """Makes the site of lessons, guides, API and results."""
    pages = build(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB: open {pages[0]}")


if __name__ == "__main__":
    typer.run(main)
