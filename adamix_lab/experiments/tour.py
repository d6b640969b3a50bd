"""The tour: AdaMix trained on the embedded task, beside what it should be compared with (data/grids/tour.yaml)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from adamix_lab.analysis.plots import Bar, compare, new_figure, save_figure
from adamix_lab.analysis.statistics import paired_interval, wilson
from adamix_lab.baselines.probe import linear_probe
from adamix_lab.core.files import write_text
from adamix_lab.core.merging import merge
from adamix_lab.experiments.ablation import shipped_grid
from adamix_lab.experiments.results import text_table
from adamix_lab.experiments.running import Terms, mixture_of, prepare, task_of, train_whole
from adamix_lab.experiments.settings import Run
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.card import save
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import Evaluation, evaluate
from adamix_lab.training.report import parameter_report
from adamix_lab.training.shipped import load_twin

SHOWN = ("merged", "fixed", "random", "ensemble")
Line = dict[str, Any]
Say = Callable[[str], None]


def run_tour(folder: Path, steps: int | None = None, say: Say = print) -> list[Line]:
    """Trains, compares, writes table, figure and the trained mixture into a folder; says what to open next.

    A killed tour goes on from its checkpoints. Returns the table's lines: of each model and strategy `accuracy` with
    its 95 % interval over rows (`low`, `high`), `loss`, `passes`, and parameters that were `trained` and that are
    `used` at inference, the head included, the base not.
    """
    changes: dict[str, Any] = {} if steps is None else {"steps": steps}
    runs = shipped_grid("tour", **changes).runs
    task, start = task_of(runs[0]), time.perf_counter()
    judged = f"{len(task.evaluation):,} to be judged on"
    say(f"AdaMix on {len(task.train):,} sentences about aspects ({judged}), MiniLM frozen.")
    (mixture, tokenizer), (single, _), (equal, _) = (trained(run, folder / "runs", say) for run in runs)
    seconds = time.perf_counter() - start

    each = [*(f"fixed-{n}" for n in range(runs[0].experts)), "merged"]
    results = {r.strategy: r for r in evaluate(mixture, task, tokenizer, list(dict.fromkeys([*SHOWN, *each])))}
    alone, as_much = (evaluate(model, task, tokenizer)[0] for model in (single, equal))
    apart, _ = load_twin("apart")
    four, ours = evaluate(apart, task, tokenizer, each), [results[name] for name in each]
    probe = linear_probe(load_backbone("minilm", num_labels=task.num_labels)[0], task, tokenizer)
    mean = [sum(getattr(r, name) for r in four[:-1]) / len(four[:-1]) for name in ("accuracy", "loss")]

    lines = [
        _line("linear probe, MiniLM frozen", probe, "probe", 0, 0),
        _line("single adapter, equal steps", alone, "single", *_sizes(single)),
        _line("single adapter, equal compute", as_much, "single", *_sizes(equal)),
        *(_line("AdaMix", results[name], name, *_sizes(mixture, name)) for name in SHOWN),
        {
            **_line("four adapters trained apart, their mean", four[0], "fixed", *_sizes(apart, "fixed")),
            **{"strategy": "fixed, mean", "accuracy": mean[0], "loss": mean[1]},
            **_interval(mean[0], len(four[0].labels)),
        },
        _line("four adapters trained apart, merged", four[-1], "apart", *_sizes(apart)),
    ]
    summary = [sentence(results["merged"], as_much, alone), puzzle(ours, four)]
    for text in ("", table(lines), "", *summary):
        say(text)
    _write(folder, lines, summary, mixture, task, seconds)
    say(
        f"\nTraining took {seconds:.0f} s on {torch.get_num_threads()} threads. Written to {folder}: tour.png, "
        "tour.json, adamix/, merged/"
    )
    say("Next: `make lab` opens the notebooks (begin with 00_tour); or ask the merged model:")
    ask = "film : the staff was lovely, but the film was awful."
    say(f'  python bootstrap.py run -m adamix_lab predict {folder / "merged"} "{ask}"')
    return lines


def trained(run: Run, folder: Path, say: Say) -> tuple[MixtureModel, Any]:
    """(the whole mixture behind its training, tokenizer); checkpoints lie in the run's folder."""
    prepared = prepare(run)
    found = train_whole(prepared, folder / run.key, Terms(snapshots=False, progress=True))
    mixture, tokenizer = mixture_of(run, prepared.task)
    load_trained(mixture, {name: tensor.cpu() for name, tensor in trained_tensors(found.mixture).items()})
    steps = prepared.recipe.steps or 1
    more = f" ({steps / run.steps:.2f} times the steps)" if run.compute == "compute" else ""
    say(f"  trained {run.variant}{more}: {steps} steps, {found.seconds:.0f} s")
    return mixture.eval(), tokenizer


