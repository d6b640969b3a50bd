"""A plane of adapter space over a validation set: points several at a time against weights copied in one by one.

    python tests/benchmarks/landscape.py            21 x 21 points on a CPU, 51 x 51 on a GPU, all 996 rows of "aspects"
    python tests/benchmarks/landscape.py --quick    4 x 4 points, 64 rows, under a minute

Two settings: "top-two" (the shipped experts: adapters in the top two blocks of MiniLM, the rest a cached prefix) and
"every-block" (untrained adapters in all six blocks; 7 x 7 points on a CPU). Point by point is how packaged tools do
it: copy a point's weights into the model, run plain passes over all batches. For a whole plane that takes a CPU an
hour, so it is timed on `--sample` points spread over the plane: the time of one is what is compared, and so are their
values. On a busy machine look at the ratios of CPU time (they mean nothing on a GPU). `one_at_a_time` is ours with
one point a pass: what caching and cutting save without batching. The last line is one JSON object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import cpu_seconds, device, minilm_mixture, parse, report_cases, tell

from adamix_lab.analysis.landscape import evaluate_points, task_batches
from adamix_lab.analysis.points import Points, plane, point_of
from adamix_lab.core.merging import merge
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.views import Batch
from adamix_lab.models.model import MixtureModel, load_trained
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.shipped import load_twin

MEASURES = ("loss", "accuracy", "entropy")


def point_by_point(
    mixture: MixtureModel, points: Points, batches: Sequence[Batch], which: Sequence[int]
) -> torch.Tensor:
    """Loss, accuracy and entropy at some points `[3, points]`: weights copied in, plain passes."""
    single = merge(mixture)
    found = []
    with torch.no_grad(), evaluating(single):
        for n in which:
            weights = {name: w[0] for name, w in points.weights(n, n + 1).items()}
            load_trained(single, {name: w if name.startswith("head.") else w[None] for name, w in weights.items()})
            sums, rows = torch.zeros(3, dtype=torch.float64), 0
            for batch in batches:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                log_p = single.model(**inputs).logits.float().log_softmax(-1)
                gold = batch["labels"]
                right = log_p.argmax(-1) == gold
                loss = -log_p[torch.arange(len(gold), device=gold.device), gold]
                entropy = -(log_p.exp() * log_p).sum(-1)
                sums += torch.stack([v.double().sum() for v in (loss, right, entropy)]).cpu()
                rows += len(gold)
            found.append(sums / rows)
    return torch.stack(found, -1)


def measure(
    mixture: MixtureModel, batches: list[Batch], steps: int, sample: int, at_once: int | None
) -> dict[str, float]:
    """Seconds a point of the three ways, and how far their values are apart."""
    device = next(mixture.parameters()).device
    points = plane({f"expert {n}": point_of(mixture, mixture.space.fixed(n)) for n in range(3)}, steps)
    which = torch.linspace(0, len(points) - 1, sample).round().long().tolist()
    placed = Points(**{**vars(points), "anchors": {name: a.to(device) for name, a in points.anchors.items()}})

    point_by_point(mixture, placed, batches[:1], which[:1])  # warm
    evaluate_points(mixture, _some(points, which[:2]), batches[:1], at_once=at_once)
    half = sample // 2  # before and after the batched run: both see the same machine
    before, first = cpu_seconds(lambda: point_by_point(mixture, placed, batches, which[:half]))
    batched, found = cpu_seconds(lambda: evaluate_points(mixture, points, batches, at_once=at_once))
    after, second = cpu_seconds(lambda: point_by_point(mixture, placed, batches, which[half:]))
    alone, _ = cpu_seconds(lambda: evaluate_points(mixture, _some(points, which), batches, at_once=1))
    naive, ours = torch.cat([first, second], -1), torch.stack([found.values(m).flatten()[which] for m in MEASURES])
    a_point = torch.tensor(batched) / len(points.coefficients)  # marks are points, too
    pointwise = (torch.tensor(before) + torch.tensor(after)) / sample
    one = torch.tensor(alone) / (sample + len(points.marks))
    naive_ratio, one_ratio = (pointwise / a_point).tolist(), (one / a_point).tolist()  # of wall time, of CPU time
    return {
        "pointwise_over_batched": round(naive_ratio[0], 2),
        "one_at_a_time_over_batched": round(one_ratio[0], 2),
        "pointwise_over_batched_cpu_time": round(naive_ratio[1], 2),  # what a busy machine blurs least
        "one_at_a_time_over_batched_cpu_time": round(one_ratio[1], 2),
        "points_per_second": round(1 / float(a_point[0]), 2),
        "points_per_cpu_second": round(1 / float(a_point[1]), 2),
        "max_abs_difference": float((naive - ours).abs().max()),
        "batched_seconds": round(batched[0], 2),
        "pointwise_seconds_a_point": round(float(pointwise[0]), 4),
        "pointwise_points_timed": sample,
        "points": len(points),
        "rows": found.rows,
    }


def _some(points: Points, which: Sequence[int]) -> Points:
    rows = [*which, *range(len(points), len(points.coefficients))]
    axes = {name: axis[rows] for name, axis in points.axes.items()}
    return Points(**{**vars(points), "coefficients": points.coefficients[rows], "axes": axes, "shape": (len(which),)})


def main() -> None:
    where = device()
    options = parse(
        __doc__, {"steps": 4, "rows": 64, "sample": 2}, steps=int, rows=int, sample=6, at_once=int, batch_size=64,
        dtype="float32", settings=["top-two", "every-block"],
    )  # fmt: skip
    steps = {"top-two": 51 if where.type == "cuda" else 21, "every-block": 51 if where.type == "cuda" else 7}
    task, found = load_task("aspects"), {}
    for setting in options.settings:
        twin, tokenizer = load_twin("adamix")
        mixture = twin if setting == "top-two" else minilm_mixture(where, apart=0.05)  # apart, for the loss to move
        mixture = mixture.to(where, getattr(torch, options.dtype))
        batches = task_batches(task, tokenizer, options.rows, options.batch_size)
        batches = [{name: value.to(where) for name, value in batch.items()} for batch in batches]
        number = options.steps or steps[setting]
        found[setting] = tell(setting, measure(mixture, batches, number, options.sample, options.at_once))
    shown = ("pointwise_over_batched", "pointwise_over_batched_cpu_time", "points_per_second", "max_abs_difference")
    report_cases(found, shown, options.out, dtype=options.dtype)


if __name__ == "__main__":
    main()
