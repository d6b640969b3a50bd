"""Which runs can train as one program, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from adamix_lab.core.checkpointing import checkpoints_gradients
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import reads_labels
from adamix_lab.training.recipe import Recipe

Start = Mapping[str, Tensor]

# Settings that one program has one of; lr, head_lr, weight_decay, decay, warm-up, clip, seed, bucket, consistency,
# per and log_every are each run's own.
COMMON = ("batch_size", "max_length", "precision", "cache_prefix", "off_route", "eps")


def why_apart(mixture: MixtureModel, starts: Sequence[Start], recipes: Sequence[Recipe]) -> list[str]:
    """Why these runs cannot be one program, a sentence a reason; empty where they can.

    starts: each run's `trained_tensors` before its first step. recipes: one a run.
    """
    reasons = []
    if mixture.mixture.own:
        reasons.append(
            "weights of the model itself train (full fine-tuning, BitFit, peft's methods): nothing is shared"
        )
    elif len(mixture.sites) != len(mixture.mixture.sites):
        reasons.append("learned gates choose by hidden states: a run's routes are not known before the pass")
    if checkpoints_gradients(mixture.model):
        reasons.append("gradient checkpointing is on: what is recomputed would run without the stacked weights")
    if reads_labels(mixture.model):
        reasons.append("an encoder-decoder reads its labels: only encoders and decoders were made to batch")
    if len(starts) != len(recipes) or not recipes:
        return [*reasons, f"{len(starts)} starts and {len(recipes)} recipes: expected one of each a run, and a run"]
    for n, (start, recipe) in enumerate(zip(starts, recipes, strict=True)):
        if (other := _other_shape(start, starts[0])) is not None:
            reasons.append(f"run {n} has another shape (experts, size, sharing, sites or head): {other}")
        for name in COMMON:
            if getattr(recipe, name) != getattr(recipes[0], name):
                reasons.append(f"run {n} has {name} = {getattr(recipe, name)}, run 0 {getattr(recipes[0], name)}")
        if (recipe.steps, recipe.epochs) != (recipes[0].steps, recipes[0].epochs):
            reasons.append(f"run {n} has another number of steps or epochs than run 0")
        reasons += [f"run {n}: {reason}" for reason in _alone(recipe)]
    return reasons


def _alone(recipe: Recipe) -> list[str]:
    """What only a run alone does."""
    reasons = []
    if recipe.per == "token":
        reasons.append('a route a token (per = "token") computes all vertices')
    if recipe.dev_fraction > 0 or recipe.choose_on != "slice":
        reasons.append("it chooses its weights on a dev slice: set dev_fraction = 0, which keeps the last ones")
    if recipe.accumulate > 1:
        reasons.append("accumulated pieces: batched runs take their batches whole")
    if recipe.precision == "fp16":
        reasons.append("float16 scales losses by what one run's gradients allow")
    if recipe.consistency.views == "same_dropout":
        reasons.append("views of one dropout mask run one after another")
    return reasons


def _other_shape(start: Start, first: Start) -> str | None:
    if start.keys() != first.keys():
        return f"{sorted(start.keys() ^ first.keys())[0]} is in one of them only"
    for name, value in start.items():
        if value.shape != first[name].shape:
            return f"{name} is {list(value.shape)}, in run 0 {list(first[name].shape)}"
    return None
