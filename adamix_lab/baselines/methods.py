"""The published methods that AdaMix is compared with: what each puts into a model, and what of it trains.

Prefix and prompt tuning are peft's: what it adds becomes the model's own weights that train along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import (
    ADAPTATIONS,
    IA3,
    Adaptation,
    Base,
    Bottleneck,
    LoRA,
    Weight,
    Weights,
    linear,
    normal,
    zeros,
)
from adamix_lab.core.errors import LabError, extra, unknown
from adamix_lab.core.mixture import constant
from adamix_lab.core.routing import generator_for
from adamix_lab.core.sites import (
    ARCHITECTURES,
    Head,
    default_targets,
    find_head,
    find_sites,
    head_pooling,
    known_patterns,
    model_type,
    pattern_to_regex,
)
from adamix_lab.models.model import MixtureConfig, MixtureModel, attach
from adamix_lab.models.saving import OWN

Blocks = Iterable[int] | None  # block numbers to adapt, negative ones from the top; None adapts all
Prepared = tuple[nn.Module, list[str], Head]  # the model, the names of what peft added, the head


def sites_of(model: nn.Module, what: str, *parts: str, blocks: Blocks = None) -> list[str]:
    """The module paths of parts of every block. Raises ValueError for an architecture where they are not known."""
    kind, table = model_type(model), known_patterns(*parts)
    if kind not in table:
        raise unknown(f"Architecture for {what},", kind, table)
    return find_sites(model, table[kind], blocks)


# -- weights of the model itself, and what peft adds to them: no mixture at any site ---------------------------


@dataclass(frozen=True)
class Own(Adaptation):
    """No module at any site: a baseline that trains weights of the model itself, and the settings it was made with."""

    baseline: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    kind: ClassVar[str] = OWN
    sides: ClassVar[tuple[str, ...]] = ()


def own_weights(prepare: Callable[..., Prepared]) -> Callable[..., MixtureModel]:
    """Decorates what prepares a baseline that trains the model's own weights, or what peft adds to them, without sites.

    prepare: (model, head, seed, settings of its own) to the model, the names of what trains, and the head; it has the
        baseline's name.
    """

    def make(model: nn.Module, seed: int = 0, **settings: Any) -> MixtureModel:
        wrapped, names, head = prepare(model, find_head(model), seed, **settings)
        for path, parameter in wrapped.named_parameters():
            if path in names and parameter.element_size() < 4:
                given = f"{path} is {parameter.dtype} and would train"
                raise LabError(f"{given}: expected float32. Load the base in it; Recipe(precision='bf16') is as fast.")
        config = MixtureConfig(Own(prepare.__name__, settings), 1, (), (), seed, own=tuple(names))
        return MixtureModel(wrapped, config, head)

    make.__doc__ = prepare.__doc__
    make.__wrapped__ = prepare  # type: ignore[attr-defined]
    return make


@own_weights
def full(model: nn.Module, head: Head, seed: int) -> Prepared:
    """Full fine-tuning: every weight trains."""
    return model, all_weights(model, head), head


@own_weights
def head(model: nn.Module, head: Head, seed: int) -> Prepared:
    """The head alone, on the frozen model. Raises ValueError where there is none."""
    if not head:
        raise LabError(
            "head trains the task head, and this model has none: expected a classifier "
            "(AutoModelForSequenceClassification). Use another baseline for generation."
        )
    return model, [], head


@own_weights
def bitfit(model: nn.Module, head: Head, seed: int) -> Prepared:
    """BitFit: the biases the model has, norms' included, and the head (Zaken et al., 2021); ValueError without."""
    names = [name for name in all_weights(model, head) if name.endswith("bias")]
    if not names:
        raise LabError(
            f"bitfit trains biases, and a model of type {model_type(model)!r} has none: expected one with biases "
            '(BERT, RoBERTa, GPT-2). Use "lora", or the adaptation Bias, which adds them.'
        )
    return model, names, head


def all_weights(model: nn.Module, head: Head) -> list[str]:
    """The names of all parameters outside the head."""
    in_head = {id(parameter) for module in head.values() for parameter in module.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in in_head]


