"""Lesson 08: LoRA experts to export and to combine, small and shipped, so that nobody must train first.

Two kinds: "adamix" shares B and trains with consistency 1 (two routed views); "tied" shares nothing, A_i always goes
with B_i, one view. "tied" stands for what one finds elsewhere: LoRAs that are pairs.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, despine, new_figure
from adamix_lab.core.adaptations import LoRA, along, kaiming, linear, normal, ones, zeros
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import read_tensors, require_file
from adamix_lab.core.merging import REORDERED, merge, merge_products, relative_difference
from adamix_lab.interop.checking import compute_logits, copy_base
from adamix_lab.interop.peft import import_peft_library, write_experts
from adamix_lab.lessons import shared
from adamix_lab.lessons.answers import spread
from adamix_lab.lessons.controls import choices, described
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.models.model import MixtureModel, attach, load_trained
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import encode
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task, data_root
from adamix_lab.training.shipped import BLOCKS

__all__ = ["along", "encode", "kaiming", "linear", "normal", "ones", "zeros"]
__getattr__ = shared  # what all notebooks use

SEEDS = range(10)
KINDS = {"adamix": ("B", 1.0), "tied": (None, 0.0)}  # what is shared, weight of consistency
EXPERTS = 4
ADAPTATION = LoRA(rank=4, alpha=8.0)


def fresh_loras(kind: str, seed: int, tied: bool | None = None) -> tuple[MixtureModel, Any]:
    """(untrained mixture, tokenizer): MiniLM with LoRAs on query and value of its last two blocks.

    tied: whether A_i always goes with B_i; None: where nothing is shared. Raises ValueError for an unknown kind.
    """
    one_of("Kind of LoRA experts", kind, KINDS)
    model, tokenizer = load_backbone("minilm", num_labels=2, pooling="cls")
    share, _ = KINDS[kind]
    pairs = share is None if tied is None else tied
    return attach(model, ADAPTATION, EXPERTS, share, blocks=BLOCKS, seed=seed, tied=pairs), tokenizer


def load_loras(
    kind: str = "adamix", seed: int = 0, folder: Path | None = None, tied: bool | None = None
) -> tuple[MixtureModel, Any]:
    """(mixture in evaluation mode, tokenizer) of shipped LoRA experts; tied as in `fresh_loras`.

    Raises ValueError for an unknown kind, FileNotFoundError where the experts are not there.
    """
    mixture, tokenizer = fresh_loras(kind, seed, tied)
    load_trained(mixture, read_loras(kind, seed, folder))
    return mixture.eval(), tokenizer


def read_loras(kind: str, seed: int, folder: Path | None = None) -> dict[str, Tensor]:
    """The shipped tensors by name, float32, without a model: `experts.PATH.A` `[M, r, in]`, ..., `head.PATH`.

    Raises what `load_loras` does.
    """
    one_of("Kind of LoRA experts", kind, KINDS)
    expected = f"LoRA experts of seeds {', '.join(map(str, SEEDS))}. `python data/lessons/make.py` makes them."
    found = read_tensors(require_file(place_of(kind, seed, folder), expected))
    return {name: tensor.float() for name, tensor in found.items()}


def place_of(kind: str, seed: int, folder: Path | None = None) -> Path:
    """The file of LoRA experts: `data/lessons/loras/adamix-seed0.safetensors`."""
    return (folder or data_root() / "lessons" / "loras") / f"{kind}-seed{seed}.safetensors"


# -- lesson 08: M LoRA experts combined by stock `peft`, beside the library's own merge; the widget of it ------------


WEIGHTS = ("1", "1/2", "1/4", "1/8", "1/16")
COMBINATIONS = ("linear", "cat")
CLOSE = REORDERED[torch.float32]  # of the largest logit: peft and the library sum one function in other orders
COMBINED = "combined"


def in_peft(mixture: MixtureModel) -> Any:
    """Stock peft with each expert as an adapter ("expert0", ...) on the mixture's base; the head stands in the base."""
    base = copy_base(mixture)
    for path, module in mixture.head.items():
        base.get_submodule(path).load_state_dict(module.state_dict())
    with tempfile.TemporaryDirectory() as place:
        first, *others = write_experts(mixture, Path(place))
        model = import_peft_library().PeftModel.from_pretrained(base, str(first), adapter_name=first.name)
        for folder in others:
            model.load_adapter(str(folder), folder.name)
    return model.eval()


def combine(model: Any, weight: float, combination: str) -> float:
    """Makes and selects peft's combination of all experts at one weight each.

    Returns the Frobenius norm of what it adds to all frozen weights together. Raises ValueError for another name.
    """
    one_of("combination", combination, COMBINATIONS)
    experts = [name for name in model.peft_config if name.startswith("expert")]
    if COMBINED in model.peft_config:
        model.set_adapter(experts[0])  # deleting the active one warns
        model.delete_adapter(COMBINED)
    model.add_weighted_adapter(experts, [weight] * len(experts), COMBINED, combination_type=combination)
    model.set_adapter(COMBINED)
    layers = [module for module in model.modules() if COMBINED in getattr(module, "lora_A", {})]
    with torch.no_grad():
        return float(torch.stack([layer.get_delta_weight(COMBINED).norm() for layer in layers]).norm())


@dataclass(frozen=True)
class Ground:
    """What stock peft's combinations of some experts come to, beside the library's two merges.

    Attributes:
        name: of the experts.
        experts: M.
        norms: norm of the update by (combination, weight), relative to the mean of factors.
        target: the same of the mean of products.
        apart: largest differences of logits, relative, to the merge and to `merge_products`, by (combination, weight).
    """

    name: str
    experts: int
    norms: dict[tuple[str, str], float]
    target: float
    apart: dict[tuple[str, str], tuple[float, ...]]


