"""Routes as random variables (Eq. 7): the marginal, how fast an estimate of it converges, and what is uncertain.

An interpretation, not inference: the distribution over routes is fixed and uniform. It was not fitted to data, so the
"posterior" of the paper's section 3.5 is no posterior in Bayes' sense, and more routes bring an estimate nearer to the
average over routes, not nearer to the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adamix_lab.core.errors import LabError, one_of, positive
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import cut_last_block, routed_logits
from adamix_lab.fast.tree import LIMIT, free_memory, group_bytes, tree_logits
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import allowed_length, encode, padding_of, sequential, to_device
from adamix_lab.tasks.tasks import Row, Task
from adamix_lab.training.evaluation import IndexedBatch, try_cached_prefix

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Samples:
    """Several answers to the same rows, which everything Bayesian here is computed from.

    Attributes:
        logits: `[rows, samples, classes]`, float32, on the CPU.
        labels: `[rows]`; -1 where a row has none.
        exact: the samples are all routes there are, once each.
        routes: `[samples, sites, sides]` of samples that are routes.
    """

    logits: Tensor
    labels: Tensor
    exact: bool = False
    routes: Tensor | None = None

    @property
    def log_probabilities(self) -> Tensor:
        """`[rows, samples, classes]`."""
        return self.logits.log_softmax(-1)

    def __len__(self) -> int:
        return self.logits.shape[1]

    def subset(self, numbers: Tensor) -> Samples:
        """Some of the samples, by number; one may be taken twice."""
        return Samples(self.logits[:, numbers], self.labels)


@dataclass(frozen=True)
class FixedBatches:
    """Rows that stay the same for whatever is asked of a model: its batches, and the frozen prefix computed once.

    Attributes:
        mixture: the whole model.
        batches: (the rows' numbers, inputs without labels), longest rows first.
        labels: `[rows]`.
        top: what lies above the frozen prefix, where that can be cached; else the whole model.
        cached: the batches as `top` takes them.
    """

    mixture: MixtureModel
    batches: list[IndexedBatch]
    labels: Tensor
    top: MixtureModel
    cached: list[IndexedBatch]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, answer: Callable[[MixtureModel, Batch, int], Tensor], whole: bool = False) -> Tensor:
        """`answer(model, inputs, batch number)` `[B, ...]` over all batches, in the rows' order: `[rows, ...]`.

        In evaluation mode, without gradients. whole: ask the whole model rather than what lies above the prefix.
        """
        model, batches = (self.mixture, self.batches) if whole else (self.top, self.cached)
        with torch.no_grad(), evaluating(model):
            parts = [answer(model, batch, n).float().cpu() for n, (_, batch) in enumerate(batches)]
        order = torch.tensor([row for rows, _ in batches for row in rows])
        return torch.cat(parts)[order.argsort()]


def fix_batches(
    mixture: MixtureModel,
    task: Task,
    tokenizer: Any,
    rows: Sequence[Row] | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
) -> FixedBatches:
    """Batches of rows (None: the task's evaluation rows) on the model's device.

    Raises ValueError where there are no rows, or the task is not one of classes (a regression, several labels).
    """
    if task.kind != "classes":
        raise LabError(f"Task {task.name!r} asks for {task.kind}: expected classes, which probabilities need.")
    longest = allowed_length(max_length, mixture.model, tokenizer)
    examples = encode(task.evaluation if rows is None else rows, task, tokenizer, longest)
    labels = torch.tensor([int(example.pop("labels", torch.tensor(-1))) for example in examples])
    device = next(mixture.parameters()).device
    ordered = sequential(examples, batch_size, padding_of(tokenizer, mixture.model))
    batches = [(numbers, to_device(batch, device)) for numbers, batch in ordered]
    with torch.no_grad(), evaluating(mixture):
        top, cache = try_cached_prefix(mixture)
        cached = [(numbers, cache(batch)) for numbers, batch in batches]
    return FixedBatches(mixture, batches, labels, top, cached)


# -- where samples come from: every route (exact), some of them (Monte-Carlo, Eq. 7), the merge, dropout, members -----


def every_route(fixed: FixedBatches, limit: int = LIMIT) -> Samples:
    """All routes, by the tree. Raises ValueError where there are more than the limit, with what to do instead."""
    logits = fixed.gather(lambda model, batch, n: tree_logits(model, batch, limit))
    return Samples(logits, fixed.labels, exact=True, routes=fixed.mixture.space.enumerate(limit))


def drawn_routes(fixed: FixedBatches, draws: int, seed: int = 0) -> Samples:
    """Uniform routes, drawn with replacement, each the same for all rows (Monte-Carlo).

    Raises ValueError for draws below 1.
    """
    positive("draws (T)", draws)
    return under_routes(fixed, fixed.mixture.space.draw(generator_for(seed), (draws,)))


def fixed_experts(fixed: FixedBatches) -> Samples:
    """Each expert everywhere: one sample an expert, in their order."""
    space = fixed.mixture.space
    return under_routes(fixed, torch.stack([space.fixed(expert) for expert in range(space.experts)]))


def under_routes(fixed: FixedBatches, routes: Tensor) -> Samples:
    """Given routes `[samples, sites, sides]`, each the same for all rows."""

    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        at_once = max(1, free_memory(next(model.parameters()).device) // group_bytes(model, batch))
        passes = [routed_logits(model, batch, part, "shared_prefix") for part in routes.split(at_once)]
        return torch.cat(passes).transpose(0, 1)

    return Samples(fixed.gather(answer), fixed.labels, routes=routes)


def merged_sample(fixed: FixedBatches) -> Samples:
    """The merge (Eq. 6), as one sample."""

    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        with cut_last_block(model.model, batch):
            return model(selection="merge", **batch).logits.unsqueeze(1)

    return Samples(fixed.gather(answer), fixed.labels)


def token_samples(fixed: FixedBatches, draws: int, seed: int = 0) -> Samples:
    """A route drawn anew for every token, so many times. Raises ValueError for draws below 1."""
    positive("draws (T)", draws)

    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        rows, tokens = batch["inputs_embeds" if "inputs_embeds" in batch else "input_ids"].shape[:2]
        routes = [model.space.draw(generator_for(seed, n, draw), (rows, tokens)) for draw in range(draws)]
        return torch.stack([model(selection=route, **batch).logits for route in routes], 1)

    return Samples(fixed.gather(answer), fixed.labels)


def dropout_samples(fixed: FixedBatches, draws: int, seed: int = 0) -> Samples:
    """The merge with the backbone's own dropout left on (Gal and Ghahramani, 2016), in the whole model.

    Raises ValueError for draws below 1, and for a model without dropout.
    """
    positive("draws (T)", draws)
    if not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in fixed.mixture.modules()):
        raise LabError(
            "The model has no dropout to sample: expected a backbone with a rate above 0. Leave dropout out of the "
            "comparison, or load the backbone with dropout."
        )

    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed * 1_000_003 + n)
            return torch.stack([model.train()(selection="merge", **batch).logits for _ in range(draws)], 1)

    return Samples(fixed.gather(answer, whole=True), fixed.labels)


def member_samples(members: Sequence[FixedBatches]) -> Samples:
    """Models trained apart (each merged, each with a head of its own), one sample each, on the same rows.

    Raises ValueError where the members are none, or their rows differ.
    """
    if not members:
        raise LabError("No members were given: expected at least one model trained apart.")
    if not all(torch.equal(member.labels, members[0].labels) for member in members):
        raise LabError("The members' rows differ: expected the same rows for each (fix_batches).")
    logits = torch.cat([merged_sample(member).logits for member in members], 1)
    return Samples(logits, members[0].labels)


# -- what they say about each row ------------------------------------------------------------------------------------

SIZES = (1, 2, 4, 8, 16, 32, 64)


def marginal(logits: Tensor, average: str = "probabilities") -> Tensor:
    """Log-probabilities of the average over samples: `[rows, samples, C]` to `[rows, C]`.

    average: "probabilities" (Eq. 7), or "logits" (the paper's ensemble).
    """
    one_of("average", average, ("probabilities", "logits"))
    if average == "logits":
        return logits.mean(1).log_softmax(-1)
    return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])


def entropy(log_p: Tensor) -> Tensor:
    """-sum p log p over the last axis, in nats."""
    return -(log_p.exp() * log_p).nan_to_num().sum(-1)  # 0 log 0 = 0


def uncertainty(samples: Samples) -> dict[str, Tensor]:
    """What is uncertain about each row, `[rows]` each, in nats.

    Returns:
        entropy: of the marginal, H[mean p].
        expected_entropy: the mean of the samples' own entropies.
        mutual_information: entropy - expected_entropy, at least 0: how much knowing the route would tell.
        disagreement: the chance that two samples (drawn with replacement) answer differently.
        doubt: 1 - the marginal's largest probability.
    """
    log_p = samples.logits.double().log_softmax(-1)
    mean = marginal(samples.logits.double())
    whole, expected = entropy(mean), entropy(log_p).mean(1)
    votes = F.one_hot(log_p.argmax(-1), log_p.shape[-1]).double().mean(1)
    return {
        "entropy": whole,
        "expected_entropy": expected,
        "mutual_information": (whole - expected).clamp_min(0),  # rounding alone takes it below
        "disagreement": 1 - votes.square().sum(-1),
        "doubt": 1 - mean.exp().amax(-1),
    }


def total_variation(log_p: Tensor, reference: Tensor) -> Tensor:
    """Total variation, half of the summed absolute differences of probabilities: `[..., rows, C]` to `[..., rows]`."""
    return 0.5 * (log_p.exp() - reference.exp()).abs().sum(-1)


def convergence(
    samples: Samples, merged: Samples, sizes: Sequence[int] = SIZES, draws: int = 200, seed: int = 0
) -> DataFrame:
    """How near estimates from T routes, drawn with replacement, come to the exact marginal: one row a T.

    Columns: T; `error` (mean over draws and rows of the total variation) and its 10 % and 90 % quantiles over draws;
    `bias` (the same distance of the mean over draws, which itself shrinks as 1/sqrt(draws)); `rms` and `predicted_rms`
    (root mean square of a probability's error; the one-route value over sqrt(T)); `loss`, its standard deviation over
    draws, and `loss_bias` against the exact marginal's loss (above 0 by Jensen, about 1/T). The row of T = 0 is the
    merge, which is no estimate.

    Raises ValueError unless the samples are every route, for T = 0, and for draws below 1.
    """
    import pandas as pd

    if not samples.exact:
        raise LabError(
            f"{len(samples)} drawn routes are no exact marginal to converge to: expected every route (every_route)."
        )
    for size in sizes:
        positive("T", size)
    positive("draws", draws)
    reference = marginal(samples.logits.double())
    p = samples.log_probabilities.double().exp()
    exact_loss = F.nll_loss(reference, samples.labels)
    one_route = (p - p.mean(1, keepdim=True)).square().mean()

    def row(size: int, estimates: Tensor) -> dict[str, float]:
        # estimates: [draws, rows, C]
        errors = total_variation(estimates.log(), reference).mean(-1)
        losses = torch.stack([F.nll_loss(each.log(), samples.labels) for each in estimates])
        low, high = errors.quantile(torch.tensor([0.1, 0.9], dtype=torch.double)).tolist()
        return {
            "T": size, "error": float(errors.mean()), "error_low": low, "error_high": high,
            "bias": float(total_variation(estimates.mean(0).log(), reference).mean()),
            "rms": float((estimates - reference.exp()).square().mean().sqrt()),
            "predicted_rms": float((one_route / max(size, 1)).sqrt()), "loss": float(losses.mean()),
            "loss_sd": float(losses.std(correction=int(len(losses) > 1))),
            "loss_bias": float(losses.mean() - exact_loss),
        }  # fmt: skip

    rows = []
    for size in sizes:
        picked = torch.randint(len(samples), (draws, size), generator=generator_for(seed, size))
        rows.append(row(size, torch.stack([p[:, numbers].mean(1) for numbers in picked])))
    rows.append(row(0, merged.log_probabilities[:, 0].double().exp()[None]))
    table = pd.DataFrame(rows).assign(draws=draws, seed=seed, exact_loss=float(exact_loss))
    table.insert(0, "what", ["routes"] * len(sizes) + ["merged"])
    table.loc[len(sizes), ["error_low", "error_high", "predicted_rms", "loss_sd"]] = math.nan
    return table
