"""The card of the shipped writers, out of their own notes: how they were trained, and what they realise."""

from __future__ import annotations

from pathlib import Path

from adamix_lab.analysis.statistics import format_interval
from adamix_lab.core.files import write_text
from adamix_lab.core.saving import CONFIG, read_config
from adamix_lab.generation.shipped import (
    ADAPTATION,
    BACKBONE,
    EXPERTS,
    SEEDS,
    STRATEGIES,
    TARGETS,
    TASK,
    load_texts,
    percent,
    place_of,
)
from adamix_lab.generation.tasks import load_generation_task


def write_card(folder: Path) -> Path:
    """Writes `README.md` beside the experts, out of their own notes. Raises FileNotFoundError where none is there."""
    seeds = [seed for seed in SEEDS if (folder / "adamix" / f"seed{seed}" / CONFIG).is_file()]
    configs = [read_config(place_of("adamix", seed, folder)) for seed in seeds or SEEDS[:1]]
    notes, task = [config["notes"] for config in configs], load_generation_task(TASK)
    recipe, versions = notes[0]["recipe"], configs[0]["versions"]
    rows = {each: [percent(load_texts("adamix", seed, folder)[each], task) for seed in seeds] for each in STRATEGIES}
    size = sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 1e6
    lines = [
        "# Shipped writers: experts on the embedded decoder",
        "",
        f"AdaMix on `{BACKBONE}` (frozen) and the embedded task `{TASK}`: LoRA of rank {ADAPTATION.rank} on "
        f"{', '.join(TARGETS)} of the top two blocks, M = {EXPERTS}, a shared B, routes drawn for each batch, "
        f"consistency {recipe['consistency']['weight']:g}. {recipe['steps']} steps of {recipe['batch_size']} pairs, "
        f"rate {recipe['lr']:g}, precision {recipe['precision']}. Seeds {', '.join(map(str, seeds))}; float16 "
        f"safetensors, {size:.1f} MB in all.",
        "",
        f"Made by `adamix-lab lesson-writers` (which also writes this page): torch {versions['torch']}, transformers "
        f"{versions['transformers']}, {notes[0]['device']}; seconds a seed: "
        f"{', '.join(format(note['seconds'], '.0f') for note in notes)}. `load_writer(seed=0)` loads one; "
        "`texts.json` holds what each wrote for every evaluation source, `explored.json` what the lesson's widget "
        "shows.",
        "",
        "## Slots realised",
        "",
        f"In % of the slots of {len(task.sources)} evaluation sources, greedy unless said, mean ± 95 % t-interval over "
        "seeds.",
        "",
        "| decoding | slots realised | by seed |",
        "|---|---|---|",
        *(
            f"| {each} | {format_interval(values)} | {' '.join(f'{value:.1f}' for value in values)} |"
            for each, values in rows.items()
        ),
        "",
        "*fixed-N*: expert N in every layer. *random*: one random route a text. *anew*: a new route for every token.",
        "",
    ]
    path = folder / "README.md"
    write_text(path, "\n".join(lines))
    return path