@own_weights
def prefix(model: nn.Module, head: Head, seed: int, tokens: int = 20) -> Prepared:
    """Prefix tuning: learned keys and values before every layer's own, without the two-layer network above them.

    Raises ValueError for a head on the mean of all tokens, which peft would leave out.
    """
    if head_pooling(model) == "mean":
        raise LabError('prefix: peft goes past a head on the mean of all tokens: expected pooling="cls". Use "prompt".')
    return _prompted(model, head, seed, "PrefixTuningConfig", tokens)


@own_weights
def prompt(model: nn.Module, head: Head, seed: int, tokens: int = 20) -> Prepared:
    """Prompt tuning: learned embeddings before the sentence's. BERT's pooler then reads the first of them, as in peft.

    Raises ValueError for language models, whose logits would be longer than their labels, and for decoders'
    classifiers, which look for padding among tokens: they would answer at the end of it.
    """
    if not head:
        raise LabError(
            "prompt lengthens the sequence, so a language model's logits would not fit its labels: expected a "
            'classifier. Use "prefix" for generation.'
        )
    family = ARCHITECTURES.get(model_type(model))
    if head_pooling(model) == "cls" and family and family.prompts and not family.cut:
        raise LabError('prompt: a head at the last token sees no padding in embeddings: expected BERT. Use "prefix".')
    return _prompted(model, head, seed, "PromptTuningConfig", tokens)


def _prompted(model: nn.Module, head: Head, seed: int, config: str, tokens: int) -> Prepared:
    with extra("peft"):
        import peft
    known = [name for name, architecture in ARCHITECTURES.items() if architecture.prompts]
    if model_type(model) not in known:
        raise LabError(
            f"Virtual tokens are not known to work in a model of type {model_type(model)!r}: expected one of "
            f'{", ".join(known)}. Use "lora" or "pfeiffer".'
        )
    kind = "SEQ_CLS" if head else "CAUSAL_LM"
    before = {id(parameter) for parameter in model.parameters()}
    with torch.random.fork_rng(devices=[]):  # what peft draws is a function of the seed
        torch.default_generator.manual_seed(generator_for(seed).initial_seed())
        settings = getattr(peft, config)(task_type=kind, num_virtual_tokens=tokens)
        wrapped = peft.get_peft_model(model, settings)
    new_head = {}
    for path in (f"base_model.{path}" for path in head):
        # peft keeps the head's first values beside the copy that trains
        copied = hasattr(wrapped.get_submodule(path), "modules_to_save")
        path = f"{path}.modules_to_save.default" if copied else path
        new_head[path] = wrapped.get_submodule(path)
    added = [name for name in all_weights(wrapped, new_head) if id(wrapped.get_parameter(name)) not in before]
    return wrapped, [name for name in added if "original_module" not in name], new_head


# -- mixtures of one expert --------------------------------------------------------------------------------------


def lora(
    model: nn.Module, seed: int = 0, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, blocks: Blocks = None
) -> MixtureModel:
    """LoRA on query and value."""
    return attach(model, LoRA(rank, alpha, dropout), experts=1, blocks=blocks, seed=seed)


def ia3(model: nn.Module, seed: int = 0) -> MixtureModel:
    """IA3: learned vectors on keys, values and the input of the feed-forward part's second map."""
    sites = sites_of(model, "ia3", "key", "value") + sites_of(model, "ia3", "ffn")
    return attach(model, IA3Block(), experts=1, targets=sites, seed=seed)


def houlsby(model: nn.Module, seed: int = 0, size: int = 16, blocks: Blocks = None) -> MixtureModel:
    """Two adapters a layer, after attention and feed-forward part, from the identity (Houlsby et al., 2019)."""
    sites = sites_of(model, "houlsby", "attention_output") + sites_of(model, "houlsby", "ffn")
    return attach(model, Bottleneck(size, init="identity"), experts=1, targets=sites, blocks=blocks, seed=seed)


def pfeiffer(model: nn.Module, seed: int = 0, size: int = 16, blocks: Blocks = None) -> MixtureModel:
    """One adapter a layer with ReLU, from the identity (Pfeiffer et al., 2021), placed as AdaMix places its own."""
    return attach(model, Bottleneck(size, "relu", init="identity"), experts=1, blocks=blocks, seed=seed)


