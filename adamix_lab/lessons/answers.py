"""All that a small mixture can answer: each of its routes and the merge, on the same rows.

The shipped twins have 16 routes, so nothing needs to be drawn: a mean over routes is a sum over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.points import Tensors
from adamix_lab.analysis.posterior import FixedBatches, every_route, fix_batches, merged_sample
from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.files import read_tensors, require_file, write_tensors
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.tasks.tasks import Task, data_root
from adamix_lab.training.shipped import SEEDS, SENTENCE_SEEDS, learners, load_twin


@dataclass(frozen=True)
class Answers:
    """Answers to the evaluation rows.

    Attributes:
        routes: log-probabilities `[rows, routes, C]`.
        merged: log-probabilities `[rows, C]` of the averaged weights.
        labels: `[rows]`.
        index: the routes themselves, `[routes, sites, sides]`.
    """

    routes: Tensor
    merged: Tensor
    labels: Tensor
    index: Tensor

    @property
    def right(self) -> Tensor:
        """Whether each route answers each row rightly, `[rows, routes]`, as 0 and 1."""
        return (self.routes.argmax(-1) == self.labels[:, None]).float()

    @property
    def loss(self) -> Tensor:
        """Negative log-likelihood in nats, `[rows, routes]`."""
        return -self.routes.gather(-1, self.labels[:, None, None].expand(-1, self.routes.shape[1], 1)).squeeze(-1)

    @property
    def merged_right(self) -> Tensor:
        """Whether the merge answers each row rightly, `[rows]`, as 0 and 1."""
        return (self.merged.argmax(-1) == self.labels).float()

    @property
    def merged_loss(self) -> Tensor:
        """Negative log-likelihood of the merge in nats, `[rows]`."""
        return -self.merged.gather(-1, self.labels[:, None]).squeeze(-1)

    @property
    def experts(self) -> Tensor:
        """The expert at each site, `[routes, sites]`: of a shared side there is one only, tied sides have the same."""
        return self.index.amax(-1)

    @property
    def fixed(self) -> Tensor:
        """The numbers of the routes that take one expert everywhere, `[M]`: expert 0, 1, ..."""
        number = int(self.experts.max()) + 1
        return torch.stack([(self.experts == expert).all(1).nonzero()[0, 0] for expert in range(number)])


def answers_of(mixture: MixtureModel, task: Task, tokenizer: object, rows: int | None = None) -> Answers:
    """Every route and the merge on the first evaluation rows (None: all). Raises ValueError above 4,096 routes."""
    return on_batches(fix_batches(mixture, task, tokenizer, task.evaluation[:rows], batch_size=64))


def on_batches(fixed: FixedBatches) -> Answers:
    """Every route and the merge on batches that `fix_batches` made. Raises ValueError above 4,096 routes."""
    routes, merged = every_route(fixed), merged_sample(fixed)
    assert routes.routes is not None
    return Answers(routes.log_probabilities, merged.log_probabilities[:, 0], fixed.labels, routes.routes)


def answers_to(mixture: MixtureModel, tokenizer: Any, task: Task, sentence: str) -> Answers:
    """Every route and the merge on one sentence of the kind that a task has; its label is not known."""
    return on_batches(fix_batches(mixture, task, tokenizer, [{task.text[0]: sentence}], batch_size=1))


def spread(task: Task, rows: int) -> Task:
    """The task with so many of its evaluation rows, spread evenly: they may stand in the order of their classes."""
    return replace(task, evaluation=task.evaluation[:: max(1, len(task.evaluation) // rows)][:rows])


def changed_twin(
    change: Callable[[Tensors], Tensors], name: str, seed: int = 0, data: str = "aspects"
) -> tuple[MixtureModel, Any]:
    """(mixture, tokenizer) of shipped experts after a change of what they trained, of which `change` gets copies."""
    mixture, tokenizer = load_twin(name, seed, data=data)
    load_trained(mixture, change({key: tensor.clone() for key, tensor in trained_tensors(mixture).items()}))
    return mixture, tokenizer


def write_answers(path: Path, answers: Answers, notes: Mapping[str, str]) -> None:
    """Answers over two classes as a small file: float16 log-odds. Raises ValueError for another number of classes."""
    if answers.routes.shape[-1] != 2:
        raise LabError(f"{answers.routes.shape[-1]} classes: expected two, of which the log-odds say all.")
    odds = {
        name: (log_p[..., 1] - log_p[..., 0]).half()
        for name, log_p in (("routes", answers.routes), ("merged", answers.merged))
    }
    numbers = {"labels": answers.labels.to(torch.uint8), "index": answers.index.to(torch.uint8)}
    write_tensors(path, {**odds, **numbers}, notes)


def read_answers(path: Path) -> Answers:
    """What `write_answers` wrote."""
    packed = read_tensors(path)
    routes, merged = (
        torch.stack([torch.zeros_like(packed[name], dtype=torch.float32), packed[name].float()], -1).log_softmax(-1)
        for name in ("routes", "merged")
    )
    return Answers(routes, merged, packed["labels"].long(), packed["index"].long())


# -- what the lessons look at, kept as what every route answers: the four twins, and other weights of consistency
# The twins are the shipped experts. The others are AdaMix trained here, with the same recipe and seeds, under other
# weights of the consistency loss; "no-consistency" and "adamix" are weights 0 and 1 of that grid.


GRID = {0: "no-consistency", 1: "adamix", 10: "weight-10", 100: "weight-100"}  # weight of consistency: the run's name
RUNS = ("adamix", "no-consistency", "unshared-tied", "apart", "down", "weight-10", "weight-100")


def place_of(name: str, seed: int, folder: Path | None = None, data: str = "aspects") -> Path:
    """The file of a run: `data/lessons/answers/adamix-seed0.safetensors`, of other rows in a folder of their name.

    data: what was learned, as in `load_twin`. Raises ValueError for an unknown run or data.
    """
    one_of("Run", name, RUNS if data == "aspects" else learners(data))
    root = folder or data_root() / "lessons" / "answers"
    return (root if data == "aspects" else root / data) / f"{name}-seed{seed}.safetensors"


@lru_cache(maxsize=256)
def load_answers(name: str, seed: int = 0, folder: Path | None = None, data: str = "aspects") -> Answers:
    """The answers of a run to all evaluation rows, of "noisy" and "clean" to the thousand `fresh` ones.

    Raises ValueError for an unknown run or data, FileNotFoundError where its file is not there.
    """
    seeds, what = (SEEDS, "answers") if data == "aspects" else (SENTENCE_SEEDS, data)
    expected = f"answers of seeds {', '.join(map(str, seeds))}. `python data/experts/make.py {what}` makes them."
    return read_answers(require_file(place_of(name, seed, folder, data), expected))
