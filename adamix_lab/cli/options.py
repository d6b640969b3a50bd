"""Options that several commands have, one meaning a word, and those that are a dataclass's fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from adamix_lab.cli.boundary import Command
from adamix_lab.core.errors import SEEDS as SEEDS_END
from adamix_lab.core.errors import STRATEGIES, LabError, check_decoded, check_experts, one_of, unknown, whole
from adamix_lab.core.files import read_config, require_file

Check = Callable[[str, Any], object]  # (name, value): raises LabError


def checking(check: Check) -> Callable[[typer.CallbackParam, Any], Any]:
    """A callback that checks a value, or each of its values."""

    def read(param: typer.CallbackParam, value: Any) -> Any:
        for each in value if isinstance(value, list) else [value] if value is not None else []:
            check(str(param.name), each)
        return value

    return read


def argument(help: str, check: Check) -> Any:
    """An argument that is checked, as options are."""
    return typer.Argument(help=help, callback=checking(check))


def checked(help: str, check: Check) -> Any:
    """An option whose value, or each of its values, is checked before anything heavy is imported."""
    return typer.Option(help=help, callback=checking(check))


def count(help: str, least: int = 1, most: int | None = None) -> Any:
    """An option of a whole number."""
    return checked(help, lambda name, value: whole(name, value, least, most))


def choice(help: str, names: str) -> Any:
    """An option of one of some names, which end its help."""
    known = names.split()
    return checked(f"{help}{', '.join(known)}.", lambda name, value: one_of(name, value, known))


def is_saved(_: str, value: Path) -> None:
    """Refuses a folder that `save` did not write, and one whose configuration is damaged."""
    read_config(value)


def is_landscape(name: str, value: str) -> None:
    """Refuses what is neither the name of shipped experts nor a folder that `save` wrote."""
    from adamix_lab.tasks.tasks import data_root

    shipped = [place.parent.name for place in (data_root() / "experts").glob("*/seed0")]
    if value not in shipped:
        if not Path(value).is_dir():
            raise unknown("Twin, or folder,", value, shipped)
        is_saved(name, Path(value))


def is_results(_: str, value: Path) -> None:
    """Refuses a folder that `ablate` did not write, and a table that is cut."""
    from adamix_lab.tasks.rows import open_parquet

    table = require_file(value / "results.parquet", "a table that `adamix-lab ablate GRID --out FOLDER` wrote.")
    open_parquet(table, "delete it and run the grid again, which gathers it anew.")


OUT = typer.Option(help="Folder for what the command writes.")
TASK = typer.Option(
    help='"aspects", "subjectivity" or "reviews" (embedded), "rte" and its like, a folder or file, or a Hub name.'
)
FOLDER = typer.Option(
    help="Holds a folder a task (rte, sst2, ...), with its rows; default: the Hub, or as a grid says."
)
MODEL = typer.Option(help='"minilm" (embedded), "books-gpt2" (shipped), a local folder, or a Hub name.')
ROWS = count("So many training rows, the same share of every class; default: all, or as a grid says.")
EVALUATION_ROWS = count("Only so many evaluation rows.")
SEED = count("Of everything that is drawn.", 0, SEEDS_END)
SEEDS = count("A number of seeds, each a run.")
METHOD = typer.Option(help="Once for each method.")
_STRATEGY = "How experts are used: merged, fixed, fixed-N, random, random-example, ensemble, ..."
STRATEGY = checked(_STRATEGY, lambda name, value: one_of(name, value, STRATEGIES))
DECODED = checked(_STRATEGY, check_decoded)
EXPERTS = checked("M.", lambda name, value: check_experts(value, name))
SIZE = count("Bottleneck size, or LoRA's rank.")
TOP_BLOCKS = count("Adapt only so many blocks from the top; 0 adapts all.", 0)
STEPS = count("Optimiser steps.")
BEAMS = count("Beams of decoding.")
NEW_TOKENS = count("Tokens written at most.")
LABELS = count("Classes of the head; 1 for a regression.")
HEAD = choice("The task's head: ", "classification generation sequence-to-sequence")
OVERWRITE = typer.Option("--overwrite", help="Replace what the folder holds.")
SAVED = argument("A saved mixture, as `train` writes it (runs/NAME/seed0).", is_saved)


# -- a dataclass's fields as options --------------------------------------------------------------------------------


def taking(package: str, name: str) -> type[Command]:
    """The class of a command that takes every field of a dataclass as an option; what is given is its `context.obj`.

    The fields are looked up when the command is parsed, so that `adamix-lab --help` imports little. Of two options of
    one name the command's own counts.
    """

    class FieldsCommand(Command):
        def get_params(self, ctx: Any) -> list[Any]:
            """The command's own parameters, and the dataclass's."""
            own = {parameter.name for parameter in self.params}
            fields = field_options(getattr(import_module(package), name))
            return [*super().get_params(ctx), *(option for option in fields if option.name not in own)]

        def invoke(self, ctx: Any) -> Any:
            """Runs the command on its own parameters."""
            own = {parameter.name for parameter in self.params}
            ctx.obj = {name: value for name, value in ctx.params.items() if name not in own and value is not None}
            ctx.params = {name: value for name, value in ctx.params.items() if name in own}
            return super().invoke(ctx)

    return FieldsCommand


@cache
def field_options(kind: type) -> list[Any]:
    """An option for each field of a dataclass, with the meaning that its docstring gives."""

    def command(**_: Any) -> None:
        pass

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _annotations(kind)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return typer.main.get_command(app).params


def _annotations(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, annotation) of each field; the first field of a dataclass within goes by the dataclass's own name."""
    meanings, types = attributes(kind), get_type_hints(kind)
    for place, field in enumerate(fields(kind)):
        name = prefix if prefix and place == 0 else f"{prefix}_{field.name}".lstrip("_")
        if is_dataclass(types[field.name]):
            yield from _annotations(types[field.name], name)
        else:
            yield name, _annotation(name, types[field.name], meanings[field.name], kind.__name__)


def _annotation(name: str, wanted: Any, meaning: str, panel: str) -> Any:
    table, within = get_origin(wanted) is Mapping, (wanted, *get_args(wanted))
    number = next((number for number in (bool, int, float) if number in within and not table), str)
    choices = get_args(wanted) if get_origin(wanted) is Literal else ()  # checked by the dataclass itself
    option = typer.Option(
        help=meaning[:1].upper() + meaning[1:],
        metavar="name=number,..." if table else "|".join(choices) or None,
        callback=_read_table if table else None,
        rich_help_panel=panel,
    )
    return Annotated[number, option]


def _read_table(param: typer.CallbackParam, value: str | None) -> dict[str, float] | None:
    try:
        pairs = [part.partition("=") for part in value.split(",")] if value else []
        return {key: float(number) for key, _, number in pairs} or None
    except ValueError:
        raise LabError(f"{param.name} = {value!r}: expected a number for each name, as in down=0.25,up=1.") from None


def attributes(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of each attribute, in one line."""
    text = inspect.getdoc(kind) or ""
    found = re.findall(r"^(?: {4})?(\w+): (.+(?:\n {5,}.+)*)", text, flags=re.M)
    return {name: " ".join(said.split()) for name, said in found}
