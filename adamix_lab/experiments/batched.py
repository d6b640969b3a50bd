"""R runs of equal shape as one program: experts and heads stacked over runs, one forward pass for all their rows.

The runs share the frozen backbone and differ in what is small: starts (seeds), routes, batch order, rates, decay,
consistency. A step puts the runs' batches, padded to a common length, into one batch of R x B rows; each run's rows
meet its own effective weights; the losses are summed, so that each run gets its own gradient; clipping, schedule and
AdamW's moments are kept a run.

With dropout off each run equals the same run trained alone, to rounding. With dropout on the masks are drawn for all
rows together, so a run is one of its kind but not, digit for digit, the run alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.analysis.points import with_heads
from adamix_lab.core.errors import LabError
from adamix_lab.core.mixture import checkpoints_gradients
from adamix_lab.core.objective import Losses, Objective, reads_labels, task_loss_of
from adamix_lab.core.routing import Router
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import WAYS, cut_last_block
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import ZEROS, Batches, Example, Padding, collate, to_device
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import (
    History,
    check_same_run,
    generator_states,
    load_optimizer,
    loss_parts,
    newest_checkpoint,
    optimizer_tensors,
    set_generator_states,
    write_checkpoint,
)
from adamix_lab.training.train import BETAS, StackedAdamW, check_sides, side_rate, start_accelerator

Start = Mapping[str, Tensor]

# Settings that are each run's own; a program has one of all others.
OWN = "lr side_rates head_lr weight_decay decay warmup clip seed bucket label_smoothing consistency swa ema log_every"


def incompatibilities(mixture: MixtureModel, starts: Sequence[Start], recipes: Sequence[Recipe]) -> list[str]:
    """Why these runs cannot be one program, a sentence a reason; empty where they can.

    starts: each run's `trained_tensors` before its first step. recipes: one a run.
    """
    gated = not mixture.mixture.own and len(mixture.sites) != len(mixture.mixture.sites)
    shapes = [{name: list(tensor.shape) for name, tensor in start.items()} for start in starts]
    shared = [field.name for field in fields(Recipe) if field.name not in OWN.split()]
    differing = [name for name in shared if any(getattr(r, name) != getattr(recipes[0], name) for r in recipes)]
    checks = {
        "weights of the model itself train (full fine-tuning, BitFit, peft's methods)": mixture.mixture.own,
        "learned gates choose by hidden states: a run's routes are not known before the pass": gated,
        "gradient checkpointing is on: what is recomputed would run without the stacked weights": (
            checkpoints_gradients(mixture.model)
        ),
        "an encoder-decoder reads its labels: only encoders and decoders are stacked": reads_labels(mixture.model),
        f"{len(starts)} starts and {len(recipes)} recipes: expected one of each a run, and a run at least": (
            len(starts) != len(recipes) or not recipes
        ),
        "they differ in shape (experts, size, sharing, sites or head)": any(shape != shapes[0] for shape in shapes),
        f"they differ in {', '.join(differing)}": bool(differing),
    }
    first = recipes[0] if recipes else Recipe()  # what follows all recipes share
    checks |= {
        "weights are chosen on a dev slice: set dev_fraction = 0, which keeps the last ones": (
            first.dev_fraction > 0 or first.choose_on != "slice"
        ),
        f"a route a {first.per} would be a row's or a token's own: runs share groups of rows": first.per != "batch",
        "experts off the route rest: those of a stack drift": first.off_route == "freeze",
        "epochs of rows may be other steps: give steps": first.epochs is not None,
        "accumulated pieces: stacked runs take their batches whole": first.accumulate > 1,
        "float16 scales losses by what one run's gradients allow": first.precision == "fp16",
        "views of one dropout mask run one after another": any(r.consistency.views == "same_dropout" for r in recipes),
    }
    return [reason for reason, applies in checks.items() if applies]


class StackedRuns:
    """The stacked weights of R runs, what each draws a step, and their optimiser.

    Attributes:
        stacked: `[R * M, ...]` for experts, `[R, ...]` for the head, run by run, by the names of `trained_tensors`.
        orders: each run's batches.
        routes: of the last step, `[views, sites, sides]` a run.
        histories: each run's log.
        failed: why a run's numbers are not to be used; "" for a sound one.
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
        self.stacked = {}
        for name in starts[0]:
            join = torch.cat if name.startswith("experts.") else torch.stack
            self.stacked[name] = nn.Parameter(join([start[name] for start in starts]).to(device, copy=True))
        self.objectives = [
            Objective(student, recipe.consistency, task_loss_of(student, recipe.label_smoothing), WAYS)
            for recipe in recipes
        ]
        self.orders = [
            Batches(own, recipe.batch_size, recipe.seed, recipe.bucket, recipe.cached_passes or 1)
            for own, recipe in zip(examples, recipes, strict=True)
        ]
        self.routers = [Router(student.space, recipe.seed) for recipe in recipes]
        self.routes: list[Tensor] = []
        self.average: dict[str, Tensor] = {}
        self.histories, self.failed = [History() for _ in recipes], [""] * len(recipes)
        self.clip = torch.tensor([recipe.clip or math.inf for recipe in recipes], device=device)
        self.optimizer = self._optimizer()

    def result(self, run: int, total: int) -> dict[str, Tensor]:
        """What one run of so many steps keeps: the average of its weights where it has one, else the weights."""
        kept = self.average if self.recipes[run].share_in_average(total, total) else self.stacked
        own = {name: p.detach().unflatten(0, (len(self.recipes), -1))[run].clone() for name, p in kept.items()}
        return {name: w if name.startswith("experts.") else w[0] for name, w in own.items()}

    # -- a step ---------------------------------------------------------------------------------------

    def losses(self, step: int, pad: Padding, device: torch.device) -> list[Losses]:
        """Each run's losses at a step, by one forward pass of all runs' batches and views."""
        chosen = [order.at(step) for order in self.orders]
        most = max(map(len, chosen))
        self.routes = [
            router.views(step, recipe.consistency.number)
            for router, recipe in zip(self.routers, self.recipes, strict=True)
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
        heads = {name: weight for name, weight in self.stacked.items() if name.startswith("head.")}
        own = {name: weight.index_select(0, runs.to(weight.device)) for name, weight in heads.items()}
        served = with_heads(self.student, own)
        if not (known := self.student.takes_groups(inputs)).permitted:
            raise LabError(
                f"{type(served.model).__name__} does not take a stack's runs in one call ({known.reason}): expected "
                "rows first at every site. Train them one by one."
            )
        with cut_last_block(served.model, inputs, self.student.model), served.select(self._selection(runs)):
            logits: Tensor = served.model(**inputs).logits
        return logits

    def _selection(self, runs: Tensor) -> dict[str, dict[str, Tensor]]:
        """Effective weights of each group of rows."""
        routes = torch.cat(self.routes)  # [groups, sites, sides]
        selection: dict[str, dict[str, Tensor]] = {}
        for n, (path, layer) in enumerate(self.student.sites.items()):
            selection[path] = {}
            for name, side in layer.side_of.items():
                stacked = self.stacked[f"experts.{path}.{name}"]
                index = runs * self.copies[f"experts.{path}.{name}"] + routes[:, n, side]
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
        self.optimizer.step()
        self.optimizer.zero_grad()

    def take_average(self, step: int, total: int) -> None:
        """Moves the averages of the runs that have one; called behind a step, counted from 1."""
        shares = [recipe.share_in_average(step, total) for recipe in self.recipes]
        for name, parameter in self.stacked.items() if any(shares) else ():
            weight = parameter.detach()
            each = torch.tensor(shares, device=weight.device).repeat_interleave(self.copies[name])
            before = self.average.get(name, weight)
            self.average[name] = before.lerp(weight, each.reshape(-1, *[1] * (weight.dim() - 1)).to(weight))

    # -- the optimiser ----------------------------------------------------------------------------------

    def _optimizer(self) -> StackedAdamW:
        """A group a weight, with each copy's own rate and decay."""
        experts = {
            f"experts.{path}.{name}": (layer, name)
            for path, layer in self.student.sites.items()
            for name in layer.decays
        }
        groups: list[dict[str, Any]] = []
        for name, parameter in self.stacked.items():
            head = name.startswith("head.")
            if head:
                declared = parameter.dim() > 2  # a stacked head weight has a dimension more
                rates = [recipe.lr if recipe.head_lr is None else recipe.head_lr for recipe in self.recipes]
            else:
                layer, own = experts[name]
                declared = layer.decays[own]
                rates = [recipe.lr * side_rate(layer, own, recipe) for recipe in self.recipes]
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

    # -- log and checkpoints ----------------------------------------------------------------------------

    def log(self, step: int, total: int, seconds: float, losses: Sequence[Losses]) -> None:
        """Adds rows as `train` logs them; keeps in `failed` what is wrong with a run's loss."""
        for n, (recipe, history, own) in enumerate(zip(self.recipes, self.histories, losses, strict=True)):
            history.steps, history.seconds = step, seconds
            if self.failed[n] or (step % recipe.log_every and step not in (1, total)):
                continue
            loss, *parts = (float(value.detach()) for value in own[:4])
            if math.isfinite(loss):
                row = {"step": step, "loss": loss, **loss_parts(parts)}
                lr = recipe.lr * recipe.rate(step - 1, total)
                history.rows.append({**row, "lr": lr, "seconds": round(seconds, 3), "route": self.routes[n].tolist()})
            else:
                self.failed[n] = f"the loss at step {step} is {loss}: lower lr (now {recipe.lr}) or raise warmup"

    @property
    def facts(self) -> dict[str, Any]:
        """Which runs these are; a checkpoint of others is refused."""
        return {"recipes": [asdict(recipe) for recipe in self.recipes], "rows": [len(own) for own in self.examples]}

    def keep(self, folder: Path) -> None:
        """Writes where the stack stands. Raises OSError where the disk is full; the last checkpoint is whole."""
        parts = {
            "weights": {name: p.detach() for name, p in self.stacked.items()},
            "optimizer": optimizer_tensors(self.optimizer),
            "generators": generator_states(self.clip.device),
            "average": self.average,
        }
        tensors = {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}
        first = self.histories[0]
        logs = {"rows": [history.rows for history in self.histories], "failed": self.failed, "seconds": first.seconds}
        write_checkpoint(folder, first.steps, tensors, {"run": self.facts, **logs})

    def resume(self, folder: Path) -> None:
        """Puts the stack back to where its newest checkpoint stood. Raises ValueError for another stack's."""
        folder.mkdir(parents=True, exist_ok=True)
        found = newest_checkpoint(folder)
        if found is None:
            return
        check_same_run(found.facts["run"], self.facts, found.path)
        with torch.no_grad():
            for name, tensor in found.part("weights").items():
                self.stacked[name].copy_(tensor)
        self.average = {name: tensor.to(self.clip.device) for name, tensor in found.part("average").items()}
        load_optimizer(self.optimizer, found.part("optimizer"))
        set_generator_states(found.part("generators"), self.clip.device)
        self.failed, seconds = found.facts["failed"], found.facts["seconds"]
        kept = {"steps": found.step, "seconds": seconds, "resumed_from": found.step}
        self.histories = [History(rows, **kept) for rows in found.facts["rows"]]


@dataclass(frozen=True)
class Trained:
    """One run of a stack.

    Attributes:
        weights: as `trained_tensors` names them; `load_trained` puts them into the mixture.
        history: its log rows; `seconds` are those of the whole stack.
        failed: why its numbers are not to be used (a loss that is not finite); None for a sound run.
    """

    weights: dict[str, Tensor]
    history: History
    failed: str | None = None


def train_batched(
    mixture: MixtureModel,
    starts: Sequence[Start],
    examples: Sequence[list[Example]],
    recipes: Sequence[Recipe],
    pad: Padding = ZEROS,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
    folder: Path | None = None,
) -> list[Trained]:
    """Trains R runs side by side; the mixture lends its backbone and shape, its own weights stay as they are.

    Args:
        mixture: from `attach`, or what lies above its cached prefix; its settings of adaptation, experts and sharing
            are those of all runs.
        starts: each run's first weights: `trained_tensors` of a mixture that was attached with the run's seed.
        examples: each run's, as the mixture takes them (one list for all, or one a run).
        recipes: each run's settings.
        pad: how the tokenizer pads.
        progress: show a bar.
        on_step: called after each step with the number of steps done.
        folder: for checkpoints, every `checkpoint_every` steps of the first recipe; a killed stack goes on there.

    Raises ValueError for runs that cannot be one program (says why), and a folder with another stack's checkpoint.
    """
    from tqdm.auto import tqdm

    if reasons := incompatibilities(mixture, starts, recipes):
        raise LabError(f"These runs cannot train as one program: {'; '.join(reasons)}. Train such runs one by one.")
    accelerator = start_accelerator(recipes[0])
    runs = StackedRuns(mixture.to(accelerator.device), starts, recipes, examples)
    total = recipes[0].total_steps(len(runs.orders[0]))
    for recipe in recipes:
        check_sides(mixture, recipe)
        recipe.share_in_average(total, total)  # a window of no steps is refused here
    if folder is not None:
        runs.resume(folder)
    first, began = runs.histories[0].steps, time.perf_counter() - runs.histories[0].seconds
    for step in tqdm(range(first, total), initial=first, total=total, disable=None if progress else True):
        mixture.train()
        with accelerator.autocast():
            losses = runs.losses(step, pad, accelerator.device)
        runs.update(losses, [recipe.rate(step, total) for recipe in recipes])
        runs.take_average(step + 1, total)
        runs.log(step + 1, total, time.perf_counter() - began, losses)
        if folder is not None and ((step + 1) % (recipes[0].checkpoint_every or total) == 0 or step + 1 == total):
            runs.keep(folder)
        if on_step is not None:
            on_step(step + 1)
    mixture.eval()
    found = zip(runs.histories, runs.failed, strict=True)
    return [Trained(runs.result(n, total), history, failed or None) for n, (history, failed) in enumerate(found)]
