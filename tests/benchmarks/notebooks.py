"""The lessons in one table: how long each is, what stands in it, what it shows, and its seconds in both modes.

    python tests/benchmarks/notebooks.py              runs every lesson twice (fast, full)
    python tests/benchmarks/notebooks.py 02_consistency
    python tests/benchmarks/notebooks.py --fast-only  leaves the full mode out
    python tests/benchmarks/notebooks.py --quick      counts, runs nothing
    python tests/benchmarks/notebooks.py --out data/results/costs/notebooks.json    writes notebooks.md beside it, too

Runs are copies: committed notebooks stay as they are. Budgets: 25 cells and 1,000 words in the core (all before the
first "Further"), 60 s in the fast mode, on two free cores; the load at the beginning is printed. Cells, words, formulas
and links are the core's; all else is the whole lesson's.
"""

from __future__ import annotations

import csv
import html
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import nbformat
import typer
from common import LESSONS, ROOT, load_average, report

sys.path.insert(0, str(ROOT / "notebooks"))

import build

BUDGETS = {"cells": 25, "words": 1000, "seconds, fast": 60}
WIDGET = "run the cell to use it"  # what stands for a widget where there is none
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.S)


def counts(path: Path) -> dict[str, Any]:
    """What a committed notebook holds."""
    cells = nbformat.read(path, as_version=4).cells
    further = [n for n, cell in enumerate(cells) if cell.source.startswith("## Further")]
    core = cells[: further[0]] if further else cells
    text = "\n".join(cell.source for cell in core if cell.cell_type == "markdown")
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    told = [html.unescape(output.get("data", {}).get("text/html", "")) for output in outputs]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    alts = [output.get("metadata", {}).get("image/png", {}).get("alt", "") for output in figures]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return {
        "notebook": path.stem,
        "cells": len(core),
        "words": len(re.findall(r"\w+", FORMULA.sub("", text))),
        "formulas": len(FORMULA.findall(text)),
        "drawings": len(figures),
        "alt texts": sum(len(alt) >= 40 for alt in alts),
        "links": len(set(re.findall(r"\]\((https?://[^)]+)\)", text))),
        "predictions": str(outputs).count("Run the cell to enter a prediction"),
        "widgets": sum(WIDGET in each for each in told),
        "the hand changes": [
            moved for each in told for moved in re.findall(r"\(your hand changes: (.+?)\): run", each)
        ],
        "checks": len(re.findall(r"attempt\((?:lesson\.)?check_|check_program\(", code)),
        "effects": effects(path.stem[:2]),
    }


def effects(lesson: str) -> dict[str, int]:
    """How many effects of a lesson's table are shown, alike, and not shown."""
    path = ROOT / "data" / "results" / "effects" / f"{lesson}.csv"
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [])
    verdicts = Counter(row["verdict"] for row in rows)
    return {verdict: verdicts[verdict] for verdict in ("shown", "alike", "not shown")}


def seconds(name: str, fast: bool) -> float:
    """Of one run, kernel's start included."""
    os.environ["ADAMIX_LAB_FAST"] = "1" if fast else "0"
    return round(build.run(build.build(ROOT / "notebooks" / "src" / f"{name}.py")), 1)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table; what was not measured is a dash."""

    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return " / ".join(map(str, value.values()))
        return "; ".join(value) or "–" if isinstance(value, list) else "–" if value is None else str(value)

    names = [name for name in rows[0] if name != "over budget"]
    heads = [f"{name}: shown / alike / not shown" if name == "effects" else name for name in names]
    lines = [heads, ["---"] * len(names), *([cell(row.get(name)) for name in names] for row in rows)]
    decided = sum(row["effects"]["shown"] + row["effects"]["alike"] for row in rows)
    every = sum(sum(row["effects"].values()) for row in rows)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# The lessons in one table\n\n{table}\n\nEffects decided (shown or alike): {decided} of {every}.\n"


def main(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    quick: bool = False,
    fast_only: bool = False,
    out: Path | None = None,
) -> None:
    """The table of the named lessons as one JSON object, and as Markdown beside it; --quick runs nothing."""
    load, rows = load_average(), [counts(path) for path in LESSONS if not names or path.stem in names]
    for row in rows:
        row["seconds, fast"] = None if quick else seconds(row["notebook"], fast=True)
        row["seconds, full"] = None if quick or fast_only else seconds(row["notebook"], fast=False)
        row["over budget"] = [what for what, most in BUDGETS.items() if (row[what] or 0) > most]
        print(row, flush=True)
    report({"notebooks": rows, "budgets": BUDGETS, "cores": os.cpu_count(), "load before": load}, out)
    if out:
        out.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
