"""The card of the shipped experts: what was trained, how, and the measured effects, written from their own notes."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from adamix_lab.analysis.statistics import format_interval
from adamix_lab.core.files import write_text
from adamix_lab.core.saving import read_config
from adamix_lab.training.shipped import EXPERTS, RECIPE, SEEDS, STAGES, TWINS

WHAT = {
    "adamix": "shared up-projection, independent routes, consistency 1",
    "no-consistency": "the same, one view a step",
    "unshared-tied": "nothing shared, down i always with up i, one view a step",
    "apart": "four single adapters trained one by one, side by side; the heads, which start alike, averaged",
}


def write_card(folder: Path) -> Path:
    """Writes `README.md` beside the experts. Raises FileNotFoundError where a twin is not there."""
    path = folder / "README.md"
    write_text(path, card(folder))
    return path


def card(folder: Path) -> str:
    """The card's text: means with 95 % t-intervals over seeds, and paired differences between merge and experts."""
    notes = {(t, s, g): _notes(folder, t, s, g) for t in TWINS for s in SEEDS for g in STAGES}
    config = read_config(folder / "adamix" / "seed0" / "late")
    size = sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 1e6
    lines = [
        "# Shipped experts: four twins on the embedded task",
        "",
        f"MiniLM frozen; M = {EXPERTS} bottleneck adapters of 16 in the top two blocks; {RECIPE.steps} steps of "
        f"{RECIPE.batch_size} rows, lr {RECIPE.lr:g}, head {RECIPE.head_lr:g}, the same recipe for every twin. "
        f"Seeds {', '.join(map(str, SEEDS))}; stages: "
        + ", ".join(f"{stage} ({100 * share:.0f} % of the steps)" for stage, share in STAGES.items())
        + f". float16 safetensors, {size:.1f} MB in all.",
        "",
        "Made by `adamix-lab twins` (which also writes this page): torch {torch}, transformers {transformers}, ".format(
            **config["versions"]
        )
        + f"{notes['adamix', 0, 'late']['device']}. `load_twin(name, seed, stage)` loads one.",
        "",
        *(f"- **{name}**: {WHAT[name]}." for name in TWINS),
        "",
        "## Effects",
        "",
        f"Accuracy in % on the evaluation rows, stage late, mean and 95 % t-interval over {len(SEEDS)} seeds. "
        "*Fixed*: the mean of the four experts, each alone. *Merged minus fixed*: paired by seed.",
        "",
        "| twin | fixed | merged | ensemble of 4 | merged minus fixed | adapters off | seconds a seed |",
        "|---|---|---|---|---|---|---|",
        *(_row(name, [notes[name, seed, "late"] for seed in SEEDS]) for name in TWINS),
        "",
        "Each adapter trained apart, with its own head: " + _own([notes["apart", s, "late"] for s in SEEDS]) + ".",
        "",
        "Merged, by stage (mean over seeds):",
        "",
        "| twin | " + " | ".join(STAGES) + " |",
        "|---|" + "---|" * len(STAGES),
        *(f"| {name} | " + " | ".join(f"{_mean(name, stage, notes):.1f}" for stage in STAGES) + " |" for name in TWINS),
        "",
    ]
    return "\n".join(lines)


def _notes(folder: Path, twin: str, seed: int, stage: str) -> dict[str, Any]:
    notes: dict[str, Any] = read_config(folder / twin / f"seed{seed}" / stage)["notes"]
    return notes


def _percent(notes: dict[str, Any], strategy: str) -> float:
    return 100 * float(notes["results"][strategy]["accuracy"])


def _fixed(notes: dict[str, Any]) -> float:
    return statistics.fmean(_percent(notes, f"fixed-{n}") for n in range(EXPERTS))


def _row(name: str, runs: list[dict[str, Any]]) -> str:
    merged = [_percent(run, "merged") for run in runs]
    fixed = [_fixed(run) for run in runs]
    cells = [
        format_interval(fixed),
        format_interval(merged),
        format_interval([_percent(run, "ensemble") for run in runs]),
        format_interval([m - f for m, f in zip(merged, fixed, strict=True)]),
        format_interval([_percent(run, "off") for run in runs]),
        f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _own(runs: list[dict[str, Any]]) -> str:
    return format_interval([statistics.fmean(_percent(run, f"own-{n}") for n in range(EXPERTS)) for run in runs]) + " %"


def _mean(name: str, stage: str, notes: dict[tuple[str, int, str], dict[str, Any]]) -> float:
    return statistics.fmean(_percent(notes[name, seed, stage], "merged") for seed in SEEDS)
