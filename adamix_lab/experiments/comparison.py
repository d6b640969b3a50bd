"""Tasks x methods under one budget: one table, kept after every cell, taken up again where it stopped."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import unknown
from adamix_lab.core.files import write_text
from adamix_lab.experiments.methods import METHODS, Budget, Outcome
from adamix_lab.experiments.seeds import unit
from adamix_lab.tasks.batches import TextsCut
from adamix_lab.tasks.metrics import Undefined
from adamix_lab.tasks.tasks import PAPER_TASKS, Task, load_task, subsample
from adamix_lab.training.doctor import versions

Say = Callable[[str], None]


def compare(
    folder: Path,
    out: Path,
    budget: Budget,
    backbone: str = "minilm",
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    rows: int | None = None,
    evaluation_rows: int | None = None,
    say: Say = print,
) -> list[dict[str, Any]]:
    """Every task below a folder by every method; `out/table.json` holds the cells, `out/table.txt` what is printed.

    Args:
        folder: holds a folder a task, by the task's name.
        out: cells that stand there already are not run again.
        budget: the same for every method.
        backbone: as `load_backbone` takes it.
        tasks: names; none given: all that the folder holds.
        methods: names out of METHODS; none given: all.
        rows: a seeded sample of the training rows.
        evaluation_rows: a seeded sample of the rows to be judged on; None takes all.
        say: takes each line.

    Raises:
        ValueError: an unknown task or method, or an `out` that holds the table of another setting.
        FileNotFoundError: a task's folder is not there.
    """
    chosen = _chosen(folder, tasks, methods)
    setting = {"backbone": backbone, "budget": budget.to_dict(), "rows": rows, "evaluation_rows": evaluation_rows}
    cells = read_cells(out / "table.json", setting)
    done = {(cell["task"], cell["method"]) for cell in cells}
    for name in chosen[0]:
        missing = [method for method in chosen[1] if (name, method) not in done]
        if not missing:
            continue
        task = subsample(load_task(name, folder=folder / name, rows=rows, seed=budget.seed), evaluation_rows)
        for method in missing:
            cell = run_cell(task, method, backbone, budget)
            cells.append(cell)
            record = {**setting, "versions": versions(), "cells": cells}
            write_text(out / "table.json", json.dumps(finite(record), indent=1, allow_nan=False) + "\n")
            say(line(cell))
    wanted = [cell for cell in cells if cell["task"] in chosen[0] and cell["method"] in chosen[1]]
    text = table(wanted, setting)
    write_text(out / "table.txt", text + "\n")
    say("\n" + text)
    return wanted


def run_cell(task: Task, method: str, backbone: str, budget: Budget) -> dict[str, Any]:
    """One method on one task: figures, counts, and what the data lost to `max_length`."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = METHODS[method](task, backbone, budget)
    said = sorted({str(w.message) for w in caught if issubclass(w.category, TextsCut | Undefined)})
    return {
        "task": task.name,
        "method": method,
        "metrics": _metrics(task, outcome),
        "seconds": round(outcome.seconds, 2),
        "seconds_with_evaluation": round(time.perf_counter() - start, 2),
        "trained_parameters": outcome.trained,
        "kept_parameters": outcome.kept,
        "training_rows": len(task.train),
        "evaluation_rows": {part.name: len(part.evaluation) for part in task.evaluation_tasks()},
        "notes": said,
        "seed": budget.seed,
    }


def _metrics(task: Task, outcome: Outcome) -> dict[str, float]:
    """The task's metrics; those of further rows carry their name (`accuracy, mismatched`)."""
    found: dict[str, float] = {}
    for part, result in zip(task.evaluation_tasks(), outcome.evaluations, strict=True):
        suffix = part.name.removeprefix(task.name).lstrip("-")
        found |= {f"{name}, {suffix}" if suffix else name: value for name, value in result.shown.items()}
    return found


def _chosen(folder: Path, tasks: Sequence[str], methods: Sequence[str]) -> tuple[list[str], list[str]]:
    for name in tasks:
        if name not in PAPER_TASKS:
            raise unknown("Task", name, PAPER_TASKS)
    for name in methods:
        if name not in METHODS:
            raise unknown("Method", name, METHODS)
    there = [name for name in PAPER_TASKS if (folder / name).is_dir()]
    if not there:
        raise FileNotFoundError(
            f"{folder} holds no task's folder: expected one or more of {', '.join(PAPER_TASKS)}, each with train.* and "
            "validation.* (subj, mpqa: test.*)."
        )
    return list(tasks) or there, list(methods) or list(METHODS)


def read_cells(path: Path, setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of an earlier run of the same setting. Raises ValueError where it was another one."""
    if not path.is_file():
        return []
    kept = json.loads(path.read_text(encoding="utf-8"))
    for name, value in json.loads(json.dumps(setting)).items():
        if kept.get(name) != value:
            raise ValueError(
                f"{path} holds a table with {name} = {kept.get(name)}: expected {value}. Give another --out, or delete "
                "it."
            )
    return list(kept["cells"])


def finite(value: Any) -> Any:
    """The value with None in the place of nan and infinities, which JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


# -- what is printed ---------------------------------------------------------------------------------------


def line(cell: Mapping[str, Any]) -> str:
    """A finished cell."""
    return (
        f"{cell['task']:6}{cell['method']:20}{words(cell['metrics']):40}{cell['seconds']:8.1f} s"
        f"{cell['trained_parameters']:>10,} trained"
    )


def words(metrics: Mapping[str, float | None]) -> str:
    """`accuracy 91.2 %, f1 93.0 %`."""
    return ", ".join(
        f"{name} undefined" if value is None or math.isnan(value) else f"{name} {100 * value:.1f}{unit(name)}"
        for name, value in metrics.items()
    )


def table(cells: Iterable[Mapping[str, Any]], setting: Mapping[str, Any]) -> str:
    """Tasks down, methods across: the task's metrics times 100, seconds of training, parameters trained and kept."""
    cells = list(cells)
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    found = {(cell["task"], cell["method"]): cell for cell in cells}
    head = f"{'task':6}{'metric':22}" + "".join(f"{name:>20}" for name in methods)
    lines = [head, "-" * len(head)]
    for task in dict.fromkeys(cell["task"] for cell in cells):
        here = [found.get((task, method)) for method in methods]
        first = next(cell for cell in here if cell)
        for name in first["metrics"]:
            values = [_value(cell["metrics"][name] if cell else None) for cell in here]
            lines.append(f"{task:6}{name:22}" + "".join(f"{value:>20}" for value in values))
        for title, field, form in (
            ("seconds", "seconds", ".1f"),
            ("trained", "trained_parameters", ","),
            ("kept", "kept_parameters", ","),
        ):
            values = [format(cell[field], form) if cell else "-" for cell in here]
            lines.append(f"{'':6}{title:22}" + "".join(f"{value:>20}" for value in values))
    lines.append("")
    lines.append(f"{setting['backbone']}, {json.dumps(setting['budget'])}")
    for task in dict.fromkeys(cell["task"] for cell in cells):
        lines += _notes([cell for cell in cells if cell["task"] == task])
    return "\n".join(lines)


def _value(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _notes(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    first = cells[0]
    judged = ", ".join(f"{rows:,} ({name})" for name, rows in first["evaluation_rows"].items())
    said = sorted({note for cell in cells for note in cell["notes"]})
    return [f"{first['task']}: trained on {first['training_rows']:,} rows, judged on {judged}"] + [
        f"  {note}" for note in said
    ]
