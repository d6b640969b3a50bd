"""Lesson 08: LoRA experts to export and to combine, small and shipped, so that nobody must train first.

Two kinds: "adamix" shares B and trains with consistency 1 (two routed views); "tied" shares nothing, A_i always goes
with B_i, one view. "tied" stands for what one finds elsewhere: LoRAs that are pairs.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, fix_margins, new_figure, panels
from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.adaptations import along as along
from adamix_lab.core.adaptations import kaiming as kaiming
from adamix_lab.core.adaptations import linear as linear
from adamix_lab.core.adaptations import normal as normal
from adamix_lab.core.adaptations import ones as ones
from adamix_lab.core.adaptations import zeros as zeros
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import read_tensors, require_file
from adamix_lab.core.merging import REORDERED, merge, merge_products, relative_difference
from adamix_lab.interop.checking import compute_logits, copy_base
from adamix_lab.interop.peft import import_peft_library, write_experts
from adamix_lab.lessons.checks.beyond import check_gated_lora as check_gated_lora
from adamix_lab.lessons.checks.beyond import check_peft_weight as check_peft_weight
from adamix_lab.lessons.checks.telling import attempt as attempt
from adamix_lab.lessons.effects import forest as forest
from adamix_lab.lessons.widgets import Explorer, Steps, View
from adamix_lab.lessons.widgets import Prediction as Prediction
from adamix_lab.lessons.widgets import brier as brier
from adamix_lab.models.model import MixtureModel, attach, load_trained
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import encode as encode
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task, data_root
from adamix_lab.training.shipped import BLOCKS

SEEDS = range(10)
KINDS = {"adamix": ("B", 1.0), "tied": (None, 0.0)}  # what is shared, weight of consistency
EXPERTS = 4
ADAPTATION = LoRA(rank=4, alpha=8.0)


def fresh_loras(kind: str, seed: int) -> tuple[MixtureModel, Any]:
    """(untrained mixture, tokenizer): MiniLM with LoRAs on query and value of its last two blocks.

    Raises ValueError for an unknown kind.
    """
    one_of("Kind of LoRA experts", kind, KINDS)
    model, tokenizer = load_backbone("minilm", num_labels=2, pooling="cls")
    share, _ = KINDS[kind]
    mixture = attach(model, ADAPTATION, EXPERTS, share, blocks=BLOCKS, seed=seed, tied=share is None)
    return mixture, tokenizer


def load_loras(kind: str = "adamix", seed: int = 0, folder: Path | None = None) -> tuple[MixtureModel, Any]:
    """(mixture in evaluation mode, tokenizer) of shipped LoRA experts.

    Raises ValueError for an unknown kind, FileNotFoundError where the experts are not there.
    """
    tensors = read_loras(kind, seed, folder)
    mixture, tokenizer = fresh_loras(kind, seed)
    load_trained(mixture, tensors)
    return mixture.eval(), tokenizer


def read_loras(kind: str, seed: int, folder: Path | None = None) -> dict[str, Tensor]:
    """The shipped tensors by name, float32, without a model: `experts.PATH.A` `[M, r, in]`, ..., `head.PATH`.

    Raises what `load_loras` does.
    """
    one_of("Kind of LoRA experts", kind, KINDS)
    expected = f"LoRA experts of seeds {', '.join(map(str, SEEDS))}. `python data/lessons/make.py loras` makes them."
    path = require_file(place_of(kind, seed, folder), expected)
    return {name: tensor.float() for name, tensor in read_tensors(path).items()}


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


def combine(model: Any, weight: float, combination: str) -> None:
    """Makes and selects peft's combination of all experts at one weight each. Raises ValueError for another name."""
    one_of("combination", combination, COMBINATIONS)
    experts = [name for name in model.peft_config if name.startswith("expert")]
    if COMBINED in model.peft_config:
        model.set_adapter(experts[0])  # deleting the active one warns
        model.delete_adapter(COMBINED)
    model.add_weighted_adapter(experts, [weight] * len(experts), COMBINED, combination_type=combination)
    model.set_adapter(COMBINED)


