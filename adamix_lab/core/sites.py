"""Sites: where adaptations go. Known architectures (`architectures.yaml`), patterns for any other model, the task head.

A pattern is a module path with wildcards: `*` stands for one part of the path, `**` for any number; it may begin
anywhere in the path (`h.*.mlp.c_proj` matches `transformer.h.0.mlp.c_proj`).
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Generator, nn

from adamix_lab.core.adaptations import IA3, Adaptation, LoRA
from adamix_lab.core.errors import Kind as Kind
from adamix_lab.core.errors import LabError, near_misses


@dataclass(frozen=True)
class Architecture:
    """What is known of one kind of model. Whatever lies in a block is named by its path from the block on."""

    blocks: str  # the list of blocks, inside the base model
    ffn: str  # the feed-forward part's second map, before dropout, residual and norm: the paper's place
    query: str | None = None  # projections of the attention; the paper puts LoRA at query and value
    key: str | None = None
    value: str | None = None
    attention_output: str | None = None  # its output projection
    fused: bool = False  # query, key and value are slices of one projection
    # For `adamix_lab.fast`, which tries each way (`check`) before it takes it.
    fans_out: bool = False  # what a block is called with may have more rows than `input_ids`
    cut: str | None = None  # the module whose inputs, cut to one position, leave the rest of the block to that position
    end: str | None = None  # the module that ends the block, called with (the input of `ffn`, the residual)
    attention: str | None = None  # the module that calls `scaled_dot_product_attention`
    # For other libraries.
    adapters: str | None = None  # where `adapters` keeps a bottleneck behind the block
    prompts: bool = False  # virtual tokens work, through `peft`

    def patterns(self, *parts: str) -> list[str]:
        """The patterns of these parts ("ffn", "query", ...) in every block; none where one of them is not known."""
        places = [getattr(self, part) for part in parts]
        return [] if None in places else [f"{self.blocks}.*.{place}" for place in dict.fromkeys(places)]


_TABLE = yaml.safe_load(Path(__file__).with_name("architectures.yaml").read_text(encoding="utf-8"))
ARCHITECTURES: dict[str, Architecture] = {name: Architecture(**known) for name, known in _TABLE.items()}


def model_type(model: nn.Module) -> str:
    """The architecture's name in transformers; the class's name for a model that is not from there."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def known_patterns(*parts: str) -> dict[str, list[str]]:
    """The patterns of these parts of a block ("ffn"; "query", "value"; ...) by architecture, where they are known."""
    return {name: found for name, known in ARCHITECTURES.items() if (found := known.patterns(*parts))}


def default_targets(model: nn.Module, adaptation: Adaptation) -> tuple[list[str], Adaptation]:
    """The patterns for a known architecture, and the adaptation with GPT-2's q and v slices filled in.

    Raises ValueError for an unknown architecture: it says how to give patterns.
    """
    kind = model_type(model)
    attention = isinstance(adaptation, LoRA) or (isinstance(adaptation, IA3) and not adaptation.feedforward)
    table = known_patterns("query", "value") if attention else known_patterns("ffn")
    if kind not in table:
        some = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][:4]
        raise LabError(
            f"No targets are known for {adaptation.kind} in a model of type {kind!r}: expected one of {sorted(table)}. "
            f"Give targets=, patterns of module paths (this model has {some!r}), * for numbers."
        )
    if ARCHITECTURES[kind].fused and isinstance(adaptation, LoRA) and adaptation.slices is None:
        width = int(model.config.hidden_size)  # type: ignore[union-attr,arg-type]
        adaptation = replace(adaptation, slices=((0, width), (2 * width, 3 * width)))
    return table[kind], adaptation


def pattern_to_regex(pattern: str) -> re.Pattern[str]:
    """The regular expression of a path pattern."""
    parts = {"**": r"[^.]+(?:\.[^.]+)*", "*": r"[^.]+"}
    body = r"\.".join(parts.get(part, re.escape(part).replace(r"\*", "[^.]*")) for part in pattern.split("."))
    return re.compile(rf"(?:.+\.)?{body}")


