"""Builds the notebooks from their sources and runs them: `python notebooks/build.py [name ...] [--check | --texts]`.

The truth is `notebooks/src/*.py` (py:percent). The `.ipynb` files are generated, executed and committed with their
pictures, without widget state. `--check` builds without running and exits 1 where a committed notebook has other cells.
`--texts` takes over changed texts where every code cell is as it was when it ran: its outputs still hold.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import jupytext
import nbformat
import typer

HERE = Path(__file__).resolve().parent
SECONDS = 1800  # for one cell, so that a hang ends; budgets are the tests' business


def build(source: Path) -> Any:
    """The notebook of a source, with ids that depend on its name and the cell's place alone."""
    notebook = jupytext.read(source)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for n, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem}-{n:02d}"
        cell.metadata.pop("lines_to_next_cell", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: Any) -> float:
    """Executes in place, in `notebooks/`; returns the seconds. An error in a cell ends the build."""
    from nbclient import NotebookClient

    start = time.perf_counter()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    resources = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    return time.perf_counter() - start


def strip(notebook: Any) -> Any:
    """Drops what differs from run to run, warnings with this machine's paths, and widget state.

    (Hosting sites refuse notebooks with a broken state.)
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _warns(output)]
        for output in cell.get("outputs", []):
            output.get("metadata", {}).pop("needs_background", None)
            # a widget without its state is an error box; what stays is its text
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


def _warns(output: Any) -> bool:
    return output.output_type == "stream" and output.name == "stderr" and "Warning: " in output.text


def cells(notebook: Any) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """What must equal the source: id, type, text and tags of each cell."""
    return [(c["id"], c.cell_type, c.source, tuple(c.metadata.get("tags", []))) for c in notebook.cells]


def differs(source: Path) -> bool:
    """Whether the committed notebook has other cells than its source gives."""
    path = HERE / f"{source.stem}.ipynb"
    return not path.is_file() or cells(nbformat.read(path, as_version=4)) != cells(build(source))


def with_outputs(source: Path) -> Any:
    """The source's notebook with the committed one's outputs. Raises ValueError where a code cell has changed."""
    new, old = build(source), nbformat.read(HERE / f"{source.stem}.ipynb", as_version=4)
    ran = [cell for cell in old.cells if cell.cell_type == "code"]
    code = [cell for cell in new.cells if cell.cell_type == "code"]
    if [cell.source for cell in ran] != [cell.source for cell in code]:
        raise ValueError(f"{source.stem}: code cells have changed since it ran. Build it without --texts.")
    for cell, before in zip(code, ran, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    return new


def write(source: Path, notebook: Any) -> Path:
    path = HERE / f"{source.stem}.ipynb"
    temporary = path.with_suffix(".part")
    nbformat.write(strip(notebook), temporary)
    os.replace(temporary, path)
    return path


def main(names: Annotated[list[str] | None, typer.Argument()] = None, check: bool = False, texts: bool = False) -> None:
    """Builds the notebooks from their sources and runs them; --check compares, --texts takes over changed texts."""
    sources = [source for source in sorted((HERE / "src").glob("*.py")) if not names or source.stem in names]
    if check:
        if stale := [source.stem for source in sources if differs(source)]:
            raise SystemExit(f"stale: {', '.join(stale)}; run python notebooks/build.py")
        print(f"{len(sources)} notebooks equal their sources")
        return
    for source in sources:
        if texts:
            print(f"{write(source, with_outputs(source)).name}: texts taken over")
            continue
        notebook = build(source)
        seconds = run(notebook)
        print(f"{write(source, notebook).name}: {len(notebook.cells)} cells, {seconds:.0f} s")


if __name__ == "__main__":
    typer.run(main)
