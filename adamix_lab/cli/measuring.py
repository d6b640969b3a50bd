"""Commands behind the lessons: what they look at, and the effects that are measured before they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def effects(
    lessons: Annotated[list[str] | None, typer.Argument(help="00, 01, ...; default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: data/results/effects.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds 0, 1, ...; default: as many as are shipped.")] = None,
) -> None:
    """Measures what the lessons show, paired, over the shipped seeds: one table a lesson."""
    from adamix_lab.lessons.effects import measure_lesson, write_effects
    from adamix_lab.lessons.measures import LESSONS, measures_of, seeds_of
    from adamix_lab.tasks.tasks import data_root

    folder = out or data_root() / "results" / "effects"
    chosen = {lesson: measures_of(lesson) for lesson in lessons or LESSONS}
    for lesson, measures in chosen.items():
        print(write_effects(folder / f"{lesson}.csv", measure_lesson(measures, range(seeds or seeds_of(lesson)))))


def lesson_runs(
    out: Annotated[Path | None, typer.Option(help="Default: data/lessons/answers.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="Once for each; default: all.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
    steps: Annotated[int | None, typer.Option(help="Fewer steps, for a trial.")] = None,
) -> None:
    """What every route of the twins answers, and AdaMix trained with other weights of consistency, for the lessons."""
    from adamix_lab.lessons.answers import RUNS, make_runs

    make_runs(out, run or RUNS, range(seeds), steps)


def lesson_loras(
    out: Annotated[Path | None, typer.Option(help="Default: data/lessons/loras.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="adamix, tied; default: both.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
    steps: Annotated[int | None, typer.Option(help="Fewer steps, for a trial.")] = None,
) -> None:
    """Trains the small LoRA experts that lesson 08 exports and combines."""
    from adamix_lab.lessons.your_own import KINDS, make_loras

    make_loras(out, kind or tuple(KINDS), range(seeds), steps)


def lesson_landscapes(
    out: Annotated[Path | None, typer.Option(help="Default: data/lessons/landscape.")] = None,
    twin: Annotated[list[str] | None, typer.Option(help="Once for each; default: all.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
    rows: Annotated[int, typer.Option(help="The first so many evaluation rows.")] = 256,
) -> None:
    """Losses between the shipped experts, over edges and faces, for the landscape viewer; a killed run goes on."""
    from adamix_lab.lessons.landscape import make_faces
    from adamix_lab.training.shipped import TWINS

    make_faces(out, twin or tuple(TWINS), range(seeds), rows)
