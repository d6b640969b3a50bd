"""Results in the schema of `adamix-lab ablate`, with a known truth: what variants are better by, and a spread."""

import json

import numpy as np
import pandas as pd

TASKS = ("rte", "mrpc", "sst2")
STRATEGIES = {"merged": 0.0, "fixed": 0.0, "random": 0.0, "ensemble": 0.0}
PARAMETERS = {"AdaMix": (30000, 7000), "single": (9000, 7000), "full": (22000000, 22000000)}


def results(
    effects,
    seeds=5,
    tasks=TASKS,
    strategies=STRATEGIES,
    spread=0.4,
    steps=300,
    compute=(),
    examples=0,
    by_task=None,
    rows=None,
    draws=1,
):
    """A table: scores are 80 % plus an effect in points and a spread, drawn apart for each run.

    effects: points by variant. strategies: points by strategy of mixtures. compute: variants with rows at equal
    compute. by_task: factors of the effects. draws: rows of strategy "random" a run.
    """
    rng = np.random.default_rng(0)
    made = []
    for task in tasks:
        for variant, effect in effects.items():
            mixture = "AdaMix" in variant or "shar" in variant or "consistency" in variant
            trained, inference = PARAMETERS.get(variant, (30000, 7000))
            for budget in ("steps", *(["compute"] if variant in compute else [])):
                for seed in range(seeds):
                    own = effect * (by_task or {}).get(task, 1.0) + spread * rng.standard_normal()
                    for strategy, points in (strategies if mixture else {"merged": 0.0}).items():
                        for _ in range(draws if strategy == "random" else 1):
                            noise = 0.3 * spread * rng.standard_normal() if strategy != "merged" else 0.0
                            value = 0.8 + (own + points + noise) / 100
                            for metric, primary in (("accuracy", True), ("loss", False)):
                                made.append(
                                    {
                                        "run": f"{task}-{variant}-{seed}-{budget}-{examples}", "task": task,
                                        "variant": variant, "method": "adamix" if mixture else variant,
                                        "experts": 4 if mixture else 1, "size": 16,
                                        "share": "up" if mixture else "none",
                                        "consistency": 1.0, "routing": "batch", "examples": examples, "seed": seed,
                                        "steps": steps, "compute": budget, "strategy": strategy, "metric": metric,
                                        "primary": primary, "value": value if primary else 1 - value,
                                        "seconds": 10.0, "evaluation_seconds": 1.0,
                                        "operations": 2e12 if mixture else 1e12, "trained": trained,
                                        "stored": inference, "inference": inference, "device": "cpu",
                                        "versions": json.dumps({"torch": "2.13.0"}), "date": "2026-11-21",
                                        "settings": json.dumps({"rows": rows, "backbone": "minilm"}),
                                    }
                                )  # fmt: skip
    return pd.DataFrame(made)


def predictions(table, rows=200):
    """Answers of each run and strategy that are right as often as its score says."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, rows)
    parts = []
    for run, strategy, value in table.loc[table["primary"], ["run", "strategy", "value"]].itertuples(index=False):
        wrong = rng.random(rows) > value
        parts.append(
            pd.DataFrame(
                {
                    "run": run,
                    "strategy": strategy,
                    "row": range(rows),
                    "label": labels.astype(float),
                    "prediction": np.where(wrong, 1 - labels, labels).astype(float),
                    "probability_of_label": np.float32(0.5),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def curves(table, slower=("no sharing",), steps=(1, 100, 200, 300)):
    """Falling training losses; those of the slower variants are higher all along."""
    rng = np.random.default_rng(2)
    made = []
    for run, variant in table[["run", "variant"]].drop_duplicates().itertuples(index=False):
        level = 0.02 * rng.standard_normal() + (0.2 if variant in slower else 0.0)
        for step in steps:
            loss = 0.3 + level + 0.7 * np.exp(-step / 100)
            made.append({"run": run, "step": step, "loss": loss + 0.1, "task_loss": loss, "consistency": 0.1})
    return pd.DataFrame(made)


def write(folder, table, with_rest=True):
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "results.parquet")
    if with_rest:
        predictions(table).to_parquet(folder / "predictions.parquet")
        curves(table).to_parquet(folder / "curves.parquet")
    return folder
