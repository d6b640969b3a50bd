"""Commands for teaching: `adamix-lab classroom release|grade|feedback|bundle`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from adamix_lab.cli import options
from adamix_lab.cli.boundary import Command, Group

Course = Annotated[Path, typer.Option("--course", help="The course's folder: versions, submissions, gradebook, marks.")]
Name = Annotated[str, typer.Argument(help="The assignment, such as 01_routing.")]

classroom = typer.Typer(
    cls=Group, no_args_is_help=True, help="Exercises: student versions, grading, feedback (needs nbgrader); USB sticks."
)


@classroom.command(cls=Command)
def release(
    names: Annotated[list[str] | None, typer.Argument(help="Assignments; default: all.")] = None,
    course: Course = Path("runs/course"),
    exercises: Annotated[
        Path | None, typer.Option(help="The folder notebooks/exercises of a checkout or an unpacked sdist.")
    ] = None,
) -> None:
    """Makes student and solution versions of assignments from their one source."""
    from adamix_lab.classroom.course import assignments
    from adamix_lab.classroom.course import release as make

    for name in names or assignments(exercises):
        student, solution = make(name, course, exercises)
        print(f"{student}  for students\n{solution}  with solutions and hidden tests")


@classroom.command(cls=Command)
def grade(
    name: Name,
    submissions: Annotated[Path, typer.Argument(help="A folder or zip file, as Moodle or Canvas hands it out.")],
    course: Course = Path("runs/course"),
    due: Annotated[datetime.datetime | None, typer.Option(help="Later ones are marked late (local time).")] = None,
    again: Annotated[bool, typer.Option("--again", help="Grade unchanged submissions anew, too.")] = False,
    seconds: Annotated[int, options.count("For one notebook.")] = 120,
    cell_seconds: Annotated[int, options.count("For one cell.")] = 30,
    memory: Annotated[int, options.count("MB a process.")] = 2048,
    preview: Annotated[bool, typer.Option("--preview", help="Only say who was found.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Go on where little is enforced.")] = False,
) -> None:
    """Says who was found, then runs and marks submissions, each by itself; writes a table, a file for the platform."""
    from adamix_lab.classroom.grading import grade as mark
    from adamix_lab.classroom.marks import write_marks
    from adamix_lab.classroom.sandbox import Limits, isolation
    from adamix_lab.classroom.submissions import collect, found

    limits, odd = Limits(cell_seconds=cell_seconds, seconds=seconds, memory_mb=memory), list[str]()
    people = collect(submissions, due, odd.append)
    print("\n".join([found(people), *odd]))
    if preview:
        return
    print("\n".join(isolation(limits, trust)))
    marked = mark(people, name, course, limits, again)
    print(f"Graded now: {sum(bool(m.seconds) for m in marked)}; in the table: {len(marked)}.")
    for path in write_marks(marked, name, course / "marks"):
        print(path)
    odd += [f"{m.name}: {' '.join(m.remarks)}" for m in marked if m.remarks and m.seconds is not None]
    print("\n".join(["Odd:", *odd] if odd else ["Nothing was odd."]))


@classroom.command(cls=Command)
def feedback(name: Name, course: Course = Path("runs/course"), out: Annotated[Path | None, options.OUT] = None) -> None:
    """Writes a page a person: points, what failed and why, and what happened when the notebook ran.

    By default in COURSE/feedback/pages.
    """
    from adamix_lab.classroom.marks import feedback as make

    pages = make(name, course, out)
    print(f"{len(pages)} pages in {pages[0].parent.parent}" if pages else "No one was graded.")


@classroom.command(cls=Command)
def bundle(
    folder: Annotated[Path, typer.Argument(help="Where to: a folder on the disk, to be copied to a USB stick.")],
    cpu: Annotated[bool, typer.Option("--cpu", help="PyTorch's CPU build (Linux; much smaller).")] = False,
) -> None:
    """Wheels, data and weights in one folder, to set laptops of this system up without network (from a checkout)."""
    from adamix_lab.classroom.bundle import bundle as make

    wheels, size = make(folder, cpu)
    print(f"{folder}: {wheels} wheels, {size / 1e6:.0f} MB. On a laptop: python start.py")