def find_sites(model: nn.Module, patterns: str | Sequence[str], blocks: Iterable[int] | None = None) -> list[str]:
    """The module paths that the patterns match, in the model's order.

    blocks: block numbers (transformer layers) to keep, in every stack that has them (an encoder-decoder has two);
        negative ones count from each stack's last. None keeps all.

    Raises ValueError, with near misses, where a pattern matches nothing, and for a block that holds no site.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise LabError("targets is empty: expected one pattern of module paths or more.")
    paths = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        regex = pattern_to_regex(pattern)
        matched = [path for path in paths if regex.fullmatch(path)]
        if not matched:
            close = near_misses(pattern, dict.fromkeys(re.sub(r"\.\d+\.", ".*.", path) for path in paths))
            hint = f" Near misses: {', '.join(map(repr, close))}." if close else ""
            raise LabError(
                f"Pattern {pattern!r} matches no module of {type(model).__name__}: expected a module path, with * "
                f"for one part and ** for several.{hint}"
            )
        found.update(matched)
    sites = [path for path in paths if path in found]
    return sites if blocks is None else _in_blocks(sites, list(blocks), paths)


def _in_blocks(sites: list[str], blocks: list[int], paths: list[str]) -> list[str]:
    if not blocks:
        raise LabError("blocks is empty: expected block numbers (transformer layers), or None for all of them.")
    found = {path: match for path in paths if (match := re.search(r"(?:^|\.)(\d+)(?:\.|$)", path))}
    lengths: dict[str, int] = {}  # of each stack, a list of blocks, by the path before the number
    for path, match in found.items():
        stack = path[: match.start()]
        lengths[stack] = max(lengths.get(stack, 0), int(match[1]) + 1)
    numbers = {site: int(found[site][1]) for site in sites if site in found}
    both = {site: {n, n - lengths[site[: found[site].start()]]} for site, n in numbers.items()}  # from front, from end
    for block in blocks:
        if not any(block in names for names in both.values()):
            there = sorted(set(numbers.values()))
            raise LabError(f"Block {block} holds no site: expected one of {there}, or a negative one from the end.")
    return [site for site in sites if not both.get(site, set()).isdisjoint(blocks)]


def check_sites(model: nn.Module, sites: list[str], head: Iterable[str]) -> list[str]:
    """The sites outside the head, which trains whole; a warning names those that are left out.

    Raises ValueError where none is left, and for a site inside another; TypeError for weights that cannot be trained
    around: quantised for inference, offloaded, or whole numbers.
    """
    kept = [site for site in sites if not any(f"{site}.".startswith(f"{path}.") for path in head)]
    if not kept:
        raise LabError(
            f"Every target lies in the head ({', '.join(sites[:3])}), which trains whole: expected layers of the base "
            "model. Give other targets, or train_head=False to adapt the head's layers instead."
        )
    if left := [site for site in sites if site not in kept]:
        warnings.warn(f"No experts at {', '.join(left)}: the head trains whole, without them.", stacklevel=3)
    for outer, inner in pairwise(kept):  # in the model's order, where what a module holds follows it
        if inner.startswith(f"{outer}."):
            raise LabError(f"Site {inner!r} lies inside site {outer!r}: expected one of them. Narrow the targets.")
    for path, module in model.named_modules():
        weight = next(module.parameters(), None)
        if path not in kept and not hasattr(module, "_packed_params"):  # of torch's int8 layers, which pass no gradient
            continue
        if weight is None and hasattr(module, "in_features"):
            given = "holds no parameters, as layers quantised for inference do"
        elif weight is not None and weight.is_meta and hasattr(module, "_hf_hook"):
            given = "is offloaded"
        elif type(module) is nn.Linear and not module.weight.is_floating_point():
            given = f"holds {module.weight.dtype}"
        else:
            continue
        raise TypeError(
            f"{path!r}, a {type(module).__name__}, {given}; no expert can train beside it: expected floats in memory, "
            "or bitsandbytes' 4 or 8 bits. Load the model so; quantise for inference what fold gives."
        )
    return kept


# -- the task head: what transformers adds on top of the base model, trained with the experts --

Head = dict[str, nn.Module]
READ_MARK = "_is_hf_initialized"  # transformers' own, on weights that came from a file

# What a model's head is for, by the end of its class's name.
_KINDS = {
    "ForSequenceClassification": "classification",
    "ForCausalLM": "generation",
    "LMHeadModel": "generation",
    "ForMaskedLM": "masked",
    "ForConditionalGeneration": "sequence-to-sequence",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "spans",
}


@dataclass
class TaskModules:
    """What a task owns on the frozen base: its experts a site, its head, and what its answers mean."""

    experts: dict[str, nn.ParameterDict]
    head: Head
    contract: dict[str, Any] = field(default_factory=dict)


def find_head(model: nn.Module) -> Head:
    """The modules outside the base model that hold weights, by path, and those inside it that its files did not hold.

    The reference trains everything outside the encoder. A language model's head is tied to, or belongs
    with, the embeddings: it stays frozen.
    """
    prefix, drawn = getattr(model, "base_model_prefix", ""), drawn_modules(model)
    if not hasattr(model, prefix) or getattr(model, "get_output_embeddings", lambda: None)() is not None:
        return drawn
    in_base = {id(p) for p in getattr(model, prefix).parameters()}
    outside = {
        name: module
        for name, module in model.named_children()
        if name != prefix
        and any(True for _ in module.parameters())
        and not any(id(p) in in_base for p in module.parameters())
    }
    return outside | {path: module for path, module in drawn.items() if path.split(".")[0] not in outside}


def drawn_modules(model: nn.Module) -> Head:
    """The modules that transformers drew anew when it loaded the model: a pooler that the files lack, say.

    It marks every weight that it reads; a model without marks was built, not loaded.
    """
    drawn = {name for name, p in model.named_parameters() if not getattr(p, READ_MARK, False)}
    if len(drawn) == sum(1 for _ in model.parameters()):
        return {}
    found: Head = {}
    for path, module in model.named_modules():  # parents come first
        names = [f"{path}.{name}" for name, _ in module.named_parameters()]
        whole = drawn.issuperset(names) or (drawn.intersection(names) and not list(module.children()))
        if names and whole and not any(path.startswith(f"{parent}.") for parent in found):
            found[path] = module
    return found


def head_kind(model: nn.Module) -> str | None:
    """What the head is for: a kind of model that `load_backbone` loads; None is unknown."""
    return next((kind for end, kind in _KINDS.items() if type(model).__name__.endswith(end)), None)


def head_pooling(model: nn.Module) -> str:
    """What a classifier's head reads, as `load_backbone` names it: "mean", or "cls", the place of the family's own."""
    inner = getattr(model, "get_base_model", lambda: model)()  # peft's class lies around it
    return pooling_named(type(inner).__name__)


def pooling_named(name: str) -> str:
    """As `head_pooling`, of a class's name: as a configuration has it under `architectures`."""
    return "mean" if name == "MeanForSequenceClassification" else "cls"


