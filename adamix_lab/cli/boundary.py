"""Where mistakes end: one line on stderr and an exit code, with arguments under the names of their options."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from adamix_lab.core.errors import LabError

DEBUG = "ADAMIX_LAB_DEBUG"
MISTAKES = (LabError, OSError, ImportError, FloatingPointError)  # in what was given, or in what is there
UsageError: Any = typer.BadParameter.__base__  # click's, whose package typer has moved


@contextmanager
def boundary(command: Any, params: Callable[[], Any]) -> Iterator[None]:
    """Ends a mistake in one line and exit code 2, a bug in one line and 1, Ctrl-C in 130, as a shell does.

    ADAMIX_LAB_DEBUG=1 lets mistakes and bugs through, with their traceback.
    """
    try:
        yield
    except (BrokenPipeError, typer.Exit, typer.Abort):  # who reads the output has had enough; what is ended already
        raise
    except KeyboardInterrupt:
        kept = {"out", "course"} & {parameter.name for parameter in params()}
        _end(130, "stopped." + " The same command goes on where it was." * bool(kept))
    except Exception as error:
        if os.environ.get(DEBUG) or type(error).__name__ == "NoArgsIsHelpError":
            raise
        said = " ".join(str(error).split())
        if isinstance(error, UsageError):
            known = f"adamix-lab {command.name or ''}".strip()
            mistake = re.sub(r"(?<![.?])$", ".", error.format_message())
            _end(2, f"{mistake} `{known} --help` lists what there is.")
        if isinstance(error, ModuleNotFoundError):
            from adamix_lab.training.doctor import missing_package

            said = missing_package(error.name or "") or said
        if isinstance(error, MISTAKES):
            _end(2, as_options(said, params()))
        where = f"{DEBUG}=1 before the command shows where"
        _end(1, f"{type(error).__name__}: {said[:300]}. This is a bug: please report it; {where}.")


def _end(code: int, message: str) -> None:
    print(f"adamix-lab: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code) from None


def as_options(message: str, params: Any) -> str:
    """The message with `name = value` and `name="value"` of a command's parameters as their options."""
    for parameter in params:
        if parameter.param_type_name == "option":
            name, option = rf"(?<![\w.\"'-]){parameter.name}", parameter.opts[0]
            message = re.sub(rf"{name}(?= = )", option, message)
            message = re.sub(rf"{name}=\"(\w+)\"", rf"{option} \1", message)
    return message


class Behind:
    """Reads arguments and runs behind the boundary."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the arguments."""
        with boundary(self, self._parameters):
            return super().make_context(*args, **kwargs)  # type: ignore[misc]

    def invoke(self, ctx: Any) -> Any:
        """Runs what was asked for."""
        with boundary(self, self._parameters):
            return super().invoke(ctx)  # type: ignore[misc]

    def _parameters(self) -> Any:
        return self.get_params(typer.Context(self))  # type: ignore


class Group(Behind, TyperGroup):
    """Commands; what is none of them ends at the boundary, too."""


class Command(Behind, TyperCommand):
    """A command."""
