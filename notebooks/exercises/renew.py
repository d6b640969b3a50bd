"""Writes what follows from the exercises' sources: student versions here, and the table on the instructors' sheets.

    python notebooks/exercises/renew.py [--check]

Needs nbgrader. `--check` writes nothing and exits 1 where something is stale.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from adamix_lab.classroom.course import release
from adamix_lab.classroom.course import assignments, exercises
from adamix_lab.core.files import write_text

HERE = Path(__file__).resolve().parent
SHEETS = HERE.parents[1] / "docs" / "teaching" / "sheets.md"
BEGIN, END = "<!-- exercises -->", "<!-- /exercises -->"


def student_versions() -> dict[Path, str]:
    """The text of each student version, by where it is committed."""
    with tempfile.TemporaryDirectory() as made:
        course = Path(made)
        return {HERE / f"{name}.ipynb": release(name, course)[0].read_text("utf-8") for name in assignments()}


def sheets() -> str:
    """The sheets' page with the exercises' table renewed."""
    rows = [
        f"| `{name}` | {e.name} | {e.minutes} | {e.difficulty} | {sum(e.checks.values()):g} | {e.aims} |"
        for name in assignments()
        for e in exercises(name)
    ]
    head = ["| assignment | exercise | minutes | difficulty | points | aimed at |", "|---|---|---|---|---|---|"]
    text = SHEETS.read_text("utf-8")
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start] + "\n\n" + "\n".join(head + rows) + "\n\n" + text[stop:]


def main() -> int:
    wanted = {**student_versions(), SHEETS: sheets()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        print(
            f"stale: {', '.join(p.name for p in stale)}" if stale else f"{len(wanted)} files follow from their sources"
        )
        return int(bool(stale))
    for path in stale:
        write_text(path, wanted[path])
        print(path.relative_to(HERE.parents[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
