"""The baselines that `peft` has: LoRA, IA3, prefix tuning and prompt tuning.

peft puts its layers into the model; what it adds becomes the model's own weights that train along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from adamix_lab.core.errors import LabError, unknown
from adamix_lab.core.routing import generator_for
from adamix_lab.core.sites import ARCHITECTURES, Head, find_sites, known_patterns, model_type

Blocks = Iterable[int] | None  # block numbers to adapt, negative ones from the top; None adapts all
Prepared = tuple[nn.Module, list[str], Head]  # the model, the names of what peft added, the head


def sites_of(model: nn.Module, what: str, *parts: str, blocks: Blocks = None) -> list[str]:
    """The module paths of parts of every block. Raises ValueError for an architecture where they are not known."""
    kind, table = model_type(model), known_patterns(*parts)
    if kind not in table:
        raise unknown(f"Architecture for {what},", kind, table)
    return find_sites(model, table[kind], blocks)


def peft() -> Any:
    """The library. Raises ImportError where it is not installed: it says how to get it."""
    try:
        import peft as library
    except ImportError as error:
        raise ImportError(
            "peft is not installed: expected it for lora, ia3, prefix and prompt. Run pip install 'adamix-lab[peft]'; "
            "attach(model, LoRA(8), experts=1) and attach(model, IA3(), experts=1) need no peft."
        ) from error
    return library


def lora(
    model: nn.Module,
    head: Head,
    seed: int,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    blocks: Blocks = None,
) -> Prepared:
    """LoRA on query and value (of GPT-2, whose projection is fused, on keys as well: peft knows no slices)."""
    config = peft().LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=sites_of(model, "lora", "query", "value", blocks=blocks),
        fan_in_fan_out=model_type(model) == "gpt2",
    )
    return _injected(model, head, seed, config)


def ia3(model: nn.Module, head: Head, seed: int) -> Prepared:
    """IA3: learned vectors on keys, values and the input of the feed-forward part's second map."""
    feedforward = sites_of(model, "ia3", "ffn")
    config = peft().IA3Config(
        target_modules=sites_of(model, "ia3", "key", "value") + feedforward,
        feedforward_modules=feedforward,
        fan_in_fan_out=model_type(model) == "gpt2",
    )
    return _injected(model, head, seed, config)


def prefix(model: nn.Module, head: Head, seed: int, tokens: int = 20) -> Prepared:
    """Prefix tuning: learned keys and values before every layer's own, without the two-layer network above them."""
    return _prompted(model, head, seed, peft().PrefixTuningConfig, tokens)


def prompt(model: nn.Module, head: Head, seed: int, tokens: int = 20) -> Prepared:
    """Prompt tuning: learned embeddings before the sentence's. BERT's pooler then reads the first of them, as in peft.

    Raises ValueError for language models, whose logits would be longer than their labels.
    """
    if not head:
        raise LabError(
            "prompt lengthens the sequence, so a language model's logits would not fit its labels: expected a "
            'classifier. Use "prefix" for generation.'
        )
    return _prompted(model, head, seed, peft().PromptTuningConfig, tokens)


def _injected(model: nn.Module, head: Head, seed: int, config: Any) -> Prepared:
    before = {id(parameter) for parameter in model.parameters()}
    with _seeded(seed):
        peft().inject_adapter_in_model(config, model)
    added = {name: p for name, p in model.named_parameters() if id(p) not in before}
    for parameter in added.values():  # what trains is float32 in any base; peft's layers cast what enters
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return model, list(added), head


def _prompted(model: nn.Module, head: Head, seed: int, config: Any, tokens: int) -> Prepared:
    known = [name for name, architecture in ARCHITECTURES.items() if architecture.prompts]
    if model_type(model) not in known:
        raise LabError(
            f"Virtual tokens are not known to work in a model of type {model_type(model)!r}: expected one of "
            f'{", ".join(known)}. Use "lora" or "pfeiffer".'
        )
    kind = "SEQ_CLS" if head else "CAUSAL_LM"
    before = {id(parameter) for parameter in model.parameters()}
    with _seeded(seed):
        wrapped = peft().get_peft_model(model, config(task_type=kind, num_virtual_tokens=tokens))
    trained = {f"base_model.{path}": wrapped.get_submodule(f"base_model.{path}") for path in head}
    # peft keeps the head's first values beside the copy that trains
    new_head = {
        f"{path}.modules_to_save.default" if hasattr(module, "modules_to_save") else path: module
        for path, module in trained.items()
    }
    new_head = {path: wrapped.get_submodule(path) for path in new_head}
    in_head = {id(p) for module in new_head.values() for p in module.parameters()}
    added = [name for name, p in wrapped.named_parameters() if id(p) not in before | in_head]
    return wrapped, [name for name in added if "original_module" not in name], new_head


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside the block, what peft draws is a function of the seed; the global generator is left as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(generator_for(seed).initial_seed())
    try:
        yield
    finally:
        torch.set_rng_state(state)
