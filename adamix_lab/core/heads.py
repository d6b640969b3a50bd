"""The task head: what transformers adds on top of the base model, trained with the experts."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, nn

Head = dict[str, nn.Module]

# What a model's head is for, by the end of its class's name.
_KINDS = {
    "ForSequenceClassification": "classification",
    "ForCausalLM": "generation",
    "LMHeadModel": "generation",
    "ForMaskedLM": "masked",
    "ForConditionalGeneration": "sequence-to-sequence",
}


@dataclass
class TaskModules:
    """What a task owns on the frozen base: its experts a site, its head, and its labels' names."""

    experts: dict[str, nn.ParameterDict]
    head: Head
    num_labels: int | None
    extra: dict[str, Any] = field(default_factory=dict)
    label_names: dict[str, dict[Any, Any]] = field(default_factory=dict)


def find_head(model: nn.Module) -> Head:
    """The modules outside the base model that hold weights, by path; empty for language models.

    The reference trains everything outside the encoder (REFERENCE 1.8). A language model's head is tied to, or
    belongs with, the embeddings: it stays frozen.
    """
    prefix = getattr(model, "base_model_prefix", "")
    if not hasattr(model, prefix):
        return {}
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None:
        return {}
    in_base = {id(p) for p in getattr(model, prefix).parameters()}
    return {
        name: module
        for name, module in model.named_children()
        if name != prefix
        and any(True for _ in module.parameters())
        and not any(id(p) in in_base for p in module.parameters())
    }


def kind_of(model: nn.Module) -> str | None:
    """What the head is for: "classification", "generation", "masked", "sequence-to-sequence"; None is unknown."""
    return next((kind for end, kind in _KINDS.items() if type(model).__name__.endswith(end)), None)


def new_head(model: nn.Module, head: Head, num_labels: int | None, generator: Generator) -> Head:
    """A freshly drawn head of the same build, N(0, 0.02) with zero biases.

    Its last linear layer answers `num_labels`, where they are given.
    """
    fresh = {path: copy.deepcopy(module) for path, module in head.items()}
    old = getattr(model, "num_labels", None)
    for path, module in fresh.items():
        for name, part in list(module.named_modules()):
            if not isinstance(part, nn.Linear):
                continue
            if num_labels and part.out_features == old and num_labels != old:
                part = nn.Linear(part.in_features, num_labels, bias=part.bias is not None).to(part.weight)
                if name:
                    module.set_submodule(name, part)
                else:
                    fresh[path] = part
            with torch.no_grad():
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * 0.02)
                if part.bias is not None:
                    part.bias.zero_()
    for module in fresh.values():
        module.requires_grad_(True)
    return fresh
