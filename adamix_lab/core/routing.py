"""Routes as data: which expert serves each site and side, drawn before the forward pass.

A *route* is an integer tensor `[sites, sides]` (Eq. 4: sides independent and uniform). Leading axes widen it:
`[K, sites, sides]` for K views, points or examples, `[B, T, sites, sides]` for tokens. A shared side has one expert,
whose index is 0. Routes are functions of (seed, step, view): recorded by these three numbers, replayable, and the same
on every rank.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from operator import index

import torch
from torch import Generator, Tensor

from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.errors import Scope as Scope


def generator_for(seed: int, *indices: int) -> Generator:
    """A CPU generator that is a function of the seed and of indices such as (step, view), numpy's and torch's too."""
    numbers = (n if isinstance(n, int) else index(n) for n in (seed, *indices))  # of numpy they are written otherwise
    digest = hashlib.sha256(repr(tuple(numbers)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class RouteSpace:
    """All routes of a model: `counts[site][side]` experts (1 where the side is shared).

    >>> space = RouteSpace(((4, 1), (4, 1)))  # two sites, four experts on the first side
    >>> space.number
    16
    >>> space.fixed(2).tolist()
    [[2, 0], [2, 0]]
    """

    counts: tuple[tuple[int, ...], ...]
    tied: bool = False  # one index a site for all its sides, down i always meets up i: for experts trained in pairs

    @property
    def shape(self) -> tuple[int, int]:
        """(sites, sides)."""
        return len(self.counts), len(self.counts[0]) if self.counts else 0

    @property
    def number(self) -> int:
        """How many routes there are: at L sites (M_down * M_up) ** L with unshared sides, M ** L with tied ones."""
        return math.prod(len(choices) for choices in self._choices())

    @property
    def experts(self) -> int:
        """M, the largest number of experts on any side."""
        return max(itertools.chain.from_iterable(self.counts), default=1)

    def _choices(self) -> list[list[tuple[int, ...]]]:
        # the vertices of each site
        if self.tied:
            return [[tuple(min(i, n - 1) for n in counts) for i in range(max(counts))] for counts in self.counts]
        return [list(itertools.product(*map(range, counts))) for counts in self.counts]

    def draw(self, generator: Generator, lead: tuple[int, ...] = ()) -> Tensor:
        """Uniform routes `[*lead, sites, sides]`."""
        sites, sides = self.shape
        drawn = 1 if self.tied else sides
        uniform = torch.rand(*lead, sites, drawn, generator=generator, device="cpu", dtype=torch.float32)
        return (uniform * torch.tensor(self.counts, device="cpu")).long()

    def fixed(self, expert: int) -> Tensor:
        """The route that takes one expert everywhere (its index is 0 on shared sides)."""
        if not 0 <= expert < self.experts:
            raise LabError(f"Expert {expert} is out of range: expected 0 to {self.experts - 1} (they count from 0).")
        return torch.tensor(self.counts, dtype=torch.long, device="cpu").reshape(self.shape).sub(1).clamp(max=expert)

    def enumerate(self, limit: int = 4096) -> Tensor:
        """Every route `[number, sites, sides]`, in lexicographic order. Raises ValueError above the limit."""
        if self.number > limit:
            given = f"{self.number} routes are too many to enumerate (limit {limit})"
            raise LabError(f"{given}: adapt fewer blocks, share a side, or draw routes at random.")
        routes = list(itertools.product(*self._choices()))
        return torch.tensor(routes, dtype=torch.long, device="cpu").reshape(self.number, *self.shape)

    def check(self, route: Tensor) -> Tensor:
        """The route itself if it fits. Raises ValueError for a wrong shape, kind of number, or expert."""
        if route.dtype not in (torch.int32, torch.int64):
            raise LabError(
                f"A route of {route.dtype} does not fit: expected whole numbers (int64). Fractions make points."
            )
        if route.dim() < 2 or tuple(route.shape[-2:]) != self.shape or route.dim() > 4:
            raise LabError(
                f"Route of shape {list(route.shape)} does not fit: expected [sites, sides] = {list(self.shape)}, "
                "with at most two leading axes (views or examples; examples and tokens)."
            )
        counts = torch.tensor(self.counts, device=route.device)
        wrong = (route < 0) | (route >= counts)
        if wrong.any():
            *_, site, side = wrong.nonzero()[0].tolist()
            raise LabError(
                f"Expert {int(route[wrong][0])} at site {site}, side {side} is out of range: expected 0 to "
                f"{self.counts[site][side] - 1}" + (" (the side is shared)." if self.counts[site][side] == 1 else ".")
            )
        return route

    def check_point(self, point: Tensor) -> Tensor:
        """The mixture point itself if its shape fits. Raises ValueError otherwise."""
        shape = (*self.shape, self.experts)
        if point.dim() not in (3, 4) or tuple(point.shape[-3:]) != shape:
            raise LabError(
                f"Mixture point of shape {list(point.shape)} does not fit: expected [sites, sides, experts] = "
                f"{list(shape)}, with at most one leading axis. Routes are whole numbers [sites, sides] (int64)."
            )
        return point

    def vertices(self, route: Tensor) -> Tensor:
        """The route as a mixture point `[..., sites, sides, M]`: one-hot coefficients."""
        return torch.nn.functional.one_hot(route.long(), self.experts).float()

    def barycentre(self) -> Tensor:
        """The mixture point `[sites, sides, M]` that merging takes (Eq. 6): 1/M everywhere."""
        return torch.full((*self.shape, self.experts), 1 / self.experts, device="cpu")


@dataclass(frozen=True)
class Router:
    """Stochastic routing as a function of (step, view).

    >>> router = Router(RouteSpace(((4, 1), (4, 1))), seed=0)
    >>> router.views(3).shape  # two views, two sites, two sides
    torch.Size([2, 2, 2])
    >>> torch.equal(router.views(3), router.views(3))  # the same step draws the same routes
    True
    """

    space: RouteSpace
    seed: int = 0
    per: Scope = "batch"  # the whole batch through one route (the reference); "example" and "token" draw more

    def __post_init__(self) -> None:
        one_of("routing scope", self.per, ("batch", "example", "token"))

    def route(self, step: int, view: int = 0, rows: int = 1, tokens: int = 1) -> Tensor:
        """The route of a step's view: `[sites, sides]`, `[rows, ...]` per example, `[rows, tokens, ...]` per token."""
        lead = {"batch": (), "example": (rows,), "token": (rows, tokens)}[self.per]
        return self.space.draw(generator_for(self.seed, step, view), lead)

    def views(self, step: int, views: int = 2, rows: int = 1, tokens: int = 1) -> Tensor:
        """The routes of several views, stacked: `[views, ...]`."""
        return torch.stack([self.route(step, view, rows, tokens) for view in range(views)])
