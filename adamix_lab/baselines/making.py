"""A baseline by one word: what `train` and `evaluate` take, as they take a mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamix_lab.baselines import get_baseline
from adamix_lab.baselines.methods import Blocks
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.errors import LabError, check_experts, one_of
from adamix_lab.core.merging import stack_experts
from adamix_lab.models.model import MixtureModel, attach, load_trained, shared_sides, trained_tensors
from adamix_lab.models.saving import OWN, check_base, check_head, fill, load, read_saved
from adamix_lab.tasks.batches import allowed_length, encode, padding_of, sequential
from adamix_lab.tasks.tasks import Task, hold_out
from adamix_lab.training.evaluation import Evaluation, evaluate, judge
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import parameter_report
from adamix_lab.training.train import train

Side = str | None  # that the experts share, None where each has its own
Loader = Callable[[], tuple[Any, Any]]

EXPERTS = 4
PENALTIES = tuple(10.0**n for n in range(-5, 3))  # C of a probe, from strong to weak


def single(model: nn.Module, size: int = 16, **placed: Any) -> MixtureModel:
    """AdaMix's own module alone: a mixture of one expert. placed: `blocks` and `seed`, as in `attach`."""
    return attach(model, Bottleneck(size), experts=1, **placed)


def slow(model: nn.Module, size: int = 16, experts: int = EXPERTS, share: Side = "up", **placed: Any) -> MixtureModel:
    """A single adapter whose side that AdaMix routes (all but `share`) learns at 1/M of the rate: see `fitted`."""
    check_experts(experts)
    shared_sides(Bottleneck(size), share)
    return single(model, size, **placed)


def wide(model: nn.Module, size: int = 16, experts: int = EXPERTS, **placed: Any) -> MixtureModel:
    """A single adapter of M times the size: as many trained weights as M experts without sharing."""
    check_experts(experts)
    return single(model, size * experts, **placed)


def adamix(model: nn.Module, size: int = 16, experts: int = EXPERTS, share: Side = "up", **placed: Any) -> MixtureModel:
    """What the others are compared with: M bottleneck experts with a shared up-projection."""
    return attach(model, Bottleneck(size), experts, share, **placed)


def adamix_lora(
    model: nn.Module, rank: int = 8, experts: int = EXPERTS, share: Side = "B", **placed: Any
) -> MixtureModel:
    """M LoRA experts with one B; "up" and "down", as a grid names sides, are B and A."""
    return attach(model, LoRA(rank), experts, {"up": "B", "down": "A"}.get(str(share), share), **placed)


def apart_soup(model: nn.Module, size: int = 16, experts: int = EXPERTS, **placed: Any) -> MixtureModel:
    """The place of M single adapters trained apart: nothing shared, tied. `train_apart` trains and fills it."""
    return attach(model, Bottleneck(size), experts, tied=True, **placed)


def baseline(name: str, model: nn.Module, seed: int = 0, **settings: Any) -> MixtureModel:
    """What `train` and `evaluate` take, from a freshly loaded model: it is changed in place.

    Args:
        name: full, head, bitfit, houlsby, pfeiffer, lora, prefix, prompt, ia3, unipelt; the controls single, wide,
            apart-soup (trained by `train_apart`), and those that a recipe sets apart from single: r-drop, swa and ema
            (averages of its weights over steps), slow (1/M of the rate on the side that AdaMix routes), slow-swa;
            adamix and adamix-lora. Train each with `fitted(name, recipe)`.
        model: a Hugging Face model with or without a head.
        seed: of what is drawn.
        settings: the baseline's own, e.g. `rank=4` for lora, `tokens=10` for prefix, `size=48` for adapters.

    Raises:
        ValueError: an unknown baseline or setting, an architecture that it does not fit.
        ImportError: peft is needed and not installed.

    >>> baseline("single", model).space.experts
    1
    """
    own = get_baseline(name)
    for setting in settings:
        one_of(f"Setting of {name}", setting, own.settings or ["(none)"])
    return own.make(model, seed=seed, **settings)


