"""The program of thirty lines, which a student grows in `my_adamix.py`: the student's pieces, and progress.

A later lesson uses the student's piece where it passes its check (`checks.program`), else the library's
(`lessons.my_adamix`), and says which.
"""

from __future__ import annotations

import copy
import json
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.merging import merge, relative_difference
from adamix_lab.core.objective import Objective
from adamix_lab.lessons import my_adamix
from adamix_lab.lessons.checks import checks_passed
from adamix_lab.lessons.checks.program import STAGES, Piece, randomise, weights_of
from adamix_lab.lessons.controls import Sentence
from adamix_lab.models.model import MixtureModel, attach
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.training.shipped import BLOCKS

FILE = "my_adamix.py"


@dataclass(frozen=True)
class Found:
    """A piece of the program, whether it is the student's, and why."""

    piece: Piece
    own: bool
    why: str


def mine(stage: str) -> Piece:
    """The student's piece where `my_adamix.py` of the working folder has one that passes its check, else the library's.

    Prints one line that says which, and why. Raises ValueError for an unknown stage.
    """
    found = find(stage)
    whose = "yours" if found.own else "the library's"
    print(f"{stage}: {whose}. {found.why}")
    return found.piece


def check_program(stage: str) -> None:
    """Checks the student's piece and prints its first mistake by its cause, or that it is right."""
    found = find(stage)
    print(f"{stage}: right." if found.own else f"Not yet. {found.why}")


def progress() -> None:
    """Prints where the student stopped: the pieces of `my_adamix.py`, and the checks of the lessons in this folder.

    A piece is checked anew; that another check was passed is noted in `my_progress.json`.
    """
    for stage, (lesson, _) in STAGES.items():
        found = find(stage)
        print(f"{lesson} {stage}: {'passed.' if found.own else f'not yet. {found.why}'}")
    done = set(checks_passed())
    for path in sorted(Path.cwd().glob("[0-9][0-9]_*.ipynb")):
        if asked := asked_in(path):
            left = [name for name in asked if name not in done]
            told = f"next: {left[0]}" if left else "all of them"
            print(f"{path.stem}: {len(asked) - len(left)} of {len(asked)} checks passed, {told}.")


