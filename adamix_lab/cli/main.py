"""The command line `adamix-lab`: each command calls one function; a mistake in what was given ends in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from adamix_lab.cli import options, study, teaching, train
from adamix_lab.cli.boundary import Command, Group
from adamix_lab.core import __version__
from adamix_lab.core.errors import LabError

FIRST = ("--LabApp.default_url=/lab/tree/00_tour.ipynb",)  # where the server's address leads, browser or not


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="AdaMix: train, compare, merge, predict.",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"adamix-lab {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="The version.", callback=_print_version)] = False,
) -> None:
    pass


# -- first steps -------------------------------------------------------------------------------------------------


def tour(
    out: Annotated[Path, options.OUT] = Path("runs/tour"), steps: Annotated[int | None, options.STEPS] = None
) -> None:
    """Trains AdaMix on few sentences with many wrong labels, beside what it should be compared with.

    With fewer --steps a quick look, without the stored seeds.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")  # before torch: a third faster on free cores
    from adamix_lab.experiments.tour import run_tour

    run_tour(out, steps)


def lab(
    folder: Annotated[Path, typer.Argument(help="Where the lessons are copied to; your changes there stay.")] = Path(
        "runs/lessons"
    ),
    reset: Annotated[
        list[str] | None, typer.Option(help="Give a lesson back as it was: 03. Yours is kept beside it.")
    ] = None,
) -> None:
    """Copies the lessons into a folder of yours and opens them in JupyterLab, beginning with 00_tour."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise ModuleNotFoundError(name="jupyterlab")
    for line in copy_lessons(folder, reset or []):
        print(line)
    environment = dict(os.environ)
    if not os.access(os.path.expanduser("~"), os.W_OK):
        environment |= {"HOME": str(folder.resolve()), "USERPROFILE": str(folder.resolve())}
        print(f"No home folder can be written here: Jupyter keeps what it remembers in {folder}.")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}", *FIRST]
    raise typer.Exit(subprocess.call(command, env=environment))


def copy_lessons(folder: Path, reset: Sequence[str] = ()) -> list[str]:
    """Copies lessons and exercises that a folder lacks; what is there stays. What to say about it, a line each.

    Args:
        folder: made if it is not there; `lessons.json` in it says which version a lesson was copied from.
        reset: beginnings of lessons' names, which are copied anew; what was there is kept as `NAME-mine-1.ipynb`.

    Raises ValueError where no lesson's name begins so, FileNotFoundError where no lessons are shipped.
    """
    from adamix_lab.core.files import read_json, write_text
    from adamix_lab.tasks.tasks import shipped_folder

    source, record = shipped_folder("notebooks"), folder / "lessons.json"
    paths = [path for pattern in ("", "exercises/") for path in sorted(source.glob(f"{pattern}[0-9]*.ipynb"))]
    names = [path.relative_to(source).as_posix() for path in paths]
    if not names:
        raise FileNotFoundError(f"{source} holds no lessons: install adamix-lab again.")
    if unknown := [word for word in reset if not any(name.startswith(word) for name in names)]:
        raise LabError(f"--reset {unknown[0]}: expected the beginning of a lesson's name, such as 03 or exercises/03.")
    copied = read_json(record, "what `adamix-lab lab` wrote; delete it") if record.is_file() else {}
    told = []
    for name in names:
        place, again = folder / name, any(name.startswith(word) for word in reset)
        if place.exists() and again:
            numbered = (place.with_name(f"{place.stem}-mine-{n}.ipynb") for n in count(1))
            mine = next(path for path in numbered if not path.exists())
            os.replace(place, mine)
            told.append(f"{place} is as it was; yours is {mine.name}.")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, (source / name).read_text(encoding="utf-8"))
            copied[name] = __version__
    write_text(record, json.dumps(copied, indent=1))
    if older := [name for name in names if copied.get(name) != __version__]:
        told.append(
            f"Copied by another version than {__version__}, and left as they are: {', '.join(older)}. "
            "--reset takes this version's; yours is kept beside it."
        )
    return told


def doctor(
    for_class: Annotated[bool, typer.Option("--class", help="One line, to paste where the class can see it.")] = False,
) -> None:
    """Versions, device, embedded assets; what is missing and how to get it."""
    from adamix_lab.training.doctor import class_line, diagnose

    findings = [class_line()] if for_class else list(diagnose())
    for fine, line in findings:
        print(line if for_class else ("ok       " if fine else "MISSING  ") + line)
    raise typer.Exit(0 if all(fine for fine, _ in findings) else 1)


# -- all commands ------------------------------------------------------------------------------------------------

COMMANDS = {
    "First steps": (tour, lab, doctor),
    "Train and look": (train.train, train.evaluate, train.predict, study.posterior, study.landscape),
    "Compare": (study.ablate, study.report, study.presets),
    "Text": (train.train_generator, train.generate),
    "Exchange": (train.export, train.import_experts, train.push),
}
RECIPE = options.taking("adamix_lab.training.recipe", "Recipe")
ENGINE = options.taking("adamix_lab.experiments.settings", "Engine")
CLASSES = {train.train: RECIPE, train.train_generator: RECIPE, study.ablate: ENGINE}  # with further options
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel, cls=CLASSES.get(command, Command))(command)
app.add_typer(teaching.classroom, name="classroom", rich_help_panel="Teach")


def main() -> None:
    """The entry point."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()
