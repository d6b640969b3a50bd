"""R runs side by side: their stacked weights, what each draws a step, one forward pass for all, and their optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.analysis.stacked import with_heads
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import Losses, Objective
from adamix_lab.core.routing import Router
from adamix_lab.core.views import Batch
from adamix_lab.experiments.equal_shape import Start
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.tasks.batches import Batches, Example, collate
from adamix_lab.training.optim import BETAS, StackedAdamW, on_route
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import draw_routes, to_device


class Runs:
    """The stacked weights of R runs, what each draws a step, and their optimiser.

    Attributes:
        stacked: `[R * M, ...]` for experts, `[R, ...]` for the head, run by run, by the names of `trained_tensors`.
        orders: each run's batches.
        routes: of the last step, `[views, sites, sides]` a run (with rows after the views where each has its own).
    """

    def __init__(
        self,
        student: MixtureModel,
        starts: Sequence[Start],
        recipes: Sequence[Recipe],
        examples: Sequence[list[Example]],
    ) -> None:
        self.student, self.recipes, self.examples = student, recipes, examples
        device = next(student.parameters()).device
        self.copies = {name: len(w) if name.startswith("experts.") else 1 for name, w in starts[0].items()}
        self.stacked = {
            name: nn.Parameter(torch.cat([_copies(name, start[name]) for start in starts]).to(device, copy=True))
            for name in starts[0]
        }
        self.objectives = [Objective(student, recipe.consistency) for recipe in recipes]
        self.orders = [
            Batches(own, recipe.batch_size, recipe.seed, recipe.bucket)
            for own, recipe in zip(examples, recipes, strict=True)
        ]
        self.routers = [Router(student.space, recipe.seed, recipe.per) for recipe in recipes]
        self.routes: list[Tensor] = []
        self.clip = torch.tensor([recipe.clip or math.inf for recipe in recipes], device=device)
        self.optimizer = self._optimizer()

    def weights(self, run: int) -> dict[str, Tensor]:
        """One run's weights now."""
        own = {name: p.detach().unflatten(0, (len(self.recipes), -1))[run].clone() for name, p in self.stacked.items()}
        return {name: w if name.startswith("experts.") else w[0] for name, w in own.items()}

    # -- a step ---------------------------------------------------------------------------------------

    def losses(self, step: int, pad: int, device: torch.device) -> list[Losses]:
        """Each run's losses at a step, by one forward pass of all runs' batches and views."""
        chosen = [order.at(step) for order in self.orders]
        most = max(map(len, chosen))
        self.routes = [
            draw_routes(router, step, recipe, [own[n] for n in batch])
            for router, recipe, own, batch in zip(self.routers, self.recipes, self.examples, chosen, strict=True)
        ]
        # An epoch's last batch may be smaller: its first row fills the place, and the losses leave it out again.
        filled = [[*batch, *batch[:1] * (most - len(batch))] for batch in chosen]
        rows = [own[n] for own, each in zip(self.examples, filled, strict=True) for n in each]
        batch = to_device(collate(rows, pad), device)
        labels = batch["labels"].unflatten(0, (-1, most))
        logits = self._logits(batch, most).unflatten(0, (-1, most))
        found, group = [], 0
        for run, (objective, own) in enumerate(zip(self.objectives, map(len, chosen), strict=True)):
            views = len(self.routes[run])
            found.append(objective.losses(logits[group : group + views, :own], labels[run, :own]))
            group += views
        return found

    def _logits(self, batch: Batch, rows: int) -> Tensor:
        """Logits of all groups of rows, a group for each run's view: `[groups * rows, ...]`."""
        runs = torch.cat([torch.full((len(routes),), n) for n, routes in enumerate(self.routes)])
        where = (runs[:, None] * rows + torch.arange(rows)).flatten().to(batch["labels"].device)
        inputs = {name: value[where] for name, value in batch.items() if name != "labels"}
        served = with_heads(self.student, self._heads(runs))
        with cut_last_block(served.model):
            logits: Tensor = served(selection=self._selection(runs, rows), **inputs).logits
        return logits

    def _heads(self, runs: Tensor) -> dict[str, Tensor]:
        heads = {name: weight for name, weight in self.stacked.items() if name.startswith("head.")}
        return {name: weight.index_select(0, runs.to(weight.device)) for name, weight in heads.items()}

    def _selection(self, runs: Tensor, rows: int) -> dict[str, dict[str, Tensor]]:
        """Effective weights of each group, or of each row where any run routes by the example."""
        routes = self.routes
        if any(each.dim() == 4 for each in routes):
            routes = [_by_row(each, rows) for each in routes]
            runs = runs.repeat_interleave(rows)
        all_routes = torch.cat([each.flatten(0, -3) for each in routes])  # [groups, sites, sides]
        selection: dict[str, dict[str, Tensor]] = {}
        for n, (path, layer) in enumerate(self.student.sites.items()):
            selection[path] = {}
            for name, side in layer.side_of.items():
                stacked = self.stacked[f"experts.{path}.{name}"]
                index = runs * self.copies[f"experts.{path}.{name}"] + all_routes[:, n, side]
                selection[path][name] = stacked.index_select(0, index.to(stacked.device))
        return selection

    def update(self, losses: Sequence[Losses], factors: Sequence[float]) -> None:
        """Every run's backward pass, clipping and AdamW step at its own rate."""
        torch.stack([each.total for each in losses]).sum().backward()
        gradients = [p.grad.view(len(self.recipes), -1) for p in self.stacked.values() if p.grad is not None]
        norms = torch.stack([gradient.square().sum(1) for gradient in gradients]).sum(0).sqrt()
        shrink = (self.clip / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(shrink[:, None])
        for group in self.optimizer.param_groups:
            rates = group["base_lr"] * torch.tensor(factors, dtype=torch.double)
            group["lr"] = rates.repeat_interleave(group["copies"])
        if self.recipes[0].off_route == "freeze":
            self.optimizer.active = self._on_route()
        self.optimizer.step()
        self.optimizer.zero_grad()

    # -- the optimiser ----------------------------------------------------------------------------------

    def _optimizer(self) -> StackedAdamW:
        """A group a weight, with each copy's own rate and decay."""
        sites = self.student.sites
        decays = {
            f"experts.{path}.{name}": layer.decays[name] for path, layer in sites.items() for name in layer.decays
        }
        groups: list[dict[str, Any]] = []
        for name, parameter in self.stacked.items():
            head = name.startswith("head.")
            declared = parameter.dim() > 2 if head else decays[name]  # a stacked head weight has a dimension more
            rates = [recipe.head_lr if head and recipe.head_lr is not None else recipe.lr for recipe in self.recipes]
            decay = [recipe.weight_decay if declared or recipe.decay == "all" else 0.0 for recipe in self.recipes]
            copies = self.copies[name]
            groups.append(
                {
                    "params": [parameter],
                    "base_lr": torch.tensor(rates, dtype=torch.double),  # [R]; `update` sets lr, [R * copies]
                    "weight_decay": torch.tensor(decay, dtype=torch.double).repeat_interleave(copies),
                    "copies": copies,
                    "stacked": True,
                }
            )
        return StackedAdamW(groups, betas=BETAS, eps=self.recipes[0].eps)

    def _on_route(self) -> dict[nn.Parameter, Tensor]:
        """For each stacked weight which copies the last step's routes took: booleans `[R * M]`."""
        names = [f"experts.{path}.{name}" for path, layer in self.student.sites.items() for name in layer.experts]
        masks = [list(on_route(self.student, routes).values()) for routes in self.routes]
        return {self.stacked[name]: torch.cat([each[n] for each in masks]) for n, name in enumerate(names)}


def _copies(name: str, weight: Tensor) -> Tensor:
    return weight if name.startswith("experts.") else weight[None]


def _by_row(routes: Tensor, rows: int) -> Tensor:
    """Routes `[views, rows, sites, sides]` of `[views, sites, sides]`, or of too few rows (those that fill take 0)."""
    if routes.dim() == 3:
        return routes[:, None].expand(-1, rows, -1, -1)
    missing = rows - routes.shape[1]
    return torch.cat([routes, routes.new_zeros(len(routes), missing, *routes.shape[2:])], 1) if missing else routes
