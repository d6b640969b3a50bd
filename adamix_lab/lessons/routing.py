"""Lesson 01: what routes do to answers: flips, experts by construction, a sentence on all routes, a learned gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from adamix_lab.analysis.gate import SwitchLayer, attach_gates, collect_gates, detach_gates
from adamix_lab.analysis.plots import Picture, fix_margins, new_figure
from adamix_lab.core.objective import cross_entropy
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.tree import tree_logits
from adamix_lab.lessons.answers import Answers
from adamix_lab.lessons.answers import load_answers as load_answers
from adamix_lab.lessons.checks.routing import check_draw_route as check_draw_route
from adamix_lab.lessons.checks.routing import check_number_of_routes as check_number_of_routes
from adamix_lab.lessons.checks.telling import attempt as attempt
from adamix_lab.lessons.drawing import draw_block as draw_block
from adamix_lab.lessons.effects import effects_table as effects_table
from adamix_lab.lessons.effects import forest as forest
from adamix_lab.lessons.effects import outcome as outcome
from adamix_lab.lessons.program import check_program as check_program
from adamix_lab.lessons.program import equal_to_library as equal_to_library
from adamix_lab.lessons.program import insert as insert
from adamix_lab.lessons.program import mine as mine
from adamix_lab.lessons.widgets import Explorer, Number, View, Words
from adamix_lab.lessons.widgets import Prediction as Prediction
from adamix_lab.lessons.widgets import brier as brier
from adamix_lab.lessons.world import world_explorer
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import Padding, collate, encode, padding_of
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Row, Task
from adamix_lab.training.shipped import load_twin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


BLOCKS = ("block 5", "block 6")  # as people count; adapters sit in the top two of six
SENTENCES = (  # of the rows that judge: the routes do not answer them alike
    "his exciting and stylish life as a drug lord seems to have come to a halt .",
    "a captivating and intimate study about dying and loving . . .",
    "how would you feel if when you woke , the nightmare had just begun ?",
)


def by_expert(answers: Answers, values: Tensor) -> Tensor:
    """Values of routes `[rows, routes]` as those of an expert in a block, the other block averaged over.

    Returns `[rows, sites, M]`.
    """
    experts = answers.index[:, :, 0]  # [routes, sites]
    taken = torch.nn.functional.one_hot(experts).to(values)  # [routes, sites, M]
    return torch.einsum("nr,rse->nse", values, taken) / taken.sum(0)


def by_construction(values: Tensor, constructions: Sequence[str]) -> tuple[list[str], Tensor]:
    """Means of `[rows, ...]` over the rows of each construction: (their names, sorted; `[constructions, ...]`)."""
    names = sorted(set(constructions))
    number = torch.tensor([names.index(name) for name in constructions])
    return names, torch.stack([values[number == n].mean(0) for n in range(len(names))])


def flips(answers: Answers) -> Tensor:
    """Whether changing one expert in one block changes the answer, `[rows, routes]`, as 0 and 1."""
    said = answers.routes.argmax(-1)  # [rows, routes]
    neighbours = (answers.index[:, None, :, 0] != answers.index[None, :, :, 0]).sum(-1) == 1
    return ((said[:, :, None] != said[:, None, :]) & neighbours).any(-1).float()


def specialist_gain(values: Tensor, constructions: Sequence[str]) -> Tensor:
    """What it pays to choose an expert for each construction rather than one for all, on rows that did not choose.

    The rows are split in two halves; each half chooses for the other. With specialists the gain is above 0; where
    experts differ by chance alone it is 0 on average.

    Args:
        values: higher is better, `[rows, M]`.
        constructions: of each row.

    Returns:
        The gain on each row, `[rows]`.
    """
    number = torch.tensor([sorted(set(constructions)).index(name) for name in constructions])
    half = torch.arange(len(values)) % 2
    gain = torch.zeros(len(values))
    for judged in (0, 1):
        chooses, pays = half != judged, half == judged
        overall = int(values[chooses].mean(0).argmax())
        for kind in number.unique():
            own = int(values[chooses & (number == kind)].mean(0).argmax())
            here = pays & (number == kind)
            gain[here] = values[here, own] - values[here, overall]
    return gain


def draw_experts(answers: Answers, rows: Sequence[Row]) -> Picture:
    """The heat map expert x construction: accuracy of each expert in each block, the other block averaged over."""
    constructions = [str(row["construction"]) for row in rows[: len(answers.labels)]]
    names, table = by_construction(by_expert(answers, answers.right), constructions)
    order = table.mean((1, 2)).argsort(descending=True)
    names, table = [names[n] for n in order.tolist()], 100 * table[order]
    blocks, experts = table.shape[1:]
    figure, ax = new_figure(9.0, 4.2)
    figure.colorbar(heat(ax, table.flatten(1).T, low=50), ax=ax, label="accuracy (%)")
    ax.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=40, ha="right")
    ax.set_yticks(range(blocks * experts), [f"{BLOCKS[b]}, expert {e}" for b in range(blocks) for e in range(experts)])
    between = table.mean((1, 2))
    within = (table.amax(2) - table.amin(2)).mean()
    ax.set_title(f"Within a construction, experts of a block lie {within:.1f} points apart.", fontsize=10)
    alt = (
        f"Heat map of accuracy, a row an expert, a column a construction. Constructions run from {names[0]} "
        f"({between[0]:.0f} %) to {names[-1]} ({between[-1]:.0f} %); within a construction the experts of a block "
        f"lie {within:.1f} points apart on average."
    )
    return Picture(figure, alt)


def heat(ax: Axes, values: Tensor, low: float) -> AxesImage:
    """A heat map `[rows, columns]` of values up to 100 with its numbers written in."""
    drawn = ax.imshow(values.numpy(), vmin=low, vmax=100, cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(values.numpy()):
        colour = "w" if value < (low + 100) / 2 else "k"
        ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour, in_layout=False)
    return drawn


# -- one sentence, sixteen answers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Routed:
    """A sentence under one route, and what the other routes answer."""

    classes: tuple[str, ...]
    route: tuple[int, int]
    second: Tensor  # probability of the second class, [M, M]: expert of the first block x of the second

    @property
    def here(self) -> float:
        """The chosen route's probability of the second class."""
        return float(self.second[self.route])

    @property
    def flippers(self) -> list[str]:
        """Changes of one expert in one block that change the answer."""
        grid, (first, second) = self.second > 0.5, self.route
        found = [f"{BLOCKS[0]} to expert {e}" for e in range(len(grid)) if grid[e, second] != grid[self.route]]
        return found + [f"{BLOCKS[1]} to expert {e}" for e in range(len(grid)) if grid[first, e] != grid[self.route]]