def asked_in(path: Path) -> list[str]:
    """The checks that a notebook asks for, by name, in its order; none of a file that is no notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in dict.fromkeys(re.findall(r"\bcheck_\w+", code)) if name != "check_program"]


def find(stage: str) -> Found:
    """A piece of the program, the student's or the library's. Raises ValueError for an unknown stage."""
    one_of("Stage", stage, STAGES)
    path = Path.cwd() / FILE
    if not path.is_file():
        told = f"There is no {FILE} in this folder yet."
    elif path.resolve().parent != Path.cwd().resolve():
        told = f"{FILE} is a link out of {path.parent}: put the file itself there."
    else:
        try:
            return _pieces(path.read_text(encoding="utf-8"), str(path))[stage]
        except (OSError, UnicodeDecodeError) as error:
            told = f"{FILE} cannot be read: {error}. Save it as text (UTF-8)."
    return _library(stage, told)


def _library(stage: str, why: str) -> Found:
    return Found(getattr(my_adamix, stage), False, why)


@lru_cache(maxsize=4)
def _pieces(text: str, path: str) -> dict[str, Found]:
    # the student's file runs in a module that has the library's pieces already, and keeps what passes
    names = {**vars(my_adamix), "__name__": Path(path).stem, "__file__": path}
    try:
        exec(compile(text, path, "exec"), names)
    except (Exception, SystemExit) as error:
        told = f"{FILE} stops {_where(error, path, '')}: nothing of it is used until that is mended."
        return {stage: _library(stage, told) for stage in STAGES}
    found = {}
    for stage, (_, check) in STAGES.items():
        piece = names.get(stage)
        if piece is getattr(my_adamix, stage) or not callable(piece):
            found[stage] = _library(stage, f"{FILE} has no `{stage}` yet.")
            continue
        try:
            check(piece)
            found[stage] = Found(piece, True, f"{FILE} passes the check.")
        except (Exception, SystemExit) as error:
            inner = error.__cause__ if isinstance(error, AssertionError) else error
            found[stage] = _library(stage, f"{error}" if inner is None else f"`{stage}` stops {_where(inner, path)}.")
            names[stage] = found[stage].piece  # for the pieces that use it
    return found


def _where(error: BaseException, path: str, outside: str = "when it is called as the lessons do, ") -> str:
    if isinstance(error, SyntaxError):
        return f"at line {error.lineno}, which Python cannot read ({error.msg})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    said = next(iter(str(error).splitlines()), "")
    return f"{f'at line {lines[-1]} ' if lines else outside}with {type(error).__name__}{said and f': {said}'}"


# -- the program's numbers are the library's --------------------------------------------------------------------------

SENTENCES = (
    "the room was small , but lovely .", "the plot is thin , but the leads shine .", "he left the city in 1994 .",
    "a warm film about nothing much .",
)  # fmt: skip
BOUND = 1e-6  # of the largest value


def insert(model: Any, layer: Piece, blocks: Sequence[int] = BLOCKS) -> list[nn.Module]:
    """Freezes MiniLM but for its head, and puts new layers behind its top blocks; returns these."""
    for parameter in model.base_model.parameters():
        parameter.requires_grad = False
    layers = []
    for block in [model.base_model.encoder.layer[n] for n in blocks]:
        layers.append(layer(block.output.dense.out_features))
        block.output.dense = nn.Sequential(block.output.dense, layers[-1])
    return layers


def equal_to_library(stage: str) -> Sentence:
    """Says how far a piece is from the library on MiniLM, in float64, with the same weights and routes.

    "Layer": logits of two routes and the merge. "step": the loss and what it changes, against `Objective`.
    "merge_layer": logits against `merge`. Raises ValueError for another stage, and above BOUND.
    """
    one_of("Stage with a comparison", stage, COMPARISONS)
    found, (compare, what) = find(stage), COMPARISONS[stage]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, tokenizer = load_backbone("minilm", pooling="cls")
        batch = dict(tokenizer(list(SENTENCES), return_tensors="pt", padding=True))
        own = copy.deepcopy(model)
        layers = insert(own, find("Layer").piece)
        own.double()
        size = weights_of(layers[0])[0].shape[-1]
        mixture = attach(model, Bottleneck(size), experts=4, share="up", blocks=BLOCKS).double().eval()
        for layer, site in zip(layers, mixture.sites.values(), strict=True):
            A, B = weights_of(randomise(layer))
            site.experts["down"].data, site.experts["up"].data = A.mT.clone(), B.T[None].clone()
        share = max(relative_difference(*pair) for pair in compare(found.piece, own, layers, mixture, batch))
    if not share <= BOUND:
        raise LabError(f"{stage}: {what} differ by {share:.2g} of the largest value: expected at most {BOUND:g}.")
    whose = "Your" if found.own else "The program's"
    return Sentence(f"{whose} {stage} and the library's: {what} differ by {share:.1g} of the largest value.")


Pairs = Iterator[tuple[Any, Tensor]]  # the program's numbers and the library's


def _compare_layers(piece: Piece, own: Any, layers: list[Any], mixture: MixtureModel, batch: Any) -> Pairs:
    for route in ((0, 1), (3, 2), (None, None)):
        selection = "merge" if None in route else torch.tensor([[expert, 0] for expert in route])
        with torch.no_grad():
            logits = my_adamix.send(lambda batch: own(**batch).logits, layers, route, batch)
            yield logits, mixture(selection=selection, **batch).logits


def _compare_steps(piece: Piece, own: Any, layers: list[Any], mixture: MixtureModel, batch: Any) -> Pairs:
    routes: list[list[list[int]]] = []

    def model(batch: Any) -> Tensor:
        routes.append([[layer.expert, 0] for layer in layers])
        return own(**batch).logits  # type: ignore[no-any-return]

    labels, weights = torch.tensor([1, 1, 0, 1]), [layer.A for layer in layers]
    before = [w.detach().clone() for w in weights]
    loss = piece(model, layers, batch, labels, torch.optim.SGD(weights, lr=1.0), 1.0)
    losses = Objective(mixture)({**batch, "labels": labels}, torch.tensor(routes))
    losses.total.backward()
    yield loss, losses.total
    for w, start, site in zip(weights, before, mixture.sites.values(), strict=True):
        gradient, change = site.experts["down"].grad, start - w
        yield change if change.shape == gradient.shape else change.mT, gradient


def _compare_merges(piece: Piece, own: Any, layers: list[Any], mixture: MixtureModel, batch: Any) -> Pairs:
    for place in [each for each in own.modules() if isinstance(each, nn.Sequential)]:  # as `insert` made them
        place[1] = piece(place[1])
    with torch.no_grad():
        yield own(**batch).logits, merge(mixture)(**batch).logits


COMPARISONS = {
    "Layer": (_compare_layers, "logits along two routes and of the merge"),
    "step": (_compare_steps, "the loss, and what a step changes,"),
    "merge_layer": (_compare_merges, "logits of the merged models"),
}
