"""The tour: AdaMix beside a single adapter on few sentences with many wrong labels (data/grids/tour.yaml).

One seed is trained. `data/results/tour` has ten others, which `perform_seed` made, too; they decide what is said.
"""

from __future__ import annotations

import json
import textwrap
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from adamix_lab.analysis.calibration import describe_mistakes, disagreements
from adamix_lab.analysis.plots import STYLES, Picture, despine, panels, save_figure
from adamix_lab.analysis.statistics import ALIKE, SHOWN, Estimate, Judged, t_interval, verdict_of
from adamix_lab.baselines.making import linear_probe
from adamix_lab.core.files import alone, read_json, write_text
from adamix_lab.core.merging import merge
from adamix_lab.experiments.grids import read_grid
from adamix_lab.experiments.running import load, mixture_of, prepare, task_of, train_whole
from adamix_lab.experiments.settings import Run, with_side
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.tasks.batches import TextsCut, sequential, to_device
from adamix_lab.tasks.metrics import text_table
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import Evaluation, evaluate_batches
from adamix_lab.training.report import parameter_report, save
from adamix_lab.training.run import holding, newest_checkpoint

PROBE, SINGLE, ADAMIX, SLOW = "linear probe", "single adapter", "AdaMix (up shared)", "single adapter, lr/M + SWA"
AGAINST = {
    PROBE: "a tuned linear probe of the frozen features",
    SINGLE: "the single adapter at the same rate",
    SLOW: "the same single adapter with 1/M of the rate on the side that AdaMix routes, averaged over its steps (SWA)",
}
DIGITS = {"points": 1, "nats": 3}
COLOURS = {SINGLE: "single", ADAMIX: "merged", SLOW: "dropout", PROBE: "probe"}  # the styles that they are drawn in
COMPARISONS = len(AGAINST) * len(DIGITS)  # judged together
EVERY = 25  # steps between looks

Look = dict[str, float]  # step, loss, accuracy


@dataclass(frozen=True)
class Line:
    """A line of the table: a model, how it answers, and what it does on each row to be judged on.

    Attributes:
        points, nats: `[rows]`; 100 where the answer is right, else 0, and the loss. Of experts, their mean.
        passes: of the model, for an answer.
        used: parameters that inference adds to the base, the head included.
    """

    model: str
    strategy: str
    points: Tensor
    nats: Tensor
    passes: int = 1
    used: int = 0

    def mean(self, unit: str) -> float:
        """The accuracy in points, or the loss in nats."""
        return float(getattr(self, unit).mean())


@dataclass(frozen=True)
class Learned:
    """A model of the tour behind its last step.

    Attributes:
        lines: a line for each way to answer.
        looks: of each look on the way the step, the loss on the labels as given, and the accuracy on other rows.
        on_train: log-probabilities of the rows that it trained on `[rows, C]`; empty of the probe.
        mixture: the whole model; None of the probe.
        seconds: of training.
    """

    lines: list[Line]
    looks: list[Look] = field(default_factory=list)
    on_train: Tensor = field(default_factory=Tensor)
    mixture: MixtureModel | None = None
    seconds: float = 0.0