def fitted(
    name: str, recipe: Recipe, experts: int = EXPERTS, share: Side = "up", sides: Sequence[str] = Bottleneck.sides
) -> Recipe:
    """The recipe with what sets a baseline apart: its views, its average over steps, its rates by side.

    All else, the rate included, stays, and an average that the recipe has.

    experts, share, sides: of the AdaMix that a slowed adapter stands beside; of LoRA share is "B", sides "A" and "B".
    """
    own = get_baseline(name)
    average = own.recipe if recipe.swa is None and recipe.ema is None else {}
    changes = {"consistency": own.consistency, **average}
    if own.slowed:
        changes["side_rates"] = {side: 1 / experts for side in sides if side != share}
    return replace(recipe, **changes)


@dataclass(frozen=True)
class Costs:
    """Parameters, the head included: what trains, what a task keeps on disk, what inference adds to the base."""

    trained: int
    stored: int
    inference: int


def costs(name: str, mixture: MixtureModel) -> Costs:
    """Counts of a baseline, or of a mixture: stored and at inference after merging and folding.

    The head counts in all three; so the base alone, whose head nobody trained, would count 0.
    """
    counts = parameter_report(mixture)
    stored = counts.merged + counts.own + counts.head
    return Costs(counts.experts + counts.own + counts.head, stored, counts.head if get_baseline(name).folds else stored)


def load_baseline(model: nn.Module, folder: str | Path) -> MixtureModel:
    """What `adamix_lab.save` wrote of a baseline, on a freshly loaded model; `load`'s, where it is a mixture.

    Raises ValueError for another base, a truncated file, or weights that do not fit.
    """
    config, tensors = read_saved(folder)
    kind = config["adaptation"]
    if kind.get("kind") != OWN:
        return load(model, folder)
    check_head(model, config)
    made = baseline(kind["baseline"], model, config["seed"], **kind["settings"])
    check_base(made.model, config["base"], {*made.head_paths, *made.mixture.own})
    return fill(made, config, tensors)


# -- soup --------------------------------------------------------------------------------------------------------
#
# The control of averaging without AdaMix: M single adapters trained apart, then souped.


def train_apart(
    load: Loader,
    task: Task,
    recipe: Recipe,
    experts: int = EXPERTS,
    size: int = 16,
    seed: int = 0,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
    blocks: Blocks = None,
    folder: Path | None = None,
) -> tuple[MixtureModel, list[Evaluation]]:
    """M single adapters trained one by one, each with its own start, batches and dropout, side by side in one mixture.

    The merge of the mixture is their soup: adapters and heads averaged, uniformly.

    Args:
        load: gives the backbone, with one and the same head, and its tokenizer, afresh at each call.
        task: what all of them learn.
        recipe: of each of them; its seed is replaced.
        experts: M.
        size: of each bottleneck.
        seed: run n takes `experts * seed + n`.
        progress: show bars.
        on_step: as in `train`.
        blocks: block numbers (transformer layers) to adapt; None adapts all.
        folder: for logs and checkpoints, in `adapter0`, `adapter1`, ...; a killed run goes on from them.

    Returns:
        The mixture, and the evaluation of each adapter alone, with the head that it was trained with.
    """
    parts: list[dict[str, torch.Tensor]] = []
    alone: list[Evaluation] = []
    for n in range(experts * seed, experts * (seed + 1)):
        model, tokenizer = load()
        one = baseline("single", model, seed=n, size=size, blocks=blocks)
        place = None if folder is None else folder / f"adapter{len(parts)}"
        train(one, task, tokenizer, replace(recipe, seed=n), place, progress=progress, on_step=on_step)
        alone += evaluate(one, task, tokenizer, max_length=recipe.max_length)
        parts.append({name: tensor.clone() for name, tensor in trained_tensors(one).items()})
    model, _ = load()
    soup = baseline("apart-soup", model, seed=seed, size=size, experts=experts, blocks=blocks)
    load_trained(soup, stack_experts(parts))
    return soup.eval(), alone


def mean_of(alone: Sequence[Evaluation]) -> Evaluation:
    """The mean of the figures of adapters trained apart, each alone with its own head; predictions of the first."""
    metrics = {name: sum(one.metrics[name] for one in alone) / len(alone) for name in alone[0].metrics}
    accuracy, loss = (sum(getattr(one, name) for one in alone) / len(alone) for name in ("accuracy", "loss"))
    return replace(alone[0], strategy="alone", accuracy=accuracy, loss=loss, metrics=metrics)