def update_norm(model: Any, weight: float, combination: str) -> float:
    """Frobenius norm of what a combination adds to all frozen weights together."""
    combine(model, weight, combination)
    layers = [module for module in model.modules() if COMBINED in getattr(module, "lora_A", {})]
    with torch.no_grad():
        return float(torch.stack([layer.get_delta_weight(COMBINED).norm() for layer in layers]).norm())


@dataclass(frozen=True)
class Ground:
    """Experts in both libraries, and what does not change while weights do.

    Attributes:
        name: of the experts.
        experts: M.
        model: stock peft, an adapter an expert.
        batch: rows to compare logits on.
        factors, products: logits `[rows, C]` of the library's two merges.
        norms: norm of the update by (combination, weight), relative to the mean of factors.
        target: the same of the mean of products.
        seen: relative differences of logits by (combination, weight), filled as they are asked for.
    """

    name: str
    experts: int
    model: Any
    batch: dict[str, Tensor]
    factors: Tensor
    products: Tensor
    norms: dict[tuple[str, str], float]
    target: float
    seen: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)


def prepare(mixture: MixtureModel, task: Task, tokenizer: Any, name: str = "", rows: int = 16) -> Ground:
    """Both merges on evaluation rows spread over the set, and the norms of peft's combinations.

    Raises ValueError where the experts are no LoRAs, ImportError without peft.
    """
    spread = task.evaluation[:: max(1, len(task.evaluation) // rows)][:rows]
    batch = dict(tokenizer([row[task.text[0]] for row in spread], padding=True, return_tensors="pt"))
    model, one = in_peft(mixture), mixture.space.experts
    factors, products = update_norm(model, 1 / one**2, "linear"), update_norm(model, 1 / one, "cat")
    ways = itertools.product(COMBINATIONS, WEIGHTS)
    norms = {(way, weight): update_norm(model, float(Fraction(weight)), way) / factors for way, weight in ways}
    logits = compute_logits(merge(mixture), batch), compute_logits(merge_products(mixture), batch)
    return Ground(name, one, model, batch, *logits, norms, products / factors)


@dataclass(frozen=True)
class Combined:
    """A state: its norm relative to the mean of factors; largest differences of logits, relative, to both merges."""

    ground: Ground
    weight: str
    combination: str
    norm: float
    from_factors: float
    from_products: float


def combined(ground: Ground, combination: str, weight: str) -> Combined:
    """Stock peft's combination at one weight for each expert ("1", "1/2", ...)."""
    key = combination, weight
    if key not in ground.seen:
        combine(ground.model, float(Fraction(weight)), combination)
        logits = compute_logits(ground.model, ground.batch)
        distances = [relative_difference(logits, merged) for merged in (ground.factors, ground.products)]
        ground.seen[key] = distances[0], distances[1]
    return Combined(ground, weight, combination, ground.norms[key], *ground.seen[key])


def draw_combined(state: Combined) -> View:
    """The norm of peft's update against the weight, and how far its logits are from the library's two merges."""
    ground = state.ground
    figure, (left, right) = panels(2, 9.2, 3.8)
    places = range(len(WEIGHTS))
    styles = {"linear": ("random", "-"), "cat": ("fixed", "--")}
    for combination, (style, line) in styles.items():
        colour, marker = STYLES[style]
        values = [ground.norms[combination, weight] for weight in WEIGHTS]
        left.plot(places, values, color=colour, marker=marker, linestyle=line, label=f"peft, “{combination}”")
    left.axhline(1, color=STYLES["merged"][0], linewidth=1, label="mean of factors")
    left.axhline(ground.target, color=STYLES["exact"][0], linestyle=":", linewidth=1.5, label="mean of products")
    left.plot(WEIGHTS.index(state.weight), state.norm, marker="o", markersize=15, markerfacecolor="none",
              markeredgecolor="black", linestyle="none")  # fmt: skip
    left.set_title(ground.name, fontsize=10)
    left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter("{x:g}")
    left.set_xticks(list(places), WEIGHTS)
    left.set(xlabel="weight of each expert", ylabel="norm of the update\n(mean of factors = 1)")
    left.grid(alpha=0.3)
    names = ("merge\n(mean of factors)", "merge_products\n(mean of products)")
    found = state.from_factors, state.from_products
    for n, (value, style) in enumerate(zip(found, ("merged", "exact"), strict=True)):
        colour, marker = STYLES[style]
        right.plot(max(value, 1e-8), n, color=colour, marker=marker, markersize=10, linestyle="none")
    right.axvspan(1e-8, CLOSE, color="#009E73", alpha=0.15)
    right.set(xscale="log", xlim=(5e-9, 50), ylim=(-0.6, 1.6))
    right.xaxis.set_major_formatter("{x:g}")  # powers set as formulas would cost a sixth of the drawing
    right.set_yticks([0, 1], names)
    right.set_xlabel("relative difference of logits (shaded: below 1e-5)")
    right.grid(axis="x", alpha=0.3)
    same = ", ".join(name for name, value in zip(("merge", "merge_products"), found, strict=True) if value <= CLOSE)
    readout = (
        f"{ground.name}: “{state.combination}” at weight {state.weight} for each of {ground.experts} experts gives "
        f"{state.norm:.3g} times the update of the mean of factors. Largest difference of logits: {found[0]:.2g} of "
        f"the largest to merge, {found[1]:.2g} to merge_products. "
        + (f"Equal to {same} within 1e-5." if same else "Equal to neither within 1e-5.")
    )
    told = "; ".join(
        f"{combination} " + ", ".join(f"{weight}: {ground.norms[combination, weight]:.3g}" for weight in WEIGHTS)
        for combination in COMBINATIONS
    )
    alt = (
        f"Norm of the update that peft combines, by weight, where the mean of factors is 1 and the mean of products "
        f"{ground.target:.3g}: {told}. Chosen: {state.combination} at {state.weight}, {state.norm:.3g} times; logits "
        f"differ by {found[0]:.2g} of the largest from merge and by {found[1]:.2g} from merge_products."
    )
    left.legend(frameon=False, fontsize=8, loc="upper right")
    fix_margins(figure, left=0.09, right=0.985, bottom=0.15, top=0.92, wspace=0.48)
    return View(readout, Picture(figure, alt))


def combining_dial(mixtures: Mapping[str, MixtureModel], tokenizer: Any, task: Task | None = None) -> Explorer:
    """The widget of lesson 08, over LoRA experts by name; task: the embedded one by default."""
    task = task or load_task("aspects")
    grounds = {name: prepare(made, task, tokenizer, name) for name, made in mixtures.items()}
    first = next(iter(grounds))
    goal = (
        "Find the combination and weight at which stock peft answers as our merge does, within 1e-5 of the largest "
        "logit. Which merge is it when the experts are tied pairs?"
    )
    return Explorer(
        "Combining dial: stock peft beside our merge",
        goal,
        [
            Steps("experts", "experts", tuple(grounds), first),
            Steps("combination", "combination_type", COMBINATIONS, COMBINATIONS[0]),
            Steps("weight", "weight of each expert", WEIGHTS, WEIGHTS[0]),
        ],
        lambda experts, combination, weight: combined(grounds[experts], combination, weight),
        draw_combined,
        shown={"weight": str(Fraction(1, grounds[first].experts ** 2))},
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
        root = weight**0.5
        combined = (root * A).sum() * (root * B).sum(0)
        arrows.append((combined, f"peft's “linear” at {Fraction(weight)}", "random"))
    figure, ax = new_figure(6.4, 4.2)
    for arrow, name, style in arrows:
        (x, y), colour, one = arrow.tolist(), STYLES[style][0], style == "fixed"
        ax.quiver(0, 0, x, y, angles="xy", scale_units="xy", scale=1, width=0.004 if one else 0.009, color=colour)
        if weight is None or not one:  # beside a long arrow the experts' names would lie on one another
            ax.annotate(name, (x, y), xytext=(-6, 6), textcoords="offset points", color=colour, ha="right")
    longest = max(float(arrow.abs().max()) for arrow, _, _ in arrows)
    ax.set(xlim=(0, 1.05 * longest), ylim=(0, 1.15 * longest), aspect="equal", xlabel="output 1", ylabel="output 2")
    told = ", ".join(f"{name} {float(arrow.norm()):.2f}" for arrow, name, _ in arrows)
    return Picture(figure, f"Updates B A as arrows from one input to two outputs; their lengths: {told}.")