def _sizes(mixture: MixtureModel, strategy: str = "merged") -> tuple[int, int]:
    counts = parameter_report(mixture)
    one_module = strategy in ("merged", "fixed")
    return counts.experts + counts.head, (counts.merged if one_module else counts.experts) + counts.head


def _line(model: str, result: Evaluation, style: str, trained: int, used: int) -> Line:
    found = {"model": model, "strategy": result.strategy, "accuracy": result.accuracy, "loss": result.loss}
    found |= {"passes": result.passes, "trained": trained, "used": used, "style": style}
    return {**found, **_interval(result.accuracy, len(result.labels))}


def _interval(accuracy: float, rows: int) -> dict[str, float]:
    return dict(zip(("low", "high"), wilson(accuracy, rows), strict=True))


def table(lines: Sequence[Line]) -> str:
    """The lines as text: accuracy with its 95 % interval over rows, loss in nats, parameters."""
    return text_table(
        [
            {
                "model": "" if n and lines[n - 1]["model"] == line["model"] else line["model"],
                "strategy": line["strategy"],
                "accuracy": f"{100 * line['accuracy']:.1f} %",
                "95 % interval": f"{100 * line['low']:.1f} to {100 * line['high']:.1f}",
                "loss": f"{line['loss']:.3f}",
                "passes": f"{line['passes']}",
                "trained": f"{line['trained']:,}",
                "at inference": f"{line['used']:,}",
            }
            for n, line in enumerate(lines)
        ],
        left=2,
    )


def sentence(merged: Evaluation, as_much: Evaluation, alone: Evaluation) -> str:
    """What the numbers say about AdaMix against the single adapter, whoever wins: paired over rows, one seed."""
    parts = []
    for name, other in (("as many steps", alone), ("as much compute", as_much)):
        found = paired_interval(merged.right, other.right)
        unclear = found.low <= 0 <= found.high
        verdict = "which these rows cannot tell from 0" if unclear else "more than chance among rows explains"
        points = f"{100 * found.mean:+.1f} ± {100 * found.half_width:.1f} points"
        parts.append(f"{points} against a single adapter with {name} ({verdict})")
    said = "; ".join(parts)
    return f"AdaMix merged answers {100 * merged.accuracy:.1f} % rightly: {said}. One seed: another may differ."


def puzzle(adamix: Sequence[Evaluation], apart: Sequence[Evaluation]) -> str:
    """The puzzle that the lessons solve. Each list: the four experts alone, then their merge."""

    def in_words(results: Sequence[Evaluation]) -> str:
        mean = sum(result.accuracy for result in results[:-1]) / (len(results) - 1)
        merged = results[-1].accuracy
        return f"{100 * mean:.1f} % on average, merged {100 * merged:.1f} % ({100 * (merged - mean):+.1f} points)"

    return (
        f"The puzzle: four adapters trained apart answer {in_words(apart)}; AdaMix's experts {in_words(adamix)}. "
        "What makes adapters fit to be averaged?"
    )


def _write(
    folder: Path, lines: Sequence[Line], summary: list[str], mixture: MixtureModel, task: Task, seconds: float
) -> None:
    figure, ax = new_figure(8.5, 4.8)
    names = [f"{line['model']}: {line['strategy']}" if line["model"] == "AdaMix" else line["model"] for line in lines]
    bars = [
        Bar(name, line["accuracy"], line["low"], line["high"], line["style"])
        for name, line in zip(names, lines, strict=True)
    ]
    save_figure(figure, folder / "tour.png", compare(bars, ax))
    record = {"lines": lines, "summary": summary, "training_seconds": seconds, "versions": versions()}
    write_text(folder / "tour.json", json.dumps(record, indent=2) + "\n")
    notes = {"task": task.name, "backbone": "minilm", "classes": list(task.classes)}
    save(mixture, folder / "adamix", notes)
    save(merge(mixture), folder / "merged", notes)
