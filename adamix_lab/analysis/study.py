"""What the commands `landscape` and `posterior` write: arrays, tables and pictures of shipped or saved experts."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adamix_lab.analysis import calibration, plots, posterior
from adamix_lab.analysis.calibration import Method
from adamix_lab.analysis.landscape import METRICS, Landscape, Say, evaluate_points, sample, task_batches
from adamix_lab.analysis.points import Points, experts_of, line, plane, point_of, random_plane, simplex
from adamix_lab.analysis.posterior import FixedBatches, Samples, fix_batches, merged_sample
from adamix_lab.core.errors import LabError, one_of, unknown
from adamix_lab.core.files import alone, write_atomically, write_text
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.tree import check_budget
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import allowed_length, check_answers, check_labels
from adamix_lab.tasks.loading import load_task, saved_task
from adamix_lab.tasks.tasks import Row, Task, hold_out
from adamix_lab.training.doctor import versions
from adamix_lab.training.shipped import learners, load_saved, load_twin, trained_length

if TYPE_CHECKING:
    from pandas import DataFrame


# -- landscapes of shipped or saved experts --------------------------------------------------------------------------

KINDS = {  # name: points along an axis
    "line": 41,  # from expert 0 to expert 1
    "plane": 21,  # through experts 0 and 1 and the merge
    "random": 21,  # two random, filter-normalised directions around the merge
    "triangle": 10,  # mixtures of experts 0, 1 and 2
}


def points_of_kind(kind: str, mixture: MixtureModel, steps: int | None = None, seed: int = 0) -> Points:
    """The points of one of the KINDS. Raises ValueError for an unknown kind, and too few experts."""
    one_of("kind of landscape", kind, KINDS)
    steps, merged = KINDS[kind] if steps is None else steps, {"merged": point_of(mixture)}
    if kind == "random":
        return random_plane(merged, generator_for(seed), steps)
    if kind == "line":
        return line(experts_of(mixture, 2), steps, beyond=0.25)
    if kind == "plane":
        return plane({**experts_of(mixture, 2), **merged}, steps)
    return simplex(experts_of(mixture, 3), steps)


def choose_device(device: str | None) -> str:
    """The device asked for; without one, a GPU if there is one. Raises ValueError for a GPU that is not there."""
    available = torch.cuda.is_available()
    if device and device.startswith("cuda") and not available:
        raise LabError(
            f"device = {device!r}: expected a GPU that PyTorch can use, and there is none here. Leave `device` out: "
            "the CPU computes the same, with fewer steps in the same time."
        )
    return device or ("cuda" if available else "cpu")


def landscape_of(
    name: str,
    kind: str = "plane",
    seed: int = 0,
    stage: str = "late",
    steps: int | None = None,
    rows: int | None = None,
    batch_size: int = 64,
    dtype: str = "float32",
    device: str | None = None,
    task: Task | None = None,
    store: Path | None = None,
    say: Say = print,
) -> Landscape:
    """The landscape of a shipped twin, or of a saved folder, on rows of its task's evaluation set.

    Args:
        name: of a twin, or a folder that `save` wrote.
        kind: one of KINDS.
        seed: of the twin, and of random directions.
        stage: of the twin's training.
        steps: points along an axis.
        rows: so many of the evaluation set, always the same; None takes all.
        batch_size: rows a pass.
        dtype: "float32" or "bfloat16".
        device: None takes a GPU if there is one.
        task: whose rows; None takes the task that they were trained on.
        store: see `evaluate_points`.
        say: takes a line about resuming.

    Raises ValueError for unknown names, a task that the head does not answer, and a GPU that is not there,
    FileNotFoundError for other things missing.
    """
    one_of("dtype", dtype, ("float32", "bfloat16"))
    device = choose_device(device)
    if name in learners():
        (mixture, tokenizer), longest = load_twin(name, seed, stage), None
        task = task or load_task("aspects")
    elif Path(name).is_dir():
        mixture, tokenizer, config = load_saved(Path(name))
        longest = trained_length(config)
        task = task or saved_task(config["notes"])
    else:
        raise unknown("Twin, or folder,", name, learners())
    check_labels(mixture, task)
    check_answers(mixture, task)
    points = points_of_kind(kind, mixture, steps, seed)
    mixture = mixture.to(device, getattr(torch, dtype))
    longest = allowed_length(longest, mixture.model, tokenizer)
    batches = task_batches(task, tokenizer, rows, batch_size, longest, mixture.model)
    return evaluate_points(mixture, points, batches, store, seed=seed, say=say)


@alone("folder")
def write_landscapes(
    names: Sequence[str], kind: str, folder: Path, metrics: Sequence[str] = ("loss",), say: Say = print, **settings: Any
) -> dict[str, Landscape]:
    """Evaluates one kind of landscape of several sets of experts and writes an array file each and a picture a metric.

    settings: of `landscape_of`. A run that was killed goes on when it is called again.
    """
    one_of("kind of landscape", kind, KINDS)
    for metric in metrics:
        one_of("metric", metric, METRICS)
    stores = {name: folder / f"{kind}-{Path(name).name}.safetensors" for name in names}
    landscapes = {name: landscape_of(name, kind, store=store, say=say, **settings) for name, store in stores.items()}
    for metric in metrics:
        picture, path = plots.plot_landscapes(landscapes, metric), folder / f"{kind}-{metric}.png"
        plots.save_figure(picture.figure, path, picture.alt)
        say(f"{path}: {picture.alt}")
    return landscapes


# -- routes as random variables, of one saved mixture ----------------------------------------------------------------

ENSEMBLE = 16
INTERPRETATION = (
    "The distribution over routes is fixed and uniform, not fitted to data: an interpretation, no posterior in Bayes' "
    "sense. More routes bring the estimate nearer to the average over routes, not nearer to the truth."
)
Parts = dict[str, tuple[Task, list[Row]]]  # inside, held_out, outside


@dataclass(frozen=True)
class Settings:
    """How much is looked at.

    Attributes:
        rows: a seeded sample of so many evaluation rows.
        other_rows: so many rows held out of train (for temperatures), and from outside.
        draws: of each random strategy and of each T.
        token_draws: of a route a token.
        dropout: samples with dropout on; 0 leaves dropout out.
        routes: draw so many routes; None goes through all of them (the exact marginal).
        seed: of rows and draws.
    """

    rows: int = 400
    other_rows: int = 200
    draws: int = 200
    token_draws: int = 20
    dropout: int = 16
    routes: int | None = None
    seed: int = 0


@alone("out")
def write_posterior(
    folder: Path,
    out: Path,
    task: Task,
    settings: Settings | None = None,
    outside: Task | None = None,
    members: Sequence[Path] = (),
    say: Say = print,
) -> dict[str, DataFrame]:
    """Tables and pictures of a saved mixture: strategies, convergence (of exact marginals), uncertainty.

    Args:
        folder: as `adamix-lab train` writes it.
        out: for strategies.csv, draws.parquet, convergence.csv, uncertainty.csv, reliability.csv, PNGs with alt texts,
            record.json.
        task: the one it was trained on.
        settings: how much is looked at.
        outside: another task, whose evaluation text is the outside.
        members: folders of single adapters trained apart on the same backbone and task.
        say: takes lines.

    Raises ValueError for a task that the head does not answer, and where all routes are asked for and there are too
    many: says how many.
    """
    settings, start = settings or Settings(), time.perf_counter()
    mixture, tokenizer, config = load_saved(folder)
    if settings.routes is None:
        check_budget(mixture.space)
    check_labels(mixture, task)
    check_answers(mixture, task)
    notes = config["notes"]
    parts, description = _choose_rows(task, outside, notes.get("recipe") or {}, settings)
    say(f"{task.name}: {description}; {mixture.space.number:,} routes")
    longest = trained_length(config)
    fixed = _fix_parts(mixture, tokenizer, parts, longest)
    routes = {name: _under_routes(part, settings) for name, part in fixed.items()}
    say(f"routes answered after {time.perf_counter() - start:.0f} s")
    methods = _methods(fixed, routes, settings)
    if members:
        apart = [_fix_parts(*load_saved(member)[:2], parts, longest) for member in members]
        methods["single adapter, one"] = Method({name: merged_sample(part) for name, part in apart[0].items()})
        samples = {name: posterior.member_samples([member[name] for member in apart]) for name in parts}
        methods[f"apart, {len(members)} trained"] = Method(samples, len(members))
    inside, draws, seed = routes["inside"], settings.draws, settings.seed
    table = calibration.strategy_table(fixed["inside"], inside, draws, settings.token_draws, seed)
    tables = {"draws": table, "strategies": calibration.summary(table)}
    tables["uncertainty"] = calibration.compare_uncertainty(methods)
    if inside.exact:
        merged = methods["merged"].samples["inside"]
        tables["convergence"] = posterior.convergence(inside, merged, draws=draws, seed=seed)
    tables["reliability"] = _reliability(methods)
    record = {
        "task": task.name, "outside": outside.name if outside else None, "rows": description,
        "settings": asdict(settings),
        "mixture": {key: config.get(key) for key in ("adaptation", "experts", "share", "tied", "base")},
        "routes": mixture.space.number, "members": len(members), "recipe": notes.get("recipe"),
        "training_rows": notes.get("train_rows"), "interpretation": INTERPRETATION,
        "seconds": round(time.perf_counter() - start, 1), "versions": versions(),
    }  # fmt: skip
    _write(out, tables, f"{task.name}, M = {mixture.space.experts}", record)
    say(tables["strategies"].to_string(index=False, float_format="{:.4f}".format))
    say(tables["uncertainty"].set_index("method").T.to_string(float_format="{:.4f}".format))
    say(f"{INTERPRETATION}\nWritten to {out} after {record['seconds']:.0f} s.")
    return tables


def _choose_rows(inner: Task, outer: Task | None, recipe: Mapping[str, Any], settings: Settings) -> tuple[Parts, str]:
    """The task and the rows of each part, and a sentence that says what they are."""
    rng = random.Random(settings.seed)

    parts = {"inside": (inner, sample(inner.evaluation, settings.rows, rng))}
    sentence = f"{len(parts['inside'][1])} of {len(inner.evaluation)} evaluation rows"
    if fraction := recipe.get("dev_fraction"):
        _, dev = hold_out(inner.train, fraction, recipe.get("seed", 0), inner.label)
        parts["held_out"] = inner, sample(dev, settings.other_rows, rng)
        sentence += f", {len(parts['held_out'][1])} held out of training for temperatures"
    else:
        sentence += ", none held out of training: no temperatures"
    if outer is not None:
        parts["outside"] = outer, sample(outer.evaluation, settings.other_rows, rng)
        sentence += f", {len(parts['outside'][1])} of {outer.name} ({' + '.join(outer.text)}) as the outside"
    return parts, sentence


def _fix_parts(mixture: MixtureModel, tokenizer: Any, parts: Parts, most: int | None) -> dict[str, FixedBatches]:
    return {name: fix_batches(mixture, task, tokenizer, rows, max_length=most) for name, (task, rows) in parts.items()}


def _under_routes(part: FixedBatches, settings: Settings) -> Samples:
    if settings.routes is None:
        return posterior.every_route(part)
    return posterior.drawn_routes(part, settings.routes, settings.seed)


def _methods(fixed: Mapping[str, FixedBatches], routes: Mapping[str, Samples], settings: Settings) -> dict[str, Method]:
    every, exact = len(routes["inside"]), routes["inside"].exact
    picked = torch.randint(every, (ENSEMBLE,), generator=generator_for(settings.seed, ENSEMBLE))
    one, few = ({name: samples.subset(n) for name, samples in routes.items()} for n in (picked[:1], picked))
    methods = {
        "merged": Method({name: merged_sample(part) for name, part in fixed.items()}),
        "random route, one": Method(one),
        f"routes, {ENSEMBLE} drawn": Method(few, ENSEMBLE),
        "exact marginal" if exact else f"routes, all {every} drawn": Method(routes, every),
    }
    if passes := settings.dropout:
        samples = {name: posterior.dropout_samples(part, passes, settings.seed) for name, part in fixed.items()}
        methods[f"dropout, {passes} samples"] = Method(samples, passes)
    return methods


def _reliability(methods: Mapping[str, Method]) -> DataFrame:
    import pandas as pd

    inside = {name: method.samples["inside"] for name, method in methods.items()}
    return pd.concat(
        calibration.reliability(posterior.marginal(samples.logits), samples.labels).assign(method=name)
        for name, samples in inside.items()
    )


def _write(out: Path, tables: Mapping[str, DataFrame], title: str, record: Mapping[str, Any]) -> None:
    for name, table in tables.items():
        if name == "draws":  # large
            write_atomically(out / f"{name}.parquet", partial(table.to_parquet, index=False))
        else:
            write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    for name, picture in _pictures(tables, title).items():
        plots.save_figure(picture.figure, out / f"{name}.png", picture.alt)
    write_text(out / "record.json", json.dumps(record, indent=2) + "\n")


def _pictures(tables: Mapping[str, DataFrame], title: str) -> dict[str, plots.Picture]:
    pictures = {"reliability": plots.plot_reliability(tables["reliability"])}
    if "convergence" in tables:
        pictures["convergence"] = plots.plot_convergence(tables["convergence"], title)
    return pictures