def ensemble(alone: Sequence[Evaluation]) -> Evaluation:
    """The ensemble of adapters trained apart: their log-probabilities averaged and normalised (as logits are)."""
    kind, answers = alone[0].kind, torch.stack([result.log_probabilities for result in alone])
    if kind == "labels":
        answers = F.logsigmoid((answers - torch.log(-torch.expm1(answers))).mean(0))
    else:
        answers = answers.mean(0) if kind == "numbers" else answers.mean(0).log_softmax(-1)
    return judge("ensemble of them", len(alone), answers, alone[0].labels, tuple(alone[0].metrics), kind)


# -- a linear probe: what the frozen backbone knows before anything is adapted ------------------------------------


@torch.no_grad()
def features(
    model: nn.Module, task: Task, tokenizer: Any, rows: Any, max_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(`[rows, d]`, labels `[rows]`): the frozen last hidden states, averaged over tokens."""
    from adamix_lab.tasks.pooling import mean_of_tokens

    examples = encode(rows, task, tokenizer, allowed_length(max_length, model, tokenizer))
    out: list[Tensor] = [torch.empty(0)] * len(examples)
    for indices, batch in sequential(examples, 64, padding_of(tokenizer)._replace(side="right")):  # positions count
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        states = model.base_model(**inputs).last_hidden_state  # type: ignore[operator]
        pooled = mean_of_tokens(states, batch["attention_mask"])
        for index, row in zip(indices, pooled, strict=True):
            out[index] = row
    return torch.stack(out), torch.stack([example["labels"] for example in examples])


def linear_probe(
    model: nn.Module, task: Task, tokenizer: Any, max_length: int | None = None, oracle: bool = False
) -> Evaluation:
    """The tuned probe: regularised logistic regression on standardised frozen features of a model in evaluation mode.

    Features are means over tokens; `choose_c` chooses C on a slice of the training rows. A regression task takes ridge
    regression with alpha 1 / C.

    oracle: C is chosen by the rows' true labels, where some were made wrong. Raises ValueError for other kinds of
    tasks, and where a class has no row.
    """
    one_of("Kind of task for a linear probe", str(task.kind), ("classes", "numbers"))
    x, y = features(model, task, tokenizer, task.train, max_length=max_length)
    x_test, gold = features(model, task, tokenizer, task.evaluation, max_length=max_length)
    if not task.regression and (missing := set(range(len(task.classes))) - set(y.tolist())):
        name = task.classes[min(missing)]
        raise LabError(f"Class {name!r} of {task.name!r} has no training row: expected one at least. Take more rows.")
    true = torch.tensor([row.get("true_label", row[task.label]) for row in task.train]) if oracle else None
    answers = _probed(x, y, x_test, choose_c(x, y, task.regression, true), task.regression)
    return judge("linear probe", 1, answers, gold, task.metrics, task.kind)


def choose_c(x: Tensor, y: Tensor, regression: bool = False, true: Tensor | None = None) -> float:
    """The C with the smallest loss on a fifth of the rows, fitted on the rest; 1 where there are too few to hold out.

    x: `[rows, d]`. y: class numbers or numbers, `[rows]`, wrong ones included. true: what the rows held out are judged
    by instead (an oracle).
    """
    asked = y if true is None else true
    rows = [{"n": n, "label": 0.0 if regression else int(label)} for n, label in enumerate(y.tolist())]
    kept, dev = ([row["n"] for row in part] for part in hold_out(rows, 0.2, 0))
    if not dev:
        return 1.0

    def loss(c: float) -> float:
        answers = _probed(x[kept], y[kept], x[dev], c, regression)
        return judge("", 1, answers, asked[dev], (), "numbers" if regression else "classes").loss

    return min(PENALTIES, key=loss)


def _probed(x: Tensor, y: Tensor, asked: Tensor, c: float, regression: bool) -> Tensor:
    """Log-probabilities `[asked, C]`, or numbers `[asked, 1]`, of the probe on x, y."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    last = Ridge(1 / c) if regression else LogisticRegression(C=c, max_iter=2000)
    model = make_pipeline(StandardScaler(), last).fit(x.numpy(), y.numpy())
    if regression:
        return torch.tensor(model.predict(asked.numpy())).float().reshape(len(asked), -1)
    scores = torch.tensor(model.decision_function(asked.numpy())).reshape(len(asked), -1)  # one number for two classes
    scores = torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores
    return scores.log_softmax(-1).float()
