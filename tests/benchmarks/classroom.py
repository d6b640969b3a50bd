"""Thirty honest submissions of 01_routing graded in one command: what does one cost?

    python tests/benchmarks/classroom.py            30 submissions
    python tests/benchmarks/classroom.py --quick    5

Wall time depends on what else the machine does; CPU seconds (of all processes) less so. Needs nbgrader.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import typer
from common import ROOT, load_average, report

sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from classroom_helpers import points_of, reference, submission  # noqa: E402

NAME = "01_routing"


def main(quick: bool = False, people: int = 30, out: Path | None = None) -> None:
    """Releases, hands in, grades by the command line; seconds as one JSON object."""
    people = 5 if quick else people
    run = [sys.executable, "-m", "adamix_lab", "classroom"]
    with tempfile.TemporaryDirectory() as work:
        course, handed = Path(work, "course"), Path(work, "handed.zip")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([*run, "release", NAME, "--course", str(course)], check=True, env=environment)
        text = submission(course / "release" / NAME / f"{NAME}.ipynb", reference(NAME))
        with zipfile.ZipFile(handed, "w") as archive:
            for n in range(people):
                archive.writestr(f"Ada {n}_{n}_assignsubmission_file_/{NAME}.ipynb", text)
        start, before = time.perf_counter(), os.times()
        subprocess.run([*run, "grade", NAME, str(handed), "--course", str(course)], check=True, env=environment)
        wall, after = time.perf_counter() - start, os.times()
        rows = list(csv.DictReader((course / "marks" / f"{NAME}.csv").open(encoding="utf-8")))
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    full = sum(float(row["points"]) == sum(points_of(NAME).values()) for row in rows)
    taken = {"wall": round(wall / people, 2), "CPU": round(cpu / people, 2)}
    told = {"submissions": people, "full points": full, "seconds a submission": taken}
    report({**told, "cores": os.cpu_count(), "load": load_average()}, out)


if __name__ == "__main__":
    typer.run(main)
