"""Lesson 01: what routes do to answers: flips, experts by construction, a sentence on all routes, a learned gate."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.gate import SwitchLayer, attach_gates, collect_gates, detach_gates
from adamix_lab.analysis.plots import Picture, fix_margins, new_figure
from adamix_lab.core.objective import cross_entropy
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.tree import tree_logits
from adamix_lab.lessons import shared
from adamix_lab.lessons.answers import Answers, load_answers
from adamix_lab.lessons.controls import described
from adamix_lab.lessons.drawing import draw_cells, outline
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.world import world_explorer
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import Padding, collate, encode, padding_of
from adamix_lab.tasks.tasks import Row, Task

__all__ = ["load_answers"]
__getattr__ = shared  # what all notebooks use

BLOCKS = ("block 5", "block 6")  # as people count; adapters sit in the top two of six


def by_expert(answers: Answers, values: Tensor) -> Tensor:
    """Values of routes `[rows, routes]` as those of an expert in a block, the other block averaged over.

    Returns `[rows, sites, M]`.
    """
    experts = answers.index[:, :, 0]  # [routes, sites]
    taken = torch.nn.functional.one_hot(experts).to(values)  # [routes, sites, M]
    return torch.einsum("nr,rse->nse", values, taken) / taken.sum(0)


def by_construction(values: Tensor, constructions: Sequence[str]) -> tuple[list[str], Tensor, Tensor]:
    """(the constructions, sorted; the number of each row's `[rows]`; means of `[rows, ...]` over the rows of each)."""
    names = sorted(set(constructions))
    number = torch.tensor([names.index(name) for name in constructions])
    return names, number, torch.stack([values[number == n].mean(0) for n in range(len(names))])


def draw_experts(answers: Answers, rows: Sequence[Row]) -> Picture:
    """The heat map construction x expert: accuracy of each expert in each block, the other block averaged over."""
    constructions = [str(row["construction"]) for row in rows[: len(answers.labels)]]
    names, _, table = by_construction(by_expert(answers, 100 * answers.right), constructions)
    order = table.mean((1, 2)).argsort(descending=True)
    names, table = [names[n] for n in order.tolist()], table[order]
    between, within = table.mean((1, 2)), (table.amax(2) - table.amin(2)).mean()
    alt = (
        f"Heat map of accuracy, a row a construction, a column an expert. Constructions run from {names[0]} "
        f"({between[0]:.0f} %) to {names[-1]} ({between[-1]:.0f} %); within a construction the experts of a block "
        f"lie {within:.1f} points apart on average."
    )
    return _heat(names, table, "accuracy (%)", 50, alt)


def _heat(names: Sequence[str], table: Tensor, label: str, low: float, alt: str) -> Picture:
    # values up to 100 by construction and by expert of each block, `[constructions, sites, M]`
    sites, experts = table.shape[1:]
    figure, ax = new_figure(7.4, 4.8)
    rows = [name.replace("_", " ") for name in names]
    columns = [f"{BLOCKS[site]}\nexpert {expert}" for site in range(sites) for expert in range(experts)]
    figure.colorbar(draw_cells(ax, table.flatten(1), rows, columns, low, 100), ax=ax, label=label)
    ax.tick_params(axis="x", labelsize=8)
    ax.axvline(experts - 0.5, color="white", linewidth=4)
    return Picture(figure, alt)


# -- one sentence, sixteen answers ------------------------------------------------------------------------------------


def sixteen_curves() -> Explorer:
    """Two layers of four experts in one dimension: every route a curve, one of them lit."""
    return world_explorer(**described("sixteen curves"))


def every_answer(mixture: MixtureModel, tokenizer: Any, sentence: str) -> Tensor:
    """The probability of the second class under every route, `[M, M]`: expert of the first block x of the second."""
    batch = tokenizer([sentence], return_tensors="pt", truncation=True, max_length=128)
    return tree_logits(mixture, batch).softmax(-1)[0, :, 1].reshape(mixture.space.experts, -1)


def draw_routed(chances: Tensor, first: int, second: int, classes: Sequence[str]) -> View:
    """The second class's chance under each of the routes `[M, M]`, and the chosen one, of two experts, outlined."""
    (no, yes), percent = classes[:2], 100 * chances
    experts, says = range(len(percent)), chances > 0.5
    texts = [[f"{p:.0f}\n{yes if p > 50 else no}" for p in row] for row in percent.tolist()]
    figure, ax = new_figure(6.4, 3.8)
    names = [f"expert {expert}" for expert in experts]
    draw_cells(ax, percent, names, names, 0, 100, texts)
    outline(ax, first, second)
    ax.set(xlabel=BLOCKS[1], ylabel=BLOCKS[0])
    ax.set_title(f"probability of “{yes}” (%)", fontsize=11)
    fix_margins(figure, left=0.15, right=0.98, bottom=0.14, top=0.91)
    here = says[first, second]
    flippers = [f"{BLOCKS[0]} to expert {expert}" for expert in experts if says[expert, second] != here]
    flippers += [f"{BLOCKS[1]} to expert {expert}" for expert in experts if says[first, expert] != here]
    change = f"Flips with {', or '.join(flippers)}." if flippers else "No change of one expert flips it."
    readout = (
        f"Expert {first} in {BLOCKS[0]}, expert {second} in {BLOCKS[1]}: {float(percent[first, second]):.0f} % {yes}, "
        f"so {yes if here else no}. {change} All {percent.numel()} routes: {float(percent.min()):.0f} to "
        f"{float(percent.max()):.0f} %."
    )
    return View(readout, Picture(figure, f"A map of the answers under all routes, the chosen one outlined. {readout}"))


def route_explorer(mixture: MixtureModel, tokenizer: Any, classes: Sequence[str]) -> Explorer:
    """The widget of lesson 01: a sentence of the learner's own, and an expert in each of two blocks."""
    answers = lru_cache(maxsize=32)(partial(every_answer, mixture, tokenizer))  # routes of one sentence, walked once
    last = {"high": mixture.space.experts - 1}
    return Explorer(
        **described("routes", first=last, second=last),
        compute=lambda sentence, first, second: (answers(sentence), first, second, classes),
        draw=lambda routed: draw_routed(*routed),
    )


# -- lesson 01's contrast: a learned Switch gate on the shipped experts, and where it sends the tokens ---------------
# Only the gates train; experts and head stay as AdaMix left them. A gate reads hidden states, so its routes depend on
# the sentence. AdaMix's routes are drawn before the sentence is read.


def train_gates(
    mixture: MixtureModel,
    task: Task,
    tokenizer: object,
    steps: int = 40,
    rows: int = 192,
    balance: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Puts gates on the mixture, trains them alone, and takes them off again.

    balance: weight of the balancing loss (Fedus et al., 2022); 0 leaves it out. Returns the share of the tokens of
    the first evaluation rows that each expert serves, `[rows, sites, M]`.
    """
    pad = padding_of(tokenizer, mixture.model)
    train, judged = encode(task.train, task, tokenizer), encode(task.evaluation[:rows], task, tokenizer)
    model = attach_gates(mixture, seed).eval()
    gates = [module.gate for module in model.modules() if isinstance(module, SwitchLayer)]
    optimizer = torch.optim.Adam(gates, 0.01)
    try:
        for step in range(steps):
            chosen = torch.randint(len(train), (16,), generator=generator_for(seed, step)).tolist()
            batch = collate([train[n] for n in chosen], pad)
            labels = batch.pop("labels")
            with collect_gates() as record:
                loss = cross_entropy(model(**batch).logits, labels) + balance * record.balance()
            for gate, slope in zip(gates, torch.autograd.grad(loss, gates), strict=True):
                gate.grad = slope
            optimizer.step()
        return _loads(model, judged, pad)
    finally:
        detach_gates(mixture)


@torch.no_grad()
def _loads(model: torch.nn.Module, examples: Sequence[dict[str, Tensor]], pad: Padding) -> Tensor:
    loads = []
    for start in range(0, len(examples), 32):
        batch = collate(examples[start : start + 32], pad)
        with collect_gates() as record:
            model(**batch)
        experts, kept = record.probabilities[0].shape[-1], batch["attention_mask"][:, None, :, None].float()
        chosen = torch.nn.functional.one_hot(torch.stack(record.choices, 1), experts).float()  # [rows, sites, T, M]
        loads.append((chosen * kept).sum(2) / kept.sum(2))
    return torch.cat(loads)


def draw_loads(loads: Tensor, constructions: Sequence[str]) -> Picture:
    """Share of tokens by construction (rows) and by expert of each block (columns)."""
    names, _, table = by_construction(100 * loads, constructions[: len(loads)])
    told = "; ".join(
        f"{block}: {', '.join(f'{share:.0f}' for share in mean)} %"
        for block, mean in zip(BLOCKS, 100 * loads.mean(0), strict=True)
    )
    alt = (
        f"Heat map of a trained gate's load, a row a construction, a column an expert. Mean load of experts in {told}."
    )
    return _heat(names, table, "share of the tokens (%)", 0, alt)
