"""The optimiser, and what becomes of experts that a step's routes leave out.

Experts are stacked in one tensor `[M, ...]`, so an expert off the route has a gradient of zeros, not None. Under plain
AdamW it still moves, by momentum and weight decay. That is what the authors' code does under the torch of its
time, and the default here ("drift"). Separate Parameters under today's torch would rest instead; `StackedAdamW`
("freeze") gives exactly that, moments and step counts included.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.training.recipe import Recipe

BETAS = (0.9, 0.999)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them (malloc.h)
_LARGEST_BLOCK, _LARGEST_REST = 1 << 30, (1 << 31) - 1  # bytes


def parameter_groups(mixture: MixtureModel, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: experts by the rate of their side, own weights of a baseline, and head, with and without decay.

    `base_lr` is the rate that the schedule scales.

    Experts decay as their adaptation declares (a stacked bias has two dimensions, so shapes tell nothing). The head's
    and a baseline's own biases and norms do not decay. Raises ValueError where nothing trains, where weights that train
    were cast below float32, and for the rate of a side that the adaptation has not.
    """
    trained: dict[tuple[str, float, bool], list[nn.Parameter]] = defaultdict(list)
    check_sides(mixture, recipe)
    for layer in mixture.sites.values():
        for name, parameter in layer.experts.items():
            trained["experts", side_rate(layer, name, recipe), layer.decays[name]].append(parameter)
    for part, named in (("own", mixture.own_parameters()), ("head", mixture.head_parameters())):
        for _, parameter in named:
            trained[part, 1.0, parameter.dim() > 1].append(parameter)
    groups = []
    for (part, factor, decays), group in trained.items():
        lr = recipe.head_lr if part == "head" and recipe.head_lr is not None else recipe.lr * factor
        decay = recipe.weight_decay if decays or recipe.decay == "all" else 0.0
        if parameters := [parameter for parameter in group if parameter.requires_grad]:
            if narrow := [parameter.dtype for parameter in parameters if parameter.element_size() < 4]:
                raise LabError(
                    f"The weights of the {part} are {narrow[0]}: expected float32 to train. Use mixture.float()."
                )
            rates = {"lr": lr, "base_lr": lr, "weight_decay": decay}
            groups.append({"params": parameters, **rates, "stacked": part == "experts"})
    if not groups:
        raise LabError("Nothing trains: expected experts or a head with requires_grad. Attach the model afresh.")
    return groups


def side_rate(layer: MixtureLayer, weight: str, recipe: Recipe) -> float:
    """The factor of `lr` for a stacked weight of a site, by its side."""
    return recipe.side_rates.get(layer.adaptation.sides[layer.side_of[weight]], 1.0)


def check_sides(mixture: MixtureModel, recipe: Recipe) -> None:
    """Raises ValueError where the recipe names the rate of a side that the adaptation has not."""
    adaptation = mixture.mixture.adaptation
    for side in recipe.side_rates:
        one_of(f"Side of {adaptation.kind} in side_rates", side, adaptation.sides or ("(none)",))


