"""Thirty synthetic submissions of 01_routing graded in one command: are the marks as expected, and what does one cost?

    python tests/benchmarks/classroom.py            30 submissions
    python tests/benchmarks/classroom.py --quick    5 of them

Full answers, blanks, named wrong answers (tests/mutants), and troubles: an endless loop, a memory hog, a crash, an
exit, huge output, the network, text on stderr, deleted and tagged tests, a file that is no notebook, another notebook,
an empty file. Wall time depends on what else the machine does; CPU seconds (of all processes) less so. The
last line is one JSON object. Needs nbgrader.
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
from typing import Any

from common import ROOT, load_average, parse, report

sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import classroom_helpers as made  # noqa: E402

NAME = "01_routing"
FULL = 10
WITHOUT_NUMBER = FULL - 3  # `number` has 3 points; a trouble in its cell costs these
AFTER_A_CRASH = 4  # what `route`, above it, is worth


def people(released: Path) -> dict[str, tuple[str, float, str]]:
    """Text handed in, expected points, and a sign that the remarks must hold, by name."""
    right = made.reference(NAME)
    points = made.points_of(NAME)

    def answers(**changed: str) -> str:
        return made.submission(released, right | changed)

    found: dict[str, tuple[str, float, str]] = {"full": (answers(), FULL, "")}
    found["endless loop"] = (answers(number=made.TROUBLES["an endless loop"][0]), WITHOUT_NUMBER, "did not end within")
    found["not a notebook"] = ("PK: a text document", 0, "is not a notebook")
    for name, (source, sign) in made.TROUBLES.items():
        if name != "an endless loop":
            found[name] = (answers(number=source), AFTER_A_CRASH if name == "a crash" else WITHOUT_NUMBER, sign)
    found["stderr"] = (answers(number=made.CHATTY), FULL, "stderr")
    found["deleted test"] = (made.submission(released, right, made.without("number-many")), FULL, "put back and run")
    gone = made.submission(released, right, made.without("number"))
    found["deleted answer"] = (gone, WITHOUT_NUMBER, "where the answer goes, had been deleted")
    tagged = made.submission(released, right | {"number": "x = 1"}, made.tagged("number-many", "skip-execution"))
    found["tagged test"] = (tagged, WITHOUT_NUMBER, "")
    found["empty file"] = ("", 0, "is empty")
    another = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    found["another notebook"] = (another, 0, "none of the cells")
    found |= {f"blank {n}": (made.submission(released, {}), 0, "") for n in range(3)}
    for mutant in made.mutants(NAME):
        left = FULL - sum(points[check] for check in mutant.loses)
        found[mutant.name] = (answers(**{mutant.answer: mutant.source}), left, "")
    found |= {f"full {n}": (answers(), FULL, "") for n in range(30 - len(found))}
    return found


def grade(people_wanted: int, work: Path) -> dict[str, Any]:
    """Releases, hands in, grades by the command line, compares."""
    run = [sys.executable, "-m", "adamix_lab", "classroom"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    course, handed = work / "course", work / "handed.zip"
    subprocess.run([*run, "release", NAME, "--course", str(course)], check=True, env=environment)
    everyone = people(course / "release" / NAME / f"{NAME}.ipynb")
    chosen = dict(list(everyone.items())[:people_wanted])
    with zipfile.ZipFile(handed, "w") as archive:
        for n, (name, (text, _, _)) in enumerate(chosen.items(), 1):
            archive.writestr(f"{name}_{n}_assignsubmission_file_/{NAME}.ipynb", text)
    start, before = time.perf_counter(), os.times()
    command = [*run, "grade", NAME, str(handed), "--course", str(course), "--cell-seconds", "20"]
    subprocess.run(command, check=True, env=environment)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    rows = {row["name"]: row for row in csv.DictReader((course / "marks" / f"{NAME}.csv").open(encoding="utf-8"))}
    wrong = {
        name: {"expected": points, "got": float(rows[name]["points"]), "remarks": rows[name]["remarks"]}
        for name, (_, points, sign) in chosen.items()
        if float(rows[name]["points"]) != points or sign not in rows[name]["remarks"]
    }
    return {
        "submissions": len(chosen),
        "as expected": len(chosen) - len(wrong),
        "different": wrong,
        "wall seconds": round(wall, 1),
        "wall seconds a submission": round(wall / len(chosen), 2),
        "CPU seconds a submission": round(cpu / len(chosen), 2),
        "processor": f"{os.cpu_count()} cores, load {load_average() or 0:.1f}",
    }


def main() -> None:
    options = parse(__doc__, {"people": 5}, people=30)
    with tempfile.TemporaryDirectory() as work:
        result = grade(options.people, Path(work))
    for name, what in result["different"].items():
        print(f"NOT AS EXPECTED {name}: {what}")
    report(result, options.out)


if __name__ == "__main__":
    main()
