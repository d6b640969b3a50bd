"""Adapters of `peft`: a merged LoRA or IA3 as a folder that the stock library loads, and its LoRAs as experts.

Files are written and read without importing `peft`: `adapter_config.json` and `adapter_model.safetensors`, the
adapter's name left out of the keys. Heads travel as `modules_to_save`. A LoRA on slices of a fused projection (GPT-2's
q and v) becomes one LoRA of k times the rank, whose B has blocks and zero rows between them.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import IA3, LoRA
from adamix_lab.core.errors import MOST_EXPERTS, LabError, extra, finite, fraction
from adamix_lab.core.files import MANIFEST, check_weights, read_json, read_tensors, sha256_of, write_tensors, write_text
from adamix_lab.core.mixture import MixtureLayer, sizes
from adamix_lab.core.sites import drawn_modules, head_kind
from adamix_lab.interop.authors import read_pickle
from adamix_lab.models.model import MixtureModel, attach, load_trained, trained_tensors
from adamix_lab.models.saving import base_name

FILES = CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."
TASKS = {"classification": "SEQ_CLS", "generation": "CAUSAL_LM", "sequence-to-sequence": "SEQ_2_SEQ_LM"}
TASKS |= {"tokens": "TOKEN_CLS", "spans": "QUESTION_ANS"}


def write_peft(mixture: MixtureModel, folder: Path, point: Tensor | None = None, head: bool = True) -> None:
    """Writes both files.

    Args:
        mixture: LoRA or IA3 at every site; merged, or not with `point`.
        folder: where to.
        point: a mixture point `[sites, sides, M]` to take the weights at; None is the merge.
        head: the trained head goes along.
    """
    tensors: dict[str, Tensor] = {}
    shared: dict[str, Any] = {}
    for n, (path, layer) in enumerate(mixture.sites.items()):
        weights = layer.weights(None if point is None else point[n])
        here, settings = (lora_tensors if isinstance(layer.adaptation, LoRA) else ia3_tensors)(layer, weights)
        tensors |= {f"{PREFIX}{path}.{name}": tensor for name, tensor in here.items()}
        if shared and settings != shared:
            raise LabError(f"Site {path!r} has {settings}: expected {shared}, one rank and scale for every site.")
        shared = settings
    if head:
        tensors |= {f"{PREFIX}{name}": p for name, p in mixture.head_parameters()}
    # separate memory for each: safetensors refuses tensors that share theirs
    write_tensors(folder / WEIGHTS, {name: tensor.clone() for name, tensor in tensors.items()}, {"format": "pt"})
    write_text(folder / CONFIG, json.dumps({**_peft_config(mixture, head), **shared}, indent=2) + "\n")


def _peft_config(mixture: MixtureModel, head: bool) -> dict[str, Any]:
    sites, adaptation = list(mixture.mixture.sites), mixture.mixture.adaptation
    heads, kind = list(mixture.head_paths) if head else [], head_kind(mixture.model)
    config: dict[str, Any] = {
        "peft_type": adaptation.kind.upper(),
        # "SEQ_CLS" makes peft ask for a head in the file
        "task_type": TASKS.get(kind or "") if heads or kind != "classification" else None,
        "base_model_name_or_path": base_name(str(getattr(mixture.model.config, "_name_or_path", ""))) or None,
        "target_modules": sites,
        "modules_to_save": heads or None,
        "fan_in_fan_out": all(hasattr(layer.base, "nf") for layer in mixture.sites.values()),  # Conv1D
        "inference_mode": True,
    }
    if isinstance(adaptation, IA3):
        config["feedforward_modules"] = sites if adaptation.feedforward else []
    return config


def lora_tensors(layer: MixtureLayer, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A `[k r, in]` and B `[out, k r]` of one site with k slices, and peft's settings."""
    adaptation = layer.adaptation
    assert isinstance(adaptation, LoRA)
    ranges, rank = adaptation.ranges(layer.out_features), adaptation.rank
    a = torch.cat([weights[f"A{name}"] for name, _, _ in ranges])
    b = torch.zeros(layer.out_features, len(ranges) * rank, dtype=a.dtype, device=a.device)
    for n, (name, start, stop) in enumerate(ranges):
        b[start:stop, n * rank : (n + 1) * rank] = weights[f"B{name}"]
    settings = {
        "r": len(ranges) * rank,
        "lora_alpha": len(ranges) * adaptation.alpha,  # alpha / r stays as it was trained
        "lora_dropout": adaptation.dropout,
        "bias": "none",
        "use_rslora": False,
    }
    return {"lora_A.weight": a, "lora_B.weight": b}, settings