# -- what the answers mean: kept in the model's configuration, where stock libraries look for it --

PROBLEM_TYPES: dict[Kind, str] = {
    "classes": "single_label_classification",
    "labels": "multi_label_classification",  # several of them may hold
    "numbers": "regression",
}
_CONTRACT = ("num_labels", "problem_type", "id2label", "label2id")


def count_answers(model: nn.Module) -> int | None:
    """How many classes, labels or numbers the head answers; None for a head of another kind."""
    own: int | None = getattr(model, "num_labels", None)
    if own is None and head_kind(model) in ("classification", "tokens"):  # BART and T5 look it up
        own = getattr(getattr(model, "config", None), "num_labels", None)
    return own


def answer_kind(model: nn.Module) -> Kind:
    """What the model answers with: one of several classes, several labels, numbers, a class a token, spans, texts."""
    if (kind := head_kind(model)) in ("tokens", "spans"):
        return kind  # type: ignore[return-value]
    if getattr(model, "get_output_embeddings", lambda: None)() is not None:
        return "texts"
    given = getattr(getattr(model, "config", None), "problem_type", None)
    if given == PROBLEM_TYPES["labels"]:
        return "labels"
    return "numbers" if given == PROBLEM_TYPES["numbers"] or count_answers(model) == 1 else "classes"


