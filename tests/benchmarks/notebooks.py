"""The lessons in one table: cells, words, widgets, checks, figures, alt texts, and seconds in the fast and full mode.

    python tests/benchmarks/notebooks.py              runs every lesson twice (fast, full)
    python tests/benchmarks/notebooks.py 02_consistency
    python tests/benchmarks/notebooks.py --fast-only  leaves the full mode out
    python tests/benchmarks/notebooks.py --quick      counts, runs nothing

Runs are copies: committed notebooks stay as they are. Budgets: 45 cells, 1,500 words, 60 s in the fast mode and 300 s
in the full one, on two free cores; the load at the beginning is printed. The last line is one JSON object.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from common import LESSONS, ROOT, load_average, parse, report

sys.path.insert(0, str(ROOT / "notebooks"))

import build

BUDGETS = {"cells": 45, "words": 1500, "seconds, fast": 60, "seconds, full": 300}
WIDGET = "run the cell to use it"  # what stands for a widget where there is none


def counts(path: Path) -> dict[str, Any]:
    """What a committed notebook holds."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    alts = [output.get("metadata", {}).get("image/png", {}).get("alt", "") for output in figures]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return {
        "notebook": path.stem,
        "cells": len(cells),
        "words": sum(len(re.findall(r"\w+", cell.source)) for cell in cells if cell.cell_type == "markdown"),
        "widgets": sum(WIDGET in str(output.get("data", {}).get("text/plain", "")) for output in outputs),
        "checks": len(re.findall(r"attempt\(check_", code)),
        "figures": len(figures),
        "alt texts": sum(len(alt) >= 40 for alt in alts),
    }


def seconds(name: str, fast: bool) -> float:
    """Of one run, kernel's start included."""
    os.environ["ADAMIX_LAB_FAST"] = "1" if fast else "0"
    return round(build.run(build.build(ROOT / "notebooks" / "src" / f"{name}.py")), 1)


def main() -> None:
    options = parse(__doc__, names=[], fast_only=False)  # quick: run nothing
    load = load_average()
    rows = [counts(path) for path in LESSONS if not options.names or path.stem in options.names]
    for row in rows:
        if not options.quick:
            row["seconds, fast"] = seconds(row["notebook"], fast=True)
            row["seconds, full"] = None if options.fast_only else seconds(row["notebook"], fast=False)
        row["over budget"] = [what for what, most in BUDGETS.items() if (row.get(what) or 0) > most]
        print(row, flush=True)
    report({"notebooks": rows, "budgets": BUDGETS, "cores": os.cpu_count(), "load before": load}, options.out)


if __name__ == "__main__":
    main()