def make_optimizer(mixture: MixtureModel, recipe: Recipe, betas: tuple[float, float] = BETAS) -> torch.optim.Optimizer:
    """AdamW over experts and head; `StackedAdamW` where experts off the route rest."""
    kind = StackedAdamW if recipe.off_route == "freeze" else torch.optim.AdamW
    return kind(parameter_groups(mixture, recipe), lr=recipe.lr, betas=betas, eps=recipe.eps)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scales every group's own rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def rest_off_route(optimizer: Any, mixture: MixtureModel, routes: Tensor) -> None:
    """Before a step: names the experts on its routes to a `StackedAdamW`, also inside accelerate's; others drift."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if isinstance(inner, StackedAdamW):
        inner.active = on_route(mixture, routes)


def on_route(mixture: MixtureModel, routes: Tensor) -> dict[nn.Parameter, Tensor]:
    """For each stacked weight `[M, ...]` which experts the routes `[..., sites, sides]` take: booleans `[M]`."""
    masks = {}
    for n, layer in enumerate(mixture.sites.values()):
        for name, parameter in layer.experts.items():
            mask = torch.zeros(len(parameter), dtype=torch.bool)
            mask[routes[..., n, layer.side_of[name]].flatten().cpu()] = True
            masks[parameter] = mask
    return masks


class StackedAdamW(torch.optim.Optimizer):
    """AdamW on stacked experts, one by one: those off the route keep their weights, both moments and step count.

    Equal to `torch.optim.AdamW` over separate Parameters whose gradient is None where they were not used. Set
    `active` (see `on_route`) before each step; weights that it does not name are updated whole. A stacked group's `lr`
    and `weight_decay` may be tensors `[copies]`, one a copy.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = BETAS,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "stacked": False})
        self.active: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of the experts on the route."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        copies = len(parameter) if group["stacked"] else 1
        column = (copies, *[1] * (parameter.dim() - 1)) if group["stacked"] else (1,)
        if not state:
            state["step"] = torch.zeros(copies)  # one count an expert; on the CPU, where every device has doubles
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        on = self.active.get(parameter)
        state["step"] += 1 if on is None else on
        beta1, beta2 = group["betas"]
        lr, decay = (
            torch.as_tensor(group[name], dtype=torch.double).reshape(-1, *column[1:]) for name in ("lr", "weight_decay")
        )
        # Off the route a count may still be 0: its correction would divide by zero, and its result is dropped anyway.
        count = state["step"].clamp(min=1).double().reshape(column)
        scale = (lr / (1 - beta1**count)).to(parameter)
        spread = (1 - beta2**count).sqrt().to(parameter)
        first = state["exp_avg"].lerp(gradient, 1 - beta1)
        second = (state["exp_avg_sq"] * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = (second.sqrt() / spread).add_(group["eps"])
        moved = parameter * (1 - lr * decay).to(parameter) - scale * first / size
        on = None if on is None else on.reshape(column).to(parameter.device)
        for old, new in ((state["exp_avg"], first), (state["exp_avg_sq"], second), (parameter, moved)):
            old.copy_(new if on is None else torch.where(on, new, old))


# -- averages of weights over steps: SWA, even over a window (Izmailov et al., 2018), and EMA ----------------
#
# `Recipe.share_in_average` says how far the average moves at a step. It is kept in float32 at least, since a share of
# one in some hundred is lost in fewer digits.


@torch.no_grad()
def update_average(average: dict[str, Tensor], weights: Mapping[str, Tensor], share: float) -> None:
    """Moves an average a share of the way to a step's weights, in place; the first weights begin it."""
    for name, weight in weights.items():
        exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
        average[name] = average[name].lerp(exact, share) if name in average else exact.clone()


@contextmanager
def holding(mixture: MixtureModel, tensors: dict[str, Tensor]) -> Iterator[None]:
    """The mixture has these trained tensors inside the block (its own where there are none), and then its own again."""
    own = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()} if tensors else {}
    if tensors:
        load_trained(mixture, tensors)
    try:
        yield
    finally:
        if own:
            load_trained(mixture, own)


# -- the C library's allocator, told to keep what a training step frees: the next step asks for it again -----


def keep_freed_memory() -> bool:
    """Lets glibc reuse freed blocks of up to 1 GiB instead of handing them back; True where it does.

    A step's activations above 32 MiB otherwise come from the system each time, zeroed page by page: at 64 rows of 128
    tokens that costs up to a third of a step. The process keeps its peak memory until it ends. Elsewhere than on Linux
    with glibc, and where the environment sets the allocator (`MALLOC_...`, `GLIBC_TUNABLES`, `LD_PRELOAD`), nothing
    is changed.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, _LARGEST_REST))