def prepare(mixture: MixtureModel, task: Task, tokenizer: Any, name: str = "", rows: int = 16) -> Ground:
    """Both merges and all of peft's combinations on evaluation rows spread over the set.

    Raises ValueError where the experts are no LoRAs, ImportError without peft.
    """
    texts = [row[task.text[0]] for row in spread(task, rows).evaluation]
    batch = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    merges = [compute_logits(made, batch) for made in (merge(mixture), merge_products(mixture))]
    model, one = in_peft(mixture), mixture.space.experts
    factors, products = combine(model, 1 / one**2, "linear"), combine(model, 1 / one, "cat")
    norms, apart = {}, {}
    for way, weight in itertools.product(COMBINATIONS, WEIGHTS):
        norms[way, weight] = combine(model, float(Fraction(weight)), way) / factors
        logits = compute_logits(model, batch)
        apart[way, weight] = tuple(relative_difference(logits, merged) for merged in merges)
    return Ground(name, one, norms, products / factors, apart)


def draw_combined(ground: Ground, combination: str, weight: str) -> View:
    """How far the logits of peft's combination are from the library's two merges; above, how large its update is.

    weight: of each expert ("1", "1/2", ...).
    """
    norm, found = ground.norms[combination, weight], ground.apart[combination, weight]
    names = ("merge", "merge_products")
    figure, ax = new_figure(8.4, 2.8)
    for n, (value, style) in enumerate(zip(found, ("merged", "exact"), strict=True)):
        ax.plot(max(value, 1e-8), n, STYLES[style][1], color=STYLES[style][0], markersize=12)
    ax.axvspan(1e-8, CLOSE, color="#009E73", alpha=0.15)
    ax.set(xscale="log", xlim=(5e-9, 50), ylim=(1.6, -0.6))
    ax.set_xlabel("relative difference of logits (shaded: below 1e-5)")
    ax.set_yticks([0, 1], [f"{names[0]}\n(mean of factors)", f"{names[1]}\n(mean of products)"])
    ax.set_title(f"{ground.name}, “{combination}” at {weight}: {norm:.3g} times the update of the mean of factors")
    despine(ax)
    same = ", ".join(name for name, value in zip(names, found, strict=True) if value <= CLOSE)
    readout = (
        f"{ground.name}: “{combination}” at weight {weight} for each of {ground.experts} experts gives {norm:.3g} "
        f"times the update of the mean of factors; the mean of products is {ground.target:.3g} times as large. The "
        f"logits differ by {found[0]:.2g} of the largest from those of merge, by {found[1]:.2g} from those of "
        f"merge_products. Equal to {same or 'neither'} within 1e-5."
    )
    return View(readout, Picture(figure, f"How far peft's logits are from those of both merges. {readout}"))


def combining_dial(mixtures: Mapping[str, MixtureModel], tokenizer: Any, task: Task | None = None) -> Explorer:
    """The widget of lesson 08, over LoRA experts by name; task: the embedded one by default."""
    task = task or load_task("aspects")
    grounds = {name: prepare(made, task, tokenizer, name) for name, made in mixtures.items()}
    return Explorer(
        **described("peft", experts=choices(grounds), combination=choices(COMBINATIONS), weight=choices(WEIGHTS)),
        compute=lambda experts, combination, weight: (grounds[experts], combination, weight),
        draw=lambda seen: draw_combined(*seen),
    )


# -- the question, in the plane ---------------------------------------------------------------------------------------


# Four experts of rank 1, from one number to two: each A is a number, each B an arrow.
A = torch.tensor([1.0, 0.6, 0.8, 1.2])
B = torch.tensor([[1.0, 0.2], [0.3, 1.1], [0.9, 0.8], [0.4, 0.9]])
ANSWERS = ("as large", "4 times as large", "16 times as large")


def draw_experts(weight: float | None = None) -> Picture:
    """The updates of four experts as arrows, the merge, and what peft's "linear" makes of them at a weight each."""
    merged = A.mean() * B.mean(0)
    arrows = [(A[n] * B[n], f"expert {n}", "fixed") for n in range(len(A))] + [(merged, "merge", "merged")]
    if weight is not None:
        combined = weight * A.sum() * B.sum(0)  # the weight's root on each factor
        arrows.append((combined, f"peft's “linear” at {Fraction(weight)}", "random"))
    figure, ax = new_figure(6.4, 4.2)
    for arrow, name, style in arrows:
        (x, y), colour, one = arrow.tolist(), STYLES[style][0], style == "fixed"
        place, side = ((6, -4), "left") if y < x else ((0, 6), "center") if one else ((-6, 6), "right")
        ax.quiver(0, 0, x, y, angles="xy", scale_units="xy", scale=1, width=0.004 if one else 0.009, color=colour)
        if weight is None or not one:  # beside a long arrow the experts' names would lie on one another
            ax.annotate(name, (x, y), xytext=place, textcoords="offset points", color=colour, ha=side)
    longest = max(float(arrow.abs().max()) for arrow, _, _ in arrows)
    ax.set(xlim=(0, 1.3 * longest), ylim=(0, 1.15 * longest), aspect="equal", xlabel="output 1", ylabel="output 2")
    told = ", ".join(f"{name} {float(arrow.norm()):.2f}" for arrow, name, _ in arrows)
    return Picture(figure, f"Updates B A as arrows from one input to two outputs; their lengths: {told}.")
