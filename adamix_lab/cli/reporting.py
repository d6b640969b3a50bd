"""The command that turns results into a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Results, as `ablate` writes them (results.parquet).")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the report; default: FOLDER/report.")] = None,
) -> None:
    """The paper's tables and claims beside what was measured: Markdown and one HTML file, with verdicts."""
    from adamix_lab.experiments.report import report as write

    write(folder, out)
