"""R runs of equal shape as one program: experts and heads stacked over runs, one forward pass for all their rows.

The runs share the frozen backbone and differ in what is small: starts (seeds), routes, batch order, rates, decay,
consistency. A step puts the runs' batches, padded to a common length, into one batch of R x B rows; each run's rows
meet its own effective weights; the losses are summed, so that each run gets its own gradient; clipping, schedule and
AdamW's moments are kept a run.

With dropout off each run equals the same run trained alone, to rounding. With dropout on the masks are drawn for all
rows together, so a run is one of its kind but not, digit for digit, the run alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.analysis.stacked import with_heads
from adamix_lab.core.files import write_tensors, write_text
from adamix_lab.core.mixture import checkpoints_gradients
from adamix_lab.core.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.core.objective import Losses, Objective, reads_labels
from adamix_lab.core.routing import Router
from adamix_lab.core.views import Batch
from adamix_lab.experiments import running
from adamix_lab.experiments.grid import DEFAULTS, Run
from adamix_lab.experiments.running import (
    SETTINGS,
    STAGES,
    Job,
    Outcome,
    Prepared,
    Stopped,
    alone,
    curve_rows,
    is_full_disk,
    perform,
    prepare,
    tables_of,
    watch,
    with_steps,
)
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.fast.views import WAYS
from adamix_lab.tasks.batches import Batches, Encoder, Example, check_labels, collate, encode, length
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.optim import BETAS, StackedAdamW, on_route
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import (
    History,
    check_same,
    clear_temporary,
    generator_states,
    load_optimizer,
    newest_checkpoint,
    optimizer_tensors,
    set_generator_states,
    write_checkpoint,
)
from adamix_lab.training.train import prepare_data, start_accelerator, to_device

# -- equal_shape -------------------------------------------------------------------------------------------------
#
# Which runs can train as one program, and why others cannot.


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


# -- stacked_runs ------------------------------------------------------------------------------------------------
#
# R runs side by side: their stacked weights, what each draws a step, one forward pass for all, and their optimiser.


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
        self.objectives = [Objective(student, recipe.consistency, ways=WAYS) for recipe in recipes]
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
            router.views(step, recipe.consistency.number, len(batch), max(length(own[n]) for n in batch))
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


@dataclass(frozen=True)
class Trained:
    """One run of a set.

    Attributes:
        weights: as `trained_tensors` names them; `load_trained` puts them into the mixture.
        history: its log rows; `seconds` are those of the whole set.
        failed: why its numbers are not to be used (a loss that is not finite); None for a sound run.
    """

    weights: dict[str, Tensor]
    history: History
    failed: str | None = None


def train_batched(
    mixture: MixtureModel,
    starts: Sequence[Start],
    task: Task | Sequence[Task],
    tokenizer: Any,
    recipes: Sequence[Recipe],
    encoder: Encoder = encode,
    progress: bool = True,
    on_step: Callable[[int, Runs], None] | None = None,
    folder: Path | None = None,
) -> list[Trained]:
    """Trains R runs side by side; the mixture lends its backbone and shape, its own weights stay as they are.

    Args:
        mixture: from `attach`; its settings of adaptation, experts and sharing are those of all runs.
        starts: each run's first weights: `trained_tensors` of a mixture that was attached with the run's seed.
        task: what all learn, or one task a run (few examples, drawn by the run's seed); only `train` is looked at.
        tokenizer: of the model.
        recipes: each run's settings.
        encoder: as in `train`.
        progress: show a bar.
        on_step: called after each step with the number of steps done and the runs.
        folder: for checkpoints, every `checkpoint_every` steps of the first recipe; a killed set goes on there.

    Raises ValueError for runs that cannot be one program (says why), another number of tasks than of runs, labels
    outside the head's classes, and a folder that holds another set's checkpoint.
    """
    from tqdm.auto import tqdm

    if reasons := why_apart(mixture, starts, recipes):
        raise ValueError(f"These runs cannot train as one program: {'; '.join(reasons)}. Train such runs one by one.")
    tasks = [task] * len(recipes) if isinstance(task, Task) else list(task)
    if len(tasks) != len(recipes):
        raise ValueError(f"{len(tasks)} tasks for {len(recipes)} runs: expected one for all, or one a run.")
    accelerator = start_accelerator(recipes[0])
    mixture.to(accelerator.device)
    prepared: dict[int, list[Example]] = {}
    for own in tasks:
        if encoder is encode:
            check_labels(mixture, own)
        if id(own) not in prepared:
            student, prepared[id(own)], _, pad = prepare_data(mixture, own, tokenizer, recipes[0], encoder)
    runs = Runs(student, starts, recipes, [prepared[id(own)] for own in tasks])
    totals = {recipe.total_steps(len(order)) for recipe, order in zip(recipes, runs.orders, strict=True)}
    if len(totals) > 1:
        raise ValueError(f"The runs take {sorted(totals)} steps: expected equally many. Give steps instead of epochs.")
    (total,) = totals
    histories, failed = [History() for _ in recipes], [""] * len(recipes)
    facts = {"recipes": [asdict(recipe) for recipe in recipes], "rows": [len(own) for own in runs.examples]}
    first = 0 if folder is None else resume(folder, runs, histories, failed, facts)
    began = time.perf_counter() - histories[0].seconds
    for step in tqdm(range(first, total), initial=first, total=total, disable=None if progress else True):
        student.train()
        with accelerator.autocast():
            losses = runs.losses(step, pad, accelerator.device)
        runs.update(losses, [recipe.rate(step, total) for recipe in recipes])
        for n, (recipe, history) in enumerate(zip(recipes, histories, strict=True)):
            history.steps, history.seconds = step + 1, time.perf_counter() - began
            if not failed[n] and ((step + 1) % recipe.log_every == 0 or step + 1 in (1, total)):
                failed[n] = _log(history, losses[n], recipe, recipe.rate(step, total), runs.routes[n])
        if folder is not None and ((step + 1) % (recipes[0].checkpoint_every or total) == 0 or step + 1 == total):
            keep(folder, step + 1, runs, histories, failed, facts)
        if on_step is not None:
            on_step(step + 1, runs)
    student.eval()
    return [Trained(runs.weights(n), history, failed[n] or None) for n, history in enumerate(histories)]


def _log(history: History, losses: Losses, recipe: Recipe, factor: float, routes: Tensor) -> str:
    """Adds a row as `train` logs it; answers what is wrong with it, or nothing."""
    loss, task, agree = (float(value.detach()) for value in losses[:3])
    if not math.isfinite(loss):
        return f"the loss at step {history.steps} is {loss}: lower lr (now {recipe.lr}) or raise warmup"
    row = {"step": history.steps, "loss": loss, "task": task, "consistency": agree, "lr": recipe.lr * factor}
    route = routes.tolist() if recipe.per == "batch" else None
    history.rows.append({**row, "seconds": round(history.seconds, 3), "route": route})
    return ""


# -- checkpoints -------------------------------------------------------------------------------------------


def keep(
    folder: Path, step: int, runs: Runs, histories: Sequence[History], failed: Sequence[str], facts: dict[str, Any]
) -> None:
    """Writes where the set stands. Raises OSError where the disk is full; the last checkpoint is whole."""
    parts = {
        "weights": {name: p.detach() for name, p in runs.stacked.items()},
        "optimizer": optimizer_tensors(runs.optimizer),
        "generators": generator_states(next(iter(runs.stacked.values())).device),
    }
    tensors = {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}
    logs = {"rows": [h.rows for h in histories], "failed": list(failed), "seconds": histories[0].seconds}
    write_checkpoint(folder, step, tensors, {"run": facts, **logs})


def resume(folder: Path, runs: Runs, histories: Sequence[History], failed: list[str], facts: dict[str, Any]) -> int:
    """Puts a set back to where its newest checkpoint stood; returns the steps done. Raises ValueError for another's."""
    folder.mkdir(parents=True, exist_ok=True)
    clear_temporary(folder)
    found = newest_checkpoint(folder)
    if found is None:
        return 0
    check_same(found.facts["run"], facts, found.path)
    with torch.no_grad():
        for name, tensor in found.part("weights").items():
            runs.stacked[name].copy_(tensor)
    load_optimizer(runs.optimizer, found.part("optimizer"))
    set_generator_states(found.part("generators"), next(iter(runs.stacked.values())).device)
    for n, history in enumerate(histories):
        history.rows, history.steps, history.seconds = found.facts["rows"][n], found.step, found.facts["seconds"]
        history.resumed_from, failed[n] = found.step, found.facts["failed"][n]
    return found.step


# -- sets --------------------------------------------------------------------------------------------------------
#
# Runs of equal shape as sets, each trained as one program above one frozen backbone.
#
# What a set is made of is written down before it trains (`OUT/sets/NAME/members.json`), so that a killed one goes on as
# the same set: under dropout its masks are drawn for all members together. With `dropout: 0` a run's numbers are those
# of the run alone, to rounding.


SETS = "sets"
MEMBERS = "members.json"
OWN = ("variant", "seed", "lr", "head_lr", "weight_decay", "bucket")  # what members of a set may differ in
STACKED = ("adamix", "single", "r-drop", "wide", "houlsby", "pfeiffer")


# -- which runs ----------------------------------------------------------------------------------------------


def why_alone(run: Run) -> str:
    """Why a run cannot be one of a set; "" where it can."""
    if run.method == "apart-soup":
        return "adapters trained apart are several trainings, one after another"
    if run.method not in STACKED:
        return "it trains weights of the model itself, or modules that are not stacked"
    if run.routing == "token":
        return "a route a token computes all vertices"
    return ""


def sets_of(runs: Sequence[Run], most: int, begun: Sequence[Sequence[str]] = ()) -> list[tuple[Run, ...]]:
    """The runs in sets of at most `most`, in the order of their first members.

    begun: the keys of sets that were under way; those stay together.
    """
    place = {key: n for n, keys in enumerate(begun) for key in keys}
    found: list[list[Run]] = []
    open_sets: dict[object, list[Run]] = {}
    for run in runs:
        shape = place.get(run.key, _shape(run))
        own = open_sets.get(shape)
        if own is None or (len(own) >= most and run.key not in place):
            own = []
            found.append(own)
            open_sets[shape] = own
        own.append(run)
    return [tuple(own) for own in found]


def _shape(run: Run) -> object:
    """Equal for runs that can be one program."""
    if why_alone(run):
        return run.key
    # One view or two, a route a batch or a row: each run its own. But equal compute gives one view more steps.
    views = run.consistency > 0 if run.compute == "compute" else None
    return views, replace(run, **{name: DEFAULTS[name] for name in OWN}, consistency=0.0, routing="batch")


# -- on disk -------------------------------------------------------------------------------------------------


def name_of(keys: Sequence[str]) -> str:
    """The set's name: it follows from its members."""
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:12]