def unipelt(
    model: nn.Module, seed: int = 0, size: int = 16, rank: int = 8, alpha: float = 16.0, blocks: Blocks = None
) -> MixtureModel:
    """UniPELT-style gated adapters and gated LoRA, without UniPELT's prefix."""
    sites = sites_of(model, "unipelt", "query", "value") + sites_of(model, "unipelt", "ffn")
    _, placed = default_targets(model, LoRA(rank))
    slices = placed.slices if isinstance(placed, LoRA) else None
    return attach(model, UniPELT(size, rank, alpha, slices), experts=1, targets=sites, blocks=blocks, seed=seed)


@dataclass(frozen=True)
class IA3Block(IA3):
    """IA3 on the input of the feed-forward part's second map, and on the output of every other site."""

    kind: ClassVar[str] = "ia3-block"

    def at(self, path: str) -> Adaptation:
        """The form for a site."""
        return IA3(feedforward=ends_feedforward(path))


def ends_feedforward(path: str) -> bool:
    """Whether a site is the second map of a feed-forward part, in an architecture that is known."""
    return any(pattern_to_regex(*pattern).fullmatch(path) for pattern in known_patterns("ffn").values())


# -- UniPELT-style: gated adapters and gated LoRA in one adaptation (Mao et al., 2022), without its prefix -----


@dataclass(frozen=True)
class GatedBottleneck(Bottleneck):
    """`y + g * up(f(down(y)))`, the gate `g = sigmoid(w y + b)` a number a token."""

    kind: ClassVar[str] = "gated-bottleneck"

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """The bottleneck's, and the gate over the adapter's input, the frozen output."""
        return super().weights(in_features, out_features) | _gate(out_features)

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """The frozen output and the gated update."""
        y = base(x)
        adapted = super().apply(constant(y), x, w, training)
        return y + gate(y, w) * (adapted - y)


@dataclass(frozen=True)
class GatedLoRA(LoRA):
    """`Wx + g * (alpha / r) B A x`, the gate `g = sigmoid(w x + b)` a number a token.

    A is the side "down" and B the side "up", so that these sites have the adapters' sides.
    """

    kind: ClassVar[str] = "gated-lora"
    sides: ClassVar[tuple[str, ...]] = ("down", "up")

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """LoRA's, and the gate over the layer's input."""
        side = {"A": "down", "B": "up"}
        ours = super().weights(in_features, out_features)
        moved = {name: replace(weight, side=side[weight.side]) for name, weight in ours.items()}
        return moved | _gate(in_features)

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """The frozen output and the gated update."""
        y = base(x)
        adapted = super().apply(constant(y), x, w, training)
        return y + gate(x, w) * (adapted - y)

    def fold(self, w: Weights, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Refused: the gate makes the update depend on the input."""
        return Adaptation.fold(self, w, weight, bias)


@dataclass(frozen=True)
class UniPELT(Adaptation):
    """Gated adapters after the feed-forward part and gated LoRA at every other site (query and value).

    Departs from the paper: no prefix, and a gate a token where the authors average it over the sentence, which
    would read padding. Being an adaptation, it can be mixed, shared and merged.
    """

    size: int = 48
    rank: int = 8
    alpha: float = 16.0
    slices: tuple[tuple[int, int], ...] | None = None

    kind: ClassVar[str] = "unipelt"
    sides: ClassVar[tuple[str, ...]] = ("down", "up")

    def at(self, path: str) -> Adaptation:
        """The gated adapter where the feed-forward part ends, gated LoRA elsewhere."""
        if ends_feedforward(path):
            return GatedBottleneck(self.size, init="identity")
        return GatedLoRA(self.rank, self.alpha, slices=self.slices)


ADAPTATIONS |= {each.kind: each for each in (IA3Block, UniPELT)}  # as adaptations of one's own: `load` knows them


def gate(x: Tensor, w: Weights) -> Tensor:
    """`sigmoid(w x + b)`, `[..., 1]`; it starts near 1/2."""
    return torch.sigmoid(linear(x, w["gate"], w["gate_bias"]))


def _gate(features: int) -> dict[str, Weight]:
    return {
        "gate": Weight((1, features), "down", normal),
        "gate_bias": Weight((1,), "down", zeros, decay=False),
    }
