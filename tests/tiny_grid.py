"""A tiny backbone and task in folders, and grids of runs on them that take fractions of a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
import tiny_task

from adamix_lab.experiments.settings import Run

VARIANTS: dict[str, dict[str, Any]] = {"AdaMix": {}, "no sharing": {"share": "none"}, "single": {"method": "single"}}


def make(folder: Path) -> dict[str, Any]:
    """The settings that all tiny runs have, with the backbone and the task that they name written into a folder."""
    tiny.bert(0.1, num_labels=3, max_position_embeddings=128).save_pretrained(folder / "model")
    tiny_task.tokenizer().save_pretrained(folder / "model")
    task = tiny_task.task(60)
    (folder / "task").mkdir()
    for part, rows in {"train": task.train, "validation": task.evaluation}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "task" / f"{part}.jsonl").write_text(text, encoding="utf-8")
    return {
        "task": str(folder / "task"), "backbone": str(folder / "model"), "steps": 6, "batch_size": 8, "experts": 2,
        "size": 4, "lr": 5e-3, "top_blocks": 2, "max_length": 10,
    }  # fmt: skip


def run(base: dict[str, Any], **changes: Any) -> Run:
    return Run(**{**base, **changes})


def table(base: dict[str, Any], seeds: int = 2, **changes: Any) -> dict[str, Any]:
    axes = {"seed": list(range(seeds)), "variant": VARIANTS}
    return {"base": {**base, **changes}, "axes": axes}


def measured(results: Any) -> Any:
    """A table of results without what may differ between two performances of the same runs."""
    timed = ["seconds", "evaluation_seconds", "date"]
    return results.drop(columns=timed).sort_values(["run", "strategy", "metric"]).reset_index(drop=True)
