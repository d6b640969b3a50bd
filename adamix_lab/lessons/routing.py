"""Lesson 01: what routes do to answers. Experts by construction, flips, and the routing explorer.

All of it is arithmetic on what every route answers (`Answers`), so a state of the widget costs microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adamix_lab.analysis.plots import Picture, new_figure
from adamix_lab.lessons.answers import Answers
from adamix_lab.lessons.controls import Number
from adamix_lab.lessons.frame import Explorer, View
from adamix_lab.tasks.rows import Row
from adamix_lab.tasks.tasks import load_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLOCKS = ("block 5", "block 6")  # as people count; adapters sit in the top two of six
ROWS = 64


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
    for mine in (0, 1):
        chooses, pays = half != mine, half == mine
        overall = int(values[chooses].mean(0).argmax())
        for kind in number.unique():
            own = int(values[chooses & (number == kind)].mean(0).argmax())
            here = pays & (number == kind)
            gain[here] = values[here, own] - values[here, overall]
    return gain


def draw_experts(answers: Answers, rows: Sequence[Row], predicted: float | None = None) -> Picture:
    """The heat map expert x construction: accuracy of each expert in each block, the other block averaged over.

    predicted: how many points experts of a block lie apart within a construction, as the learner expects.
    """
    constructions = [str(row["construction"]) for row in rows[: len(answers.labels)]]
    names, table = by_construction(by_expert(answers, answers.right), constructions)
    order = table.mean((1, 2)).argsort(descending=True)
    names, table = [names[n] for n in order.tolist()], 100 * table[order]
    blocks, experts = table.shape[1:]
    figure, ax = new_figure(9.0, 4.2)
    heat(ax, table.flatten(1).T, low=50, label="accuracy (%)")
    ax.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=40, ha="right")
    ax.set_yticks(range(blocks * experts), [f"{BLOCKS[b]}, expert {e}" for b in range(blocks) for e in range(experts)])
    between = table.mean((1, 2))
    within = (table.amax(2) - table.amin(2)).mean()
    told = "No prediction was entered." if predicted is None else f"You predicted {predicted:g}."
    ax.set_title(f"Within a construction, experts of a block lie {within:.1f} points apart. {told}", fontsize=10)
    alt = (
        f"Heat map of accuracy, a row an expert, a column a construction. Constructions run from {names[0]} "
        f"({between[0]:.0f} %) to {names[-1]} ({between[-1]:.0f} %); within a construction the experts of a block "
        f"lie {within:.1f} points apart on average. {told}"
    )
    return Picture(figure, alt)


def heat(ax: Axes, values: Tensor, low: float, label: str, high: float = 100) -> None:
    """A heat map `[rows, columns]` with its numbers written in."""
    drawn = ax.imshow(values.numpy(), vmin=low, vmax=high, cmap="cividis", aspect="auto")
    for (row, column), value in zip(
        torch.cartesian_prod(*map(torch.arange, values.shape)), values.flatten(), strict=True
    ):
        dark = float(value) < (low + high) / 2
        ax.text(int(column), int(row), f"{value:.0f}", ha="center", va="center", fontsize=8, color="w" if dark else "k",
                in_layout=False)  # fmt: skip
    ax.figure.colorbar(drawn, ax=ax, label=label)


# -- the routing explorer -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Routed:
    """One row under one route, and what the other routes answer."""

    row: Row
    classes: tuple[str, ...]
    route: tuple[int, int]
    positive: Tensor  # probability of the last class, [M, M]: expert of the first block x of the second

    @property
    def here(self) -> float:
        """The chosen route's probability."""
        return float(self.positive[self.route])

    @property
    def flippers(self) -> list[str]:
        """Changes of one expert in one block that change the answer."""
        grid, (first, second) = self.positive > 0.5, self.route
        found = [f"{BLOCKS[0]} to expert {e}" for e in range(len(grid)) if grid[e, second] != grid[self.route]]
        return found + [f"{BLOCKS[1]} to expert {e}" for e in range(len(grid)) if grid[first, e] != grid[self.route]]


def routed(answers: Answers, rows: Sequence[Row], classes: Sequence[str], row: int, first: int, second: int) -> Routed:
    """The state of the routing explorer: a row's number and the expert in each block."""
    positive = answers.routes[row, :, -1].exp().reshape(int(answers.index[:, 0].max()) + 1, -1)
    return Routed(rows[row], tuple(classes), (first, second), positive)


def draw_routed(state: Routed) -> View:
    """The way through the two blocks, and the probability under each of the routes."""
    from matplotlib.patches import Rectangle

    figure, ax = new_figure(5.6, 3.9)
    heat(ax, 100 * state.positive, low=0, label=f"probability of “{state.classes[-1]}” (%)")
    first, second = state.route
    ax.add_patch(Rectangle((second - 0.47, first - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=4))
    for i, j in torch.cartesian_prod(torch.arange(len(state.positive)), torch.arange(len(state.positive))).tolist():
        ax.text(j, i + 0.3, state.classes[int(state.positive[i, j] > 0.5)], ha="center", fontsize=7,
                color="w" if state.positive[i, j] < 0.5 else "k", in_layout=False)  # fmt: skip
    ax.set_xticks(range(len(state.positive)), [f"expert {e}" for e in range(len(state.positive))])
    ax.set_yticks(range(len(state.positive)), [f"expert {e}" for e in range(len(state.positive))])
    ax.set_xlabel(BLOCKS[1])
    ax.set_ylabel(BLOCKS[0])
    says, truth = state.classes[int(state.here > 0.5)], state.classes[int(state.row["label"])]
    verdict = "right" if says == truth else f"wrong, the label is {truth}"
    change = f"Flips with {', or '.join(state.flippers)}." if state.flippers else "No change of one expert flips it."
    readout = (
        f"“{state.row['sentence']}” Route {first}, {second}: {100 * state.here:.1f} % {state.classes[-1]}, so {says} "
        f"({verdict}). {change}"
    )
    low, high = 100 * float(state.positive.min()), 100 * float(state.positive.max())
    alt = (
        f"Probability of {state.classes[-1]} for “{state.row['sentence']}” under all {state.positive.numel()} routes: "
        f"{low:.0f} to {high:.0f} %. The chosen route, expert {first} then expert {second}, is outlined: "
        f"{100 * state.here:.0f} %."
    )
    return View(readout, Picture(figure, alt))


def routing_explorer(answers: Answers) -> Explorer:
    """The widget of lesson 01 on the first 64 evaluation rows of the embedded task."""
    task = load_task("aspects")
    flipping = flips(answers)[:ROWS].nonzero().tolist()  # (row, route), in order
    row, route = flipping[0] if flipping else (0, 0)
    first, second = answers.index[route, :, 0].tolist()
    number, flippable = int(answers.index.max()), len({row for row, _ in flipping})
    return Explorer(
        "Routing explorer",
        "Find a row whose answer flips when you change one expert in one block. "
        f"Then find them all: {flippable} of the {ROWS} have such a route.",
        [
            Number("row", "row", 0, ROWS - 1, 1, 0),
            Number("first", f"expert in {BLOCKS[0]}", 0, number, 1, 0),
            Number("second", f"expert in {BLOCKS[1]}", 0, number, 1, 0),
        ],
        lambda row, first, second: routed(answers, task.evaluation, task.classes, row, first, second),
        draw_routed,
        shown={"row": row, "first": first, "second": second},
    )