def sixteen_curves() -> Explorer:
    """Two layers of four experts in one dimension: every route a curve, one of them lit."""
    return world_explorer(
        "Sixteen routes, sixteen curves",
        "Light routes one after another: do any two cross and part?",
        ("route", "near", "steps"),
        shown={"route": 5},
        layers=2,
        drawn="experts",
    )


def every_answer(mixture: MixtureModel, tokenizer: Any, sentence: str) -> Tensor:
    """The probability of the second class under every route, `[M, M]`: expert of the first block x of the second."""
    batch = tokenizer([sentence], return_tensors="pt", truncation=True, max_length=128)
    return tree_logits(mixture, batch).softmax(-1)[0, :, 1].reshape(mixture.space.experts, -1)


def draw_routed(state: Routed) -> View:
    """The probability under each of the routes, and the chosen one outlined."""
    from matplotlib.patches import Rectangle

    figure, ax = new_figure(6.4, 3.8)
    heat(ax, 100 * state.second, low=0)
    first, second = state.route
    ax.add_patch(Rectangle((second - 0.47, first - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=4))
    for (row, column), p in np.ndenumerate(state.second.numpy()):
        colour, said = "w" if p < 0.5 else "k", state.classes[int(p > 0.5)]
        ax.text(column, row + 0.33, said, ha="center", fontsize=8, color=colour, in_layout=False)
    experts = [f"expert {e}" for e in range(len(state.second))]
    ax.set_xticks(range(len(experts)), experts)
    ax.set_yticks(range(len(experts)), experts)
    ax.set(xlabel=BLOCKS[1], ylabel=BLOCKS[0])
    ax.set_title(f"probability of “{state.classes[1]}” (%)", fontsize=11)
    fix_margins(figure, left=0.15, right=0.98, bottom=0.14, top=0.91)
    low, high = 100 * float(state.second.min()), 100 * float(state.second.max())
    change = f"Flips with {', or '.join(state.flippers)}." if state.flippers else "No change of one expert flips it."
    readout = (
        f"Expert {first} in {BLOCKS[0]}, expert {second} in {BLOCKS[1]}: {100 * state.here:.0f} % "
        f"{state.classes[1]}, so {state.classes[int(state.here > 0.5)]}. {change} All {state.second.numel()} routes: "
        f"{low:.0f} to {high:.0f} %."
    )
    return View(readout, Picture(figure, f"A map of the answers under all routes, the chosen one outlined. {readout}"))


def route_explorer(mixture: MixtureModel, tokenizer: Any, classes: Sequence[str]) -> Explorer:
    """The widget of lesson 01: a sentence of the learner's own, and an expert in each of two blocks."""
    answers = lru_cache(maxsize=32)(partial(every_answer, mixture, tokenizer))  # routes of one sentence, walked once
    last = mixture.space.experts - 1
    return Explorer(
        "One sentence, sixteen answers",
        "Find a sentence of your own whose answer flips when you change one expert in one block.",
        [
            Words("sentence", "sentence", SENTENCES[0]),
            Number("first", f"expert in {BLOCKS[0]}", 0, last, 1, 0, live=True),
            Number("second", f"expert in {BLOCKS[1]}", 0, last, 1, 0, live=True),
        ],
        lambda sentence, first, second: Routed(tuple(classes), (first, second), answers(sentence)),
        draw_routed,
        shown={"sentence": SENTENCES[-1]},
        buttons={f"sentence {n}": {"sentence": text} for n, text in enumerate(SENTENCES, 1)},
    )


# -- lesson 01's contrast: a learned Switch gate on the shipped experts, and where it sends the tokens ---------------
# Only the gates train; experts and head stay as AdaMix left them. A gate reads hidden states, so its routes depend on
# the sentence. AdaMix's routes are drawn before the sentence is read.


@dataclass(frozen=True)
class Gated:
    """What trained gates do on the evaluation rows.

    Attributes:
        loads: share of each row's tokens that each expert serves, `[rows, sites, M]`.
        right: whether the gated model answers each row rightly, `[rows]`, as 0 and 1.
    """

    loads: Tensor
    right: Tensor


def train_gates(
    mixture: MixtureModel,
    task: Task,
    tokenizer: object,
    steps: int = 40,
    rows: int = 192,
    balance: float = 0.1,
    seed: int = 0,
) -> Gated:
    """Puts gates on the mixture, trains them alone, looks at the first evaluation rows, and takes them off again.

    balance: weight of the balancing loss (Fedus et al., 2022); 0 leaves it out.
    """
    pad = padding_of(tokenizer, mixture.model)
    train, judged = encode(task.train, task, tokenizer), encode(task.evaluation[:rows], task, tokenizer)
    frozen = [(p, p.requires_grad) for p in mixture.parameters()]
    model = attach_gates(mixture, seed).eval()
    for parameter, _ in frozen:
        parameter.requires_grad_(False)
    gates = [module.gate for module in model.modules() if isinstance(module, SwitchLayer)]
    optimizer = torch.optim.Adam(gates, 0.01)
    try:
        for step in range(steps):
            chosen = torch.randint(len(train), (16,), generator=generator_for(seed, step)).tolist()
            batch = collate([train[n] for n in chosen], pad)
            labels = batch.pop("labels")
            with collect_gates() as record:
                loss = cross_entropy(model(**batch).logits, labels) + balance * record.balance()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return _look(model, judged, pad)
    finally:
        detach_gates(mixture)
        for parameter, trains in frozen:
            parameter.requires_grad_(trains)


def gate_load(seed: int) -> Tensor:
    """How far the load of a row's construction lies from the mean load, less the same for shuffled rows: `[rows]`.

    Total variation, mean over sites, of balanced gates on AdaMix's experts. Shuffling gives what chance alone does.
    """
    gated, names = _on_adamix(seed, balance=0.1)
    mixed = torch.randperm(len(names), generator=generator_for(seed)).tolist()
    return _from_mean(gated.loads, names) - _from_mean(gated.loads, [names[n] for n in mixed])


def favourite_share(seed: int) -> Tensor:
    """Share of each row's tokens that the busiest expert serves without a balancing loss, less 1/M: `[rows]`."""
    loads = _on_adamix(seed, balance=0.0)[0].loads  # [rows, sites, M]
    busiest = loads.mean(0).argmax(-1)
    return (loads[:, range(len(busiest)), busiest] - 1 / loads.shape[-1]).mean(1)


def _on_adamix(seed: int, balance: float) -> tuple[Gated, list[str]]:
    task = load_task("aspects")
    mixture, tokenizer = load_twin("adamix", seed)
    gated = train_gates(mixture, task, tokenizer, balance=balance, seed=seed)
    return gated, [str(row["construction"]) for row in task.evaluation[: len(gated.loads)]]


def _from_mean(loads: Tensor, names: Sequence[str]) -> Tensor:
    distance = torch.zeros(len(loads))
    for name in set(names):
        here = torch.tensor([other == name for other in names])
        distance[here] = 0.5 * (loads[here].mean(0) - loads.mean(0)).abs().sum(-1).mean()
    return distance


@torch.no_grad()
def _look(model: torch.nn.Module, examples: Sequence[dict[str, Tensor]], pad: Padding) -> Gated:
    loads, right = [], []
    for start in range(0, len(examples), 32):
        batch = collate(examples[start : start + 32], pad)
        labels, kept = batch.pop("labels"), batch["attention_mask"][:, None, :, None].float()
        with collect_gates() as record:
            right.append((model(**batch).logits.argmax(-1) == labels).float())
        experts = record.probabilities[0].shape[-1]
        chosen = torch.nn.functional.one_hot(torch.stack(record.choices, 1), experts).float()  # [rows, sites, T, M]
        loads.append((chosen * kept).sum(2) / kept.sum(2))
    return Gated(torch.cat(loads), torch.cat(right))


def draw_loads(gated: Gated, constructions: Sequence[str]) -> Picture:
    """Share of tokens by construction (rows) and by expert of each block (columns)."""
    names, table = by_construction(gated.loads, constructions[: len(gated.loads)])
    sites, experts = table.shape[1:]
    figure, ax = new_figure(7.0, 4.6)
    figure.colorbar(heat(ax, 100 * table.flatten(1), low=0), ax=ax, label="share of the tokens (%)")
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set_xticks(range(sites * experts), [f"{BLOCKS[s]}\nexpert {e}" for s in range(sites) for e in range(experts)],
                  fontsize=8)  # fmt: skip
    ax.axvline(experts - 0.5, color="white", linewidth=3)
    mean = 100 * gated.loads.mean(0)
    told = "; ".join(
        f"{block}: {', '.join(f'{share:.0f}' for share in loads)} %" for block, loads in zip(BLOCKS, mean, strict=True)
    )
    accuracy = 100 * float(gated.right.mean())
    alt = (
        f"Heat map of a trained gate's load, a row a construction, a column an expert. Mean load of experts 0 to "
        f"{experts - 1} in {told}. The gated model answers {accuracy:.0f} % of {len(gated.right)} rows rightly."
    )
    return Picture(figure, alt)