def ia3_tensors(layer: MixtureLayer, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The vector of one site as peft shapes it: a row `[1, in]` on inputs, a column `[out, 1]` on outputs."""
    scale = weights["scale"]
    feedforward = isinstance(layer.adaptation, IA3) and layer.adaptation.feedforward
    return {"ia3_l": scale[None] if feedforward else scale[:, None]}, {}


def write_experts(mixture: MixtureModel, folder: Path) -> list[Path]:
    """M sibling adapters `expert0`, `expert1`, ...: pairs (A_i, B_i), a shared side in each.

    They hold no head, which `add_weighted_adapter` would refuse; the merged adapter has it.
    """
    space = mixture.space
    folders = [folder / f"expert{n}" for n in range(space.experts)]
    for n, place in enumerate(folders):
        write_peft(mixture, place, space.vertices(space.fixed(n)), head=False)
    return folders


def load_with_peft(base: nn.Module, folder: Path) -> nn.Module:
    """The base with the folder's adapter, by stock `peft`. Raises ImportError where it is not installed."""
    return import_peft_library().PeftModel.from_pretrained(base, str(folder))


def import_peft_library() -> Any:
    """The package `peft`. Raises ImportError: which extra brings it."""
    with extra("peft"):
        import peft
    return peft


# -- Existing LoRA adapters of `peft` as the experts of a mixture: to route, ensemble, soup or draw landscapes of
# them --
#
# Each A belongs to its B, so routes are tied. Merge them by `adamix_lab.merge_products` (the mean of products): the
# mean of factors, `merge`, is a trap here. peft's `add_weighted_adapter` gives the mean of products by "cat" at
# weights 1/M, and the mean of factors by "linear" at 1/M**2; "linear" at 1/M is M times that (the root of a weight is
# on each factor).

_KEY = re.compile(re.escape(PREFIX) + r"(?P<path>.+)\.lora_(?P<side>[AB])\.weight")
# Settings that would change what the two factors mean, or the base; falsy values are fine.
_UNSUPPORTED = """use_dora rank_pattern alpha_pattern lora_bias alora_invocation_tokens use_qalora layer_replication
trainable_token_indices target_parameters use_bdlora arrow_config kasa_config monteclora_config velora_config""".split()
# Starts that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take a part of it away.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class PeftLoRA:
    """One adapter folder: rank, the factor on `B A`, A `[r, in]` and B `[out, r]` by module path, heads by name."""

    rank: int
    scale: float
    factors: dict[str, tuple[Tensor, Tensor]]
    heads: dict[str, Tensor]
    base: str = ""  # the name of the model it was trained on
    dropout: float = 0.0  # in front of A, while it trains

    @property
    def shape(self) -> dict[str, Any]:
        """What experts of one mixture have in common."""
        return {"rank": self.rank, "target modules": sorted(self.factors), "heads": sorted(self.heads)}


def read_peft(folder: str | Path) -> PeftLoRA:
    """A LoRA folder that `peft` (or `export`) wrote, without importing it.

    Raises ValueError for another method, for settings not known here, and for files that disagree.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    if (kind := config.get("peft_type")) != "LORA":
        raise LabError(f"{folder} holds {kind!r}: expected a LoRA (peft_type LORA).")
    if given := [name for name in _UNSUPPORTED if config.get(name)]:
        raise LabError(f"{folder} sets {', '.join(given)}: expected plain LoRA with one rank and one alpha.")
    if config.get("bias", "none") != "none":
        raise LabError(f"{folder} trained biases ({config['bias']!r}): expected bias = 'none'.")
    if (start := config.get("init_lora_weights")) not in _PLAIN_STARTS:
        raise LabError(
            f"{folder} began from init_lora_weights = {start!r}, with which peft changes the base's weights when it "
            "loads them: expected a LoRA on the base as it is. Convert it with peft: save_pretrained(FOLDER, "
            "path_initial_model_for_weight_conversion=THE ADAPTER BEFORE TRAINING)."
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise LabError(f"{folder} has r = {rank!r}, lora_alpha = {alpha!r}: expected a rank of at least 1, a number.")
    finite(f"{folder} has lora_alpha", alpha)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    old = not (folder / WEIGHTS).is_file() and (folder / PICKLED).is_file()  # as older versions of peft wrote it
    weights = read_pickle(folder / PICKLED) if old else read_tensors(folder / WEIGHTS)
    check_files(folder, (CONFIG, WEIGHTS))
    check_weights(weights, str(folder))
    sides: dict[str, dict[str, Tensor]] = {}
    heads: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if found := _KEY.fullmatch(name):
            sides.setdefault(found["path"], {})[found["side"]] = tensor
        elif name.startswith(PREFIX) and "lora_" not in name:
            heads[name.removeprefix(PREFIX)] = tensor
        else:
            raise LabError(f"{folder} holds {name!r}: expected LoRA factors of linear layers, and heads.")
    for path, pair in sides.items():
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None or a.dim() != 2 or b.dim() != 2 or len(a) != rank or b.shape[1] != rank:
            shapes = {side: list(t.shape) for side, t in pair.items()}
            raise LabError(f"{folder}: {path} has {shapes}: expected A [{rank}, in] and B [out, {rank}].")
    if not sides:
        raise LabError(f"{folder} holds no LoRA factors: expected keys like {PREFIX}PATH.lora_A.weight.")
    factors = {path: (pair["A"], pair["B"]) for path, pair in sides.items()}
    named, rate = config.get("base_model_name_or_path") or "", config.get("lora_dropout") or 0.0
    fraction(f"{folder} has lora_dropout", rate)
    return PeftLoRA(rank, scale, factors, heads, named, rate)


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raises LabError where a file is not the one that an export wrote; folders of other writers tell nothing."""
    path = folder / MANIFEST
    record = read_json(path, "what an export wrote. Remove it.") if path.is_file() else {}
    told: Any = record.get("sha256") if isinstance(record, dict) else None
    for name in names if isinstance(told, dict) else ():
        if name in told and not ((folder / name).is_file() and told[name] == sha256_of(folder / name)):
            raise LabError(
                f"{folder / name} was changed since it was exported: expected what {path.name} tells of it. Export "
                f"again, or remove {path.name}."
            )


def import_peft(model: nn.Module, folders: str | Path | Sequence[str | Path]) -> MixtureModel:
    """A mixture whose experts are existing LoRA adapters of one base, tied.

    Args:
        model: the base they were trained on.
        folders: one, or M of them, of one rank and the same target modules. Scales may differ: B takes up the
            difference. To train on, they have the mean of their dropout rates.

    Returns:
        The mixture in evaluation mode. Heads in the folders are averaged (they must all have one, or none).

    Raises ValueError where the adapters are not of one shape, or do not fit the model. Warns where they name another
    base, or where their heads rest on a module that was drawn.
    """
    folders = [folders] if isinstance(folders, str | Path) else folders
    if not folders or len(folders) > MOST_EXPERTS:
        raise LabError(f"{len(folders)} folders were given: expected 1 to {MOST_EXPERTS}.")
    read = [read_peft(folder) for folder in folders]
    first = read[0]
    for folder, one in zip(folders, read, strict=True):
        for (what, given), expected in zip(one.shape.items(), first.shape.values(), strict=True):
            if given != expected:
                raise LabError(
                    f"{folder} has {what} {given}: expected {expected}, as {folders[0]}. Experts of one mixture have "
                    "one shape."
                )
    rate = fmean(one.dropout for one in read)
    adaptation = LoRA(rank=first.rank, alpha=first.scale * first.rank, dropout=rate)
    _check_shapes(model, first)
    _warn_of_base(model, read)
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


def _check_shapes(model: nn.Module, adapter: PeftLoRA) -> None:
    # before anything is attached: the files say what there is
    modules = dict(model.named_modules())
    for path, (a, b) in adapter.factors.items():
        if path not in modules:
            raise LabError(f"The model has no module {path!r}: expected the base that the adapters were trained on.")
        inside, outside = sizes(modules[path])
        if (a.shape[1], b.shape[0]) != (inside, outside):
            raise LabError(
                f"{path} takes {inside} to {outside} features: expected {a.shape[1]} to {b.shape[0]}, as the adapters "
                "do. Load the base they were trained on."
            )


def _warn_of_base(model: nn.Module, adapters: Sequence[PeftLoRA]) -> None:
    heads = adapters[0].heads
    drawn = [path for path in drawn_modules(model) if not any(name.startswith(f"{path}.") for name in heads)]
    if heads and drawn:
        told = f"The base's files lack {', '.join(drawn)}, and the adapters do not bring it: it was drawn"
        warnings.warn(f"{told}, and their heads fit no other draw than the one they were trained on.", stacklevel=3)
    own = str(getattr(getattr(model, "config", None), "_name_or_path", ""))
    for other in sorted({one.base for one in adapters} if own else ()):
        if other and Path(other).name != Path(own).name:
            told = f"An adapter was trained on {other!r}, the model is {own!r}"
            warnings.warn(f"{told}: on another base it answers otherwise.", stacklevel=3)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: expected a folder that peft's save_pretrained wrote.")
    config = read_json(path, "the file that peft wrote.")
    if not isinstance(config, dict):
        raise LabError(f"{path} holds {type(config).__name__}: expected the settings that peft wrote.")
    return config
