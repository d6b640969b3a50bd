"""Runs of equal shape as sets, each trained as one program above one frozen backbone.

What a set is made of is written down before it trains (`OUT/sets/NAME/members.json`), so that a killed one goes on as
the same set: under dropout its masks are drawn for all members together. With `dropout: 0` a run's numbers are those
of the run alone, to rounding.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from adamix_lab.core.files import write_tensors, write_text
from adamix_lab.core.saving import load_trained, trained_tensors
from adamix_lab.experiments.batched import Runs, train_batched
from adamix_lab.experiments.equal_shape import Start, why_apart
from adamix_lab.experiments.judging import Trained, tables_of
from adamix_lab.experiments.preparing import Prepared, prepare
from adamix_lab.experiments.running import (
    SETTINGS,
    STAGES,
    Job,
    Outcome,
    Stopped,
    alone,
    curve_rows,
    is_full_disk,
    perform,
    watch,
    with_steps,
)
from adamix_lab.experiments.settings import DEFAULTS, Run

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
        done = Trained(first.top, curve_rows(trained.history.rows), seconds)
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
