"""Chores of a checkout, as plain commands for those without make."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIRST = ("--LabApp.default_url=/lab/tree/00_tour.ipynb",)  # where the server's address leads, browser or not


def _run(*command: str) -> int:
    return subprocess.call([sys.executable, *command], cwd=ROOT)


def _checkout(path: str) -> str:
    if not (ROOT / path).exists():
        raise FileNotFoundError(
            f"{ROOT / path} is not there: expected a checkout of the repository. Clone it; an installed package "
            f"has no {path}."
        )
    return path


def lab() -> int:
    """JupyterLab on `notebooks/`, at 00_tour."""
    return _run("-m", "jupyter", "lab", f"--ServerApp.root_dir={ROOT / _checkout('notebooks')}", *FIRST)


def pytest(arguments: Sequence[str]) -> int:
    """The tests of the checkout."""
    _checkout("tests")
    return _run("-m", "pytest", *arguments)


def lint() -> int:
    """Formatting, style and types; the first failure's code."""
    _checkout("pyproject.toml")
    return next(
        (
            code
            for command in (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"])
            if (code := _run("-m", *command))
        ),
        0,
    )


def notebooks() -> int:
    """Builds and executes the notebooks."""
    return _run(_checkout("notebooks/build.py"))


def bench() -> int:
    """Every benchmark with --quick."""
    _checkout("benchmarks")
    return max((_run(str(path), "--quick") for path in sorted((ROOT / "benchmarks").glob("*.py"))), default=0)
