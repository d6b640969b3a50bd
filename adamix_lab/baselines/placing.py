"""Which places and which weights of a model the baselines take."""

from __future__ import annotations

from torch import nn

from adamix_lab.core.errors import unknown
from adamix_lab.core.heads import Head
from adamix_lab.core.targets import FFN, find_sites

_BERTS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
_LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "olmo2", "smollm3")

# The attention's output projection: Houlsby's first adapter follows it.
ATTENTION_OUTPUT: dict[str, list[str]] = {
    **{kind: ["encoder.layer.*.attention.output.dense"] for kind in (*_BERTS, "deberta", "deberta-v2")},
    "distilbert": ["transformer.layer.*.attention.out_lin"],
    "gpt2": ["h.*.attn.c_proj"],
    **{kind: ["layers.*.self_attn.o_proj"] for kind in _LLAMAS},
}

# Keys and values: IA3 rescales what they give (of GPT-2, whose projection is fused, queries as well).
KEY_VALUE: dict[str, list[str]] = {
    **{kind: ["attention.self.key", "attention.self.value"] for kind in _BERTS},
    "deberta-v2": ["attention.self.key_proj", "attention.self.value_proj"],
    "distilbert": ["attention.k_lin", "attention.v_lin"],
    "gpt2": ["attn.c_attn"],
    **{kind: ["self_attn.k_proj", "self_attn.v_proj"] for kind in _LLAMAS},
}


def model_type(model: nn.Module) -> str:
    """The architecture's name in transformers."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def sites_of(model: nn.Module, table: dict[str, list[str]], what: str) -> list[str]:
    """The module paths of a table's patterns. Raises ValueError for an architecture that it does not know."""
    kind = model_type(model)
    if kind not in table:
        raise unknown(f"Architecture for {what},", kind, table)
    return find_sites(model, table[kind])


def houlsby_sites(model: nn.Module) -> list[str]:
    """After the attention and after the feed-forward part of every layer."""
    return sites_of(model, ATTENTION_OUTPUT, "houlsby") + sites_of(model, FFN, "houlsby")


def all_weights(model: nn.Module, head: Head) -> list[str]:
    """The names of all parameters outside the head."""
    in_head = {id(parameter) for module in head.values() for parameter in module.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in in_head]


def biases(model: nn.Module, head: Head) -> list[str]:
    """The names of all biases outside the head, norms' included (BitFit). Raises ValueError where there are none."""
    names = [name for name in all_weights(model, head) if name.endswith("bias")]
    if not names:
        raise ValueError(
            f"bitfit trains biases, and a model of type {model_type(model)!r} has none: expected one with biases "
            '(BERT, RoBERTa, GPT-2). Use "lora", or the adaptation Bias, which adds them.'
        )
    return names
