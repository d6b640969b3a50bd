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

import argparse
import json
import time
from collections.abc import Sequence

import torch

from adamix_lab.analysis.landscape import evaluate_points, task_batches
from adamix_lab.analysis.points import Points, plane, point_of
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.merging import merge
from adamix_lab.core.model import MixtureModel, attach, evaluating, load_trained
from adamix_lab.core.views import Batch
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.tasks import load_task
from adamix_lab.training.doctor import versions
from adamix_lab.training.optim import keep_freed_memory
from adamix_lab.training.shipped import load_twin


def every_block() -> MixtureModel:
    model, _ = load_backbone("minilm", num_labels=2)
    mixture = attach(model, Bottleneck(16), experts=4, share="up").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # far enough apart for the loss to move
        for _, parameter in mixture.expert_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return mixture


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


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

    def seconds(work) -> tuple[torch.Tensor, object]:  # type: ignore[no-untyped-def]
        synchronize(device)
        start = time.perf_counter(), time.process_time()
        result = work()
        synchronize(device)
        return torch.tensor([time.perf_counter() - start[0], time.process_time() - start[1]]), result

    point_by_point(mixture, placed, batches[:1], which[:1])  # warm
    evaluate_points(mixture, _some(points, which[:2]), batches[:1], at_once=at_once)
    half = sample // 2  # before and after the batched run: both see the same machine
    before, first = seconds(lambda: point_by_point(mixture, placed, batches, which[:half]))
    batched, landscape = seconds(lambda: evaluate_points(mixture, points, batches, at_once=at_once))
    after, second = seconds(lambda: point_by_point(mixture, placed, batches, which[half:]))
    alone, _ = seconds(lambda: evaluate_points(mixture, _some(points, which), batches, at_once=1))
    naive = torch.cat([first, second], -1)  # type: ignore[list-item]
    ours = torch.stack([landscape.values(m).flatten()[which] for m in ("loss", "accuracy", "entropy")])  # type: ignore[attr-defined]
    a_point = batched / len(points.coefficients)  # marks are points, too
    pointwise, one = (before + after) / sample, alone / (sample + len(points.marks))
    naive_ratio, one_ratio = (pointwise / a_point).tolist(), (one / a_point).tolist()  # of wall time, of CPU time
    return {
        "pointwise_over_batched": round(naive_ratio[0], 2),
        "one_at_a_time_over_batched": round(one_ratio[0], 2),
        "pointwise_over_batched_cpu_time": round(naive_ratio[1], 2),  # what a busy machine blurs least
        "one_at_a_time_over_batched_cpu_time": round(one_ratio[1], 2),
        "points_per_second": round(1 / float(a_point[0]), 2),
        "points_per_cpu_second": round(1 / float(a_point[1]), 2),
        "max_abs_difference": float((naive - ours).abs().max()),
        "batched_seconds": round(float(batched[0]), 2),
        "pointwise_seconds_a_point": round(float(pointwise[0]), 4),
        "pointwise_points_timed": sample,
        "points": len(points),
        "rows": landscape.rows,  # type: ignore[attr-defined]
    }


def _some(points: Points, which: Sequence[int]) -> Points:
    rows = [*which, *range(len(points), len(points.coefficients))]
    axes = {name: axis[rows] for name, axis in points.axes.items()}
    return Points(**{**vars(points), "coefficients": points.coefficients[rows], "axes": axes, "shape": (len(which),)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, help="points along an axis")
    parser.add_argument("--rows", type=int, help="the first so many validation rows")
    parser.add_argument("--sample", type=int, default=6, help="points timed one by one (even)")
    parser.add_argument("--at-once", type=int, help="points a pass; default: what fits")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--settings", nargs="+", default=["top-two", "every-block"])
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = options.steps or (4 if options.quick else 51 if device.type == "cuda" else 21)
    rows = options.rows or (64 if options.quick else None)
    sample = 2 if options.quick else options.sample
    kept = device.type == "cpu" and keep_freed_memory()
    task = load_task("aspects")
    result: dict[str, object] = {"versions": versions(), "dtype": options.dtype, "freed_memory_kept": kept}
    all_settings: dict[str, dict[str, float]] = {}
    for setting in options.settings:
        twin, tokenizer = load_twin("adamix")
        mixture = twin if setting == "top-two" else every_block()
        mixture = mixture.to(device, getattr(torch, options.dtype))
        batches = task_batches(task, tokenizer, rows, options.batch_size)
        batches = [{name: value.to(device) for name, value in batch.items()} for batch in batches]
        fewer = setting == "every-block" and device.type == "cpu" and options.steps is None
        across = min(steps, 7) if fewer else steps
        all_settings[setting] = measure(mixture, batches, across, sample, options.at_once)
        print(setting, json.dumps(all_settings[setting]), flush=True)
    shown = ("pointwise_over_batched", "pointwise_over_batched_cpu_time", "points_per_second", "max_abs_difference")
    for name in shown:
        result[name] = {setting: values[name] for setting, values in all_settings.items()}
    print(json.dumps({**result, "all": all_settings}))


if __name__ == "__main__":
    main()