def begin_set(out: Path, keys: Sequence[str]) -> None:
    """Notes what the set is made of, before it trains."""
    path = out / SETS / name_of(keys) / MEMBERS
    if not path.is_file():
        write_text(path, json.dumps(list(keys)) + "\n")


def begun_sets(out: Path) -> list[list[str]]:
    """The members of sets that were under way when an earlier call ended; one without its list is deleted."""
    found = []
    for folder in sorted((out / SETS).glob("*")):
        try:
            found.append([str(key) for key in json.loads((folder / MEMBERS).read_text(encoding="utf-8"))])
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
    return found


def end_set(out: Path, keys: Sequence[str]) -> None:
    """Deletes what a set kept to go on from: its outcomes are stored."""
    shutil.rmtree(out / SETS / name_of(keys), ignore_errors=True)


# -- performing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """One run of a set before its first step. cost: operations of one step."""

    job: Job
    prepared: Prepared
    cost: int
    start: Start


def perform_set(jobs: Sequence[Job]) -> list[Outcome]:
    """Trains and judges the runs of a set; one alone is `perform`ed. A set that fails is performed run by run.

    Raises OSError where the disk is full.
    """
    if len(jobs) == 1:
        return [perform(jobs[0])]
    work = _work_folder(jobs)
    with alone(jobs[0].threads):
        try:
            outcomes = _measured(jobs, work)
        except Stopped:
            return [Outcome(job) for job in jobs]
        except Exception as error:
            if is_full_disk(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
        else:
            reason = ""
    if work.parent.name != SETS:
        shutil.rmtree(work, ignore_errors=True)  # nobody else cleans up on this machine
    if reason:
        note = f"performed alone, for the set could not be trained as one program: {reason}"
        return [replace(found, notes=(*found.notes, note)) for found in map(perform, jobs)]
    return outcomes


def _work_folder(jobs: Sequence[Job]) -> Path:
    place, name = Path(jobs[0].place), name_of([job.run.key for job in jobs])
    if (place / SETTINGS).is_file():
        return place.parent / SETS / name
    return Path(tempfile.gettempdir()) / f"adamix-lab-set-{name}"


def _measured(jobs: Sequence[Job], work: Path) -> list[Outcome]:
    members = list(_members(jobs))
    first = members[0].prepared
    recipes = [member.prepared.recipe for member in members]
    starts = [member.start for member in members]
    if reasons := why_apart(first.top, starts, recipes):
        raise ValueError("; ".join(reasons))
    encoded = {id(member.prepared.task): member.prepared.training for member in members}
    found = train_batched(
        first.top,
        starts,
        [member.prepared.task for member in members],
        first.tokenizer,
        recipes,
        encoder=lambda _, task, *rest: encoded[id(task)],
        progress=False,
        on_step=_watch(members, work),
        folder=work,
    )
    outcomes = []
    for member, trained in zip(members, found, strict=True):
        if trained.failed:
            outcomes.append(Outcome(member.job, error=f"FloatingPointError: {trained.failed}"))
            continue
        load_trained(first.top, trained.weights)
        seconds = trained.history.seconds / len(members)
        own = replace(member.prepared, mixture=first.mixture, top=first.top)
        done = running.Trained(first.top, curve_rows(trained.history.rows), seconds)
        files = tables_of(member.job.run, own, done, member.cost)
        files |= {path.name: path.read_bytes() for path in sorted((work / member.job.run.key).glob("experts-*"))}
        notes = [*member.prepared.notes, f"one of {len(members)} runs of one program; seconds are its share"]
        outcomes.append(Outcome(member.job, files, tuple(notes)))
    return outcomes


def _members(jobs: Sequence[Job]) -> Iterator[Member]:
    """Each run prepared, with its first weights; the models of all but the first are let go."""
    kept: Prepared | None = None
    for job in jobs:
        prepared, cost = with_steps(job.run, prepare(job.run))
        start = {name: tensor.clone() for name, tensor in trained_tensors(prepared.top).items()}
        kept = kept or prepared
        yield Member(job, replace(prepared, mixture=kept.mixture, top=kept.top), cost, start)


def _watch(members: Sequence[Member], work: Path) -> Callable[[int, Runs], None]:
    """What is called after each step: it keeps snapshots, and stops behind a checkpoint where time is over."""
    job, steps = members[0].job, members[0].prepared.recipe.steps or 0
    stages = {max(1, round(share * steps)): stage for stage, share in STAGES.items()} if job.snapshots else {}
    pause = watch(job, lambda step: None)

    def after(step: int, runs: Runs) -> None:
        if step in stages:
            for n, member in enumerate(members):
                tensors: dict[str, Tensor] = {name: tensor.half() for name, tensor in runs.weights(n).items()}
                write_tensors(work / member.job.run.key / f"experts-{stages[step]}.safetensors", tensors)
        pause(step)

    return after
