"""Existing LoRA adapters of `peft` as the experts of a mixture: to route, ensemble, soup or draw landscapes of them.

Each A belongs to its B, so routes are tied. Merge them by `adamix_lab.merge_products` (the mean of products): the mean
of factors, `merge`, is a trap here. peft's `add_weighted_adapter` gives the mean of products by "cat" at weights 1/M,
and the mean of factors by "linear" at 1/M**2; "linear" at 1/M is M times that (the root of a weight is on each factor).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.files import read_tensors
from adamix_lab.core.mixture import sizes
from adamix_lab.core.model import MixtureModel, attach
from adamix_lab.core.saving import MOST_EXPERTS, load_trained, trained_tensors
from adamix_lab.interop.peft_out import CONFIG, PREFIX, WEIGHTS

_KEY = re.compile(re.escape(PREFIX) + r"(?P<path>.+)\.lora_(?P<side>[AB])\.weight")
# Settings that would change what the two factors mean; falsy values are fine.
_UNKNOWN_HERE = ("use_dora", "rank_pattern", "alpha_pattern", "lora_bias", "alora_invocation_tokens", "use_qalora")


@dataclass(frozen=True)
class PeftLoRA:
    """One adapter folder: rank, the factor on `B A`, A `[r, in]` and B `[out, r]` by module path, heads by name."""

    rank: int
    scale: float
    factors: dict[str, tuple[Tensor, Tensor]]
    heads: dict[str, Tensor]


def read_peft(folder: str | Path) -> PeftLoRA:
    """A LoRA folder that `peft` (or `export`) wrote, without importing it.

    Raises ValueError for another method, for settings not known here, and for files that disagree.
    """
    folder = Path(folder)
    config = _config(folder / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{folder} holds {kind!r}: expected a LoRA (peft_type LORA).")
    if given := [name for name in _UNKNOWN_HERE if config.get(name)]:
        raise ValueError(f"{folder} sets {', '.join(given)}: expected plain LoRA with one rank and one alpha.")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{folder} trained biases ({config['bias']!r}): expected bias = 'none'.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise ValueError(f"{folder} has r = {rank!r}, lora_alpha = {alpha!r}: expected a rank of at least 1, a number.")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    sides: dict[str, dict[str, Tensor]] = {}
    heads: dict[str, Tensor] = {}
    for name, tensor in read_tensors(folder / WEIGHTS).items():
        if found := _KEY.fullmatch(name):
            sides.setdefault(found["path"], {})[found["side"]] = tensor
        elif name.startswith(PREFIX) and "lora_" not in name:
            heads[name.removeprefix(PREFIX)] = tensor
        else:
            raise ValueError(f"{folder} holds {name!r}: expected LoRA factors of linear layers, and heads.")
    for path, pair in sides.items():
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None or a.dim() != 2 or b.dim() != 2 or len(a) != rank or b.shape[1] != rank:
            shapes = {side: list(t.shape) for side, t in pair.items()}
            raise ValueError(f"{folder}: {path} has {shapes}: expected A [{rank}, in] and B [out, {rank}].")
    if not sides:
        raise ValueError(f"{folder} holds no LoRA factors: expected keys like {PREFIX}PATH.lora_A.weight.")
    return PeftLoRA(rank, scale, {path: (p["A"], p["B"]) for path, p in sides.items()}, heads)


def import_peft(model: nn.Module, folders: Sequence[str | Path]) -> MixtureModel:
    """A mixture whose experts are existing LoRA adapters of one base, tied.

    Args:
        model: the base they were trained on.
        folders: M of them, of one rank and the same target modules. Scales may differ: B takes up the difference.

    Returns:
        The mixture in evaluation mode. Heads in the folders are averaged (they must all have one, or none).

    Raises ValueError where the adapters are not of one shape, or do not fit the model.
    """
    if not folders or len(folders) > MOST_EXPERTS:
        raise ValueError(f"{len(folders)} folders were given: expected 1 to {MOST_EXPERTS}.")
    read = [read_peft(folder) for folder in folders]
    first = read[0]
    for folder, one in zip(folders, read, strict=True):
        _need_same(folder, "rank", one.rank, first.rank, folders[0])
        _need_same(folder, "target modules", sorted(one.factors), sorted(first.factors), folders[0])
        _need_same(folder, "heads", sorted(one.heads), sorted(first.heads), folders[0])
    adaptation = LoRA(rank=first.rank, alpha=first.scale * first.rank)
    _need_fit(model, first)
    mixture = attach(
        model, adaptation, len(read), targets=sorted(first.factors), train_head=bool(first.heads), tied=len(read) > 1
    )
    tensors = trained_tensors(mixture)
    for path in first.factors:
        for side in (0, 1):
            stacked = [one.factors[path][side] * (one.scale / first.scale if side else 1.0) for one in read]
            tensors[f"experts.{path}.{'AB'[side]}"] = torch.stack(stacked).float()
    for name in first.heads:
        tensors[f"head.{name}"] = torch.stack([one.heads[name] for one in read]).mean(0)
    load_trained(mixture, tensors)
    return mixture.eval()


def _need_same(folder: str | Path, what: str, given: Any, expected: Any, first: str | Path) -> None:
    if given != expected:
        raise ValueError(
            f"{folder} has {what} {given}: expected {expected}, as {first}. Experts of one mixture have one shape."
        )


def _need_fit(model: nn.Module, adapter: PeftLoRA) -> None:
    # before anything is attached: the files say what there is
    modules = dict(model.named_modules())
    for path, (a, b) in adapter.factors.items():
        if path not in modules:
            raise ValueError(f"The model has no module {path!r}: expected the base that the adapters were trained on.")
        inside, outside = sizes(modules[path])
        if (a.shape[1], b.shape[0]) != (inside, outside):
            raise ValueError(
                f"{path} takes {inside} to {outside} features: expected {a.shape[1]} to {b.shape[0]}, as the adapters "
                "do. Load the base they were trained on."
            )


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is not there: expected a folder that peft's save_pretrained wrote.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): expected the file that peft wrote.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}: expected the settings that peft wrote.")
    return config