@alone("folder")
def run_tour(folder: Path, steps: int | None = None, say: Callable[[str], None] = print) -> list[Line]:
    """Trains, compares, writes table, picture and the trained mixture into a folder; says what to open next.

    A killed tour goes on from its checkpoints. Returns the table's lines. With other steps than those of the stored
    seeds, nothing stands beside the live one.
    """
    changes: dict[str, Any] = {} if steps is None else {"steps": steps}
    runs = read_grid("tour", **changes).runs
    task, ten = task_of(runs[0]), stored_seeds(runs)
    say(f"{len(task.train):,} sentences to train on, {len(task.evaluation):,} to be judged on; MiniLM stays frozen.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextsCut)  # few rows, and all models read as much of them
        found = perform_seed(runs, folder / "runs", say)
    lines = [line for model in found.values() for line in model.lines]
    looks = {name: model.looks for name, model in found.items() if model.looks}
    picture = draw_looks(looks)
    two = {name: found[name].on_train for name in (SINGLE, ADAMIX)}
    summary = [picture.alt, *sentences(lines, ten, runs[0].seed), describe_mistakes(two, task, task.train)]
    say(f"\n{table(lines, ten)}\n")
    for text in "\n".join(summary).splitlines():
        say(textwrap.fill(text, 110, subsequent_indent="  "))
    save_figure(picture.figure, folder / "tour.png", picture.alt)
    write_text(folder / "mistakes.csv", disagreements(two, task, task.train).to_csv(index=False))
    mixture, notes = found[ADAMIX].mixture, {"task": task.name, "backbone": "minilm", "classes": list(task.classes)}
    assert mixture is not None
    save(mixture, folder / "adamix", notes)
    save(merge(mixture), folder / "merged", notes)
    figures = [vars(line) | {unit: line.mean(unit) for unit in DIGITS} for line in lines]
    seconds = {"training": sum(model.seconds for model in found.values()), "processor": time.process_time()}
    record = {"lines": figures, "summary": summary, "looks": looks, "seconds": seconds, "versions": versions()}
    write_text(folder / "tour.json", json.dumps(record, indent=1) + "\n")
    say(
        f"\nTraining took {seconds['training']:.0f} s, the whole tour {seconds['processor']:.0f} s of processor time "
        f"({torch.get_num_threads()} threads). Written to {folder}: tour.png, tour.json, mistakes.csv, adamix/, merged/"
    )
    say("Next: `make lab` opens the notebooks (begin with 00_tour); or ask the merged model:")
    say(f'  python bootstrap.py run -m adamix_lab predict {folder / "merged"} "the plot is thin , but the leads shine"')
    return lines


# -- a seed --------------------------------------------------------------------------------------------------------


def perform_seed(runs: Sequence[Run], folder: Path, say: Callable[[str], None] = print) -> dict[str, Learned]:
    """Trains and judges the runs of a seed; goes on from the checkpoints that an earlier try left in the folder."""
    found = {}
    for run in runs:
        name, task = with_side(run.variant, run.method, run.share), task_of(run)
        if run.method == "probe":
            model, tokenizer = load(run, task)
            probe = linear_probe(model, task, tokenizer, run.max_length)
            found[name] = Learned([_line(name, "alone", [probe])])
        else:
            found[name] = _learn(run, name, folder / run.key)
            say(f"  trained {name}: {run.steps} steps, {found[name].seconds:.0f} s")
    return found


def _learn(run: Run, name: str, work: Path) -> Learned:
    prepared = prepare(run)
    top, recipe = prepared.mixture, replace(prepared.recipe, checkpoint_every=EVERY)
    device, kept = next(top.parameters()).device, work / "looks.json"
    parts = sequential(prepared.training, 64, prepared.pad), prepared.judged[""]
    training, judged = ([(rows, to_device(batch, device)) for rows, batch in part] for part in parts)
    looks: list[Look] = read_json(kept, "the looks of a run. Delete it.") if kept.is_file() else []

    def look(step: int) -> None:
        found = newest_checkpoint(work)  # it holds the average over steps, too
        at = found.step if found else 0
        if step % EVERY in (0, run.steps % EVERY) and at not in [each["step"] for each in looks]:
            with holding(top, (found.part("average") or found.part("weights")) if found else {}):
                given, other = (evaluate_batches(top, batches, "merged") for batches in (training, judged))
            looks.append({"step": at, "loss": given.loss, "accuracy": 100 * other.accuracy})
            write_text(kept, json.dumps(looks) + "\n")

    look(0)
    done = train_whole(replace(prepared, recipe=recipe), work, look, progress=True)
    mixture, _ = mixture_of(run, prepared.task)
    load_trained(mixture, {path: tensor.cpu() for path, tensor in trained_tensors(top).items()})
    counts, lines = parameter_report(mixture), []
    ways = {"merged": ["merged"], "experts": [f"fixed-{n}" for n in range(run.experts)]}
    ways |= {name: [name] for name in ("random", "ensemble")}
    for strategy, names in (ways if run.method == "adamix" else {"alone": ["merged"]}).items():
        used = counts.head + (counts.experts if strategy in ("random", "ensemble") else counts.merged)
        lines.append(_line(name, strategy, [evaluate_batches(top, judged, each, run.seed) for each in names], used))
    on_train = evaluate_batches(top, training, "merged")
    return Learned(lines, looks, on_train.log_probabilities, mixture.eval(), done.seconds)


def _line(model: str, strategy: str, results: Sequence[Evaluation], used: int = 0) -> Line:
    points = 100 * torch.stack([result.right for result in results]).double().mean(0)
    nats = [F.nll_loss(result.log_probabilities, result.labels, reduction="none") for result in results]
    return Line(model, strategy, points, torch.stack(nats).double().mean(0), results[0].passes, used)


# -- the stored seeds ----------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """Of a line, over the stored seeds and the rows: its own mean, and AdaMix merged minus it."""

    own: Estimate
    difference: Estimate
    by_seed: list[float]  # the difference


Ten = Mapping[tuple[str, str, str], Stored]  # by model, strategy, unit


def stored_seeds(runs: Sequence[Run], folder: Path | None = None) -> Ten:
    """What `data/results/tour/make.py` stored; empty where its runs had other settings than these (seeds aside)."""
    import pandas as pd

    folder = folder or data_root() / "results" / "tour"
    stored = read_json(folder / "record.json", "what the stored seeds are.")["settings"]
    if stored.keys() != {replace(run, seed=0).key for run in runs}:
        return {}
    table = pd.read_csv(folder / "seeds.csv", index_col=["model", "strategy", "unit"])
    seeds, found = table[[name for name in table if name.isdigit()]], {}
    for key, row in table.iterrows():
        difference = seeds.loc[(ADAMIX, "merged", key[2])] - seeds.loc[key]
        own = t_interval(seeds.loc[key], row["rows_own"])
        found[key] = Stored(own, t_interval(difference, row["rows_difference"]), difference.tolist())
    return found


# -- what is said --------------------------------------------------------------------------------------------------


def table(lines: Sequence[Line], ten: Ten) -> str:
    """The lines as text; beside each figure the stored seeds' mean with its 95 % interval over seeds and rows."""
    rows = []
    for n, line in enumerate(lines):
        row = {"model": "" if n and lines[n - 1].model == line.model else line.model, "strategy": line.strategy}
        for (unit, digits), head in zip(DIGITS.items(), ("accuracy (%)", "loss"), strict=True):
            row[head] = f"{line.mean(unit):.{digits}f}"
            if ten:
                own = ten[line.model, line.strategy, unit].own
                row[f"{head}, stored seeds"] = f"{own.mean:.{digits}f} ± {own.half_width:.{digits}f}"
        rows.append(row | {"passes": f"{line.passes}", "at inference": f"{line.used:,}"})
    return text_table(rows)


def sentences(lines: Sequence[Line], ten: Ten, seed: int) -> list[str]:
    """What the stored seeds say of AdaMix against each other model, whoever wins, and how the live one stands.

    The differences in points and in nats are judged as six comparisons whose intervals hold together.
    """
    said, live, judged = [], [], {}
    means = {(line.model, line.strategy): line.mean("points") for line in lines}
    for name, who in AGAINST.items():
        live.append(f"{means[ADAMIX, 'merged'] - means[name, 'alone']:+.1f} ({name}")
        if ten:
            both = {unit: ten[name, "alone", unit] for unit in DIGITS}
            judged[name] = [verdict_of(each.difference, unit, COMPARISONS) for unit, each in both.items()]
            said.append(f"Against {who}: {' '.join(map(difference_sentence, judged[name]))}")
            live[-1] += f"; stored {min(both['points'].by_seed):+.1f} to {max(both['points'].by_seed):+.1f}"
    if ten:
        said.append(reading(judged[SINGLE][0], judged[SLOW][0]))
    here = f"In the seed that was just trained ({seed}) the differences are, in points, {'), '.join(live)})."
    return [*said, f"{here} One seed decides nothing{'' if ten else '; the stored ones had other settings'}."]


def difference_sentence(judged: Judged) -> str:
    """AdaMix merged minus another model over the stored seeds, with the verdict."""
    digits, mean = DIGITS[judged.unit], judged.estimate.mean
    size = f"{abs(mean):.{digits}f} {judged.unit} {'higher' if mean > 0 else 'lower'}"
    interval = (
        f"{judged.low:+.{digits}f} to {judged.high:+.{digits}f}, with 95 % for all {judged.comparisons} differences"
    )
    verdict = {SHOWN: "which is shown", ALIKE: "so that the two are alike"}.get(judged.verdict, "which is not shown")
    what = "the accuracy of AdaMix merged" if judged.unit == "points" else "Its loss"
    return f"{what} is {size} over {judged.estimate.number} seeds ({interval}), {verdict}."


def reading(single: Judged, slow: Judged) -> str:
    """What the two differences in points mean together."""
    gain, left = single.estimate.mean, slow.estimate.mean
    if single.verdict != SHOWN or gain < 0:
        worse = "is worse than" if single.verdict == SHOWN else "is not shown to be better than"
        return f"AdaMix {worse} a single adapter at the same rate, so there is no gain to take apart."
    both = f"Small steps and an average give one adapter {gain - left:.1f} points where AdaMix gains {gain:.1f}: "
    if slow.verdict == SHOWN:
        return both + ("AdaMix has something of its own." if left > 0 else "they do more than AdaMix does.")
    if slow.verdict == ALIKE:
        return both + "routes, experts and merging add nothing that matters."
    return both + "that routes, experts and merging add anything is not shown."


LOOKED_AT = {"loss": "loss on the training labels as given", "accuracy": "accuracy on true labels (%)"}


def draw_looks(looks: Mapping[str, Sequence[Look]], *what: str) -> Picture:
    """Each model's looks against steps, a panel for each of LOOKED_AT that is named, all of them by default."""
    what = what or tuple(LOOKED_AT)
    figure, axes = panels(len(what), 5.25 * len(what), 4.2)
    said = [f"{' and '.join(LOOKED_AT[key] for key in what).capitalize()}, step by step."]
    for name, own in looks.items():
        colour, marker = STYLES[COLOURS[name]]
        for ax, key in zip(axes, what, strict=True):
            ax.plot(*([look[of] for look in own] for of in ("step", key)), color=colour, marker=marker, label=name)
            ax.set(xlabel="step", ylabel=LOOKED_AT[key])
            despine(ax)
        best, last = max(own, key=lambda look: look["accuracy"]), own[-1]
        told = {
            "loss": f"the loss goes from {own[0]['loss']:.2f} to {last['loss']:.2f}",
            "accuracy": f"the accuracy is {best['accuracy']:.1f} % at best, after {best['step']} steps, and "
            f"{last['accuracy']:.1f} % at the end",
        }
        said.append(f"{name[0].upper()}{name[1:]}: {'; '.join(told[key] for key in what)}.")
    axes[0].legend(frameon=False)
    return Picture(figure, " ".join(said))