def declare(model: nn.Module, kind: Kind, classes: Sequence[str] = ()) -> None:
    """Writes the kind of the answers and the classes' names (none: LABEL_0, ...) into the model's configuration.

    Raises ValueError for more or fewer names than the head answers.
    """
    count, config = count_answers(model), getattr(model, "config", None)
    if config is None or count is None or kind in ("spans", "texts"):
        return
    if classes and len(classes) != count:
        raise LabError(f"{len(classes)} names for a head that answers {count}: expected one each.")
    names = dict(enumerate(classes or [f"LABEL_{n}" for n in range(count)]))
    ids = {name: n for n, name in names.items()}
    write_contract(model, {"problem_type": PROBLEM_TYPES.get(kind), "id2label": names, "label2id": ids})


def read_contract(model: nn.Module) -> dict[str, Any]:
    """What the configuration says of the answers: how many, what kind, their names."""
    config = getattr(model, "config", None)
    return {key: copy.copy(getattr(config, key)) for key in _CONTRACT if hasattr(config, key)}


def write_contract(model: Any, contract: Mapping[str, Any]) -> None:
    """Puts back what `read_contract` gave."""
    for key, value in contract.items():  # the number first: setting it invents names
        setattr(model.config, key, copy.copy(value))
    if contract and getattr(model, "num_labels", None) is not None:
        model.num_labels = model.config.num_labels


def class_names(model: nn.Module) -> tuple[str, ...]:
    """The names in the order of their numbers; none where the configuration has only LABEL_0, LABEL_1, ..."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    listed = tuple(str(names[n]) for n in sorted(names))
    return () if listed == tuple(f"LABEL_{n}" for n in range(len(listed))) else listed


def new_head(model: nn.Module, head: Head, num_labels: int | None, generator: Generator) -> Head:
    """A freshly drawn head of the same build, N(0, 0.02) with zero biases, that answers `num_labels` where given.

    What is no linear layer starts as its own `reset_parameters` and the model's `_init_weights` have it; without
    either, a matrix as above and a vector at one.
    """
    fresh = {path: copy.deepcopy(module).cpu().requires_grad_(True) for path, module in head.items()}
    old = count_answers(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(generator.initial_seed())
        for part in (part for module in fresh.values() for part in module.modules() if not isinstance(part, nn.Linear)):
            _restart(model, part)
    linear = [part for module in fresh.values() for part in module.modules() if isinstance(part, nn.Linear)]
    for n, part in enumerate(linear):
        # a hidden layer of a head may be as wide as there are answers
        answers = part.out_features == old and (part.in_features != old or n == len(linear) - 1)
        if num_labels and answers and num_labels != old:
            part.out_features = num_labels
            part.weight = nn.Parameter(part.weight.new_empty(num_labels, part.in_features))
            part.bias = None if part.bias is None else nn.Parameter(part.bias.new_empty(num_labels))
        with torch.no_grad():
            part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * 0.02)
            if part.bias is not None:
                part.bias.zero_()
    return {path: module.to(next(head[path].parameters()).device) for path, module in fresh.items()}


def _restart(model: nn.Module, part: nn.Module) -> None:
    for name, parameter in part.named_parameters(recurse=False):
        start = torch.randn_like(parameter) * 0.02 if parameter.dim() > 1 else torch.ones_like(parameter)
        parameter.copy_(torch.zeros_like(parameter) if "bias" in name else start)
    for reset in ("reset_parameters", "_reset_parameters"):  # torch's layers, buffers included; multi-head attention
        getattr(part, reset, lambda: None)()
    getattr(model, "_init_weights", lambda part: None)(part)
