"""The authors' checkpoints (`pytorch_model_*_expert_soup.bin`): read as the experts of a mixture.

M, sizes and sharing are inferred from the tensors. Keys, by block:

- bottleneck: `...output.ExpertSoup.MoA_A.deepspeed_experts.{i}.{weight,bias}` (down), `MoA_B` (up); GPT-2: `...mlp.`;
- LoRA: `...attn.c_attn.experts_lora_A.{i}` `[2 r, in]` (q's rows, then v's) and `experts_lora_B.{i}` `[2 d, r]`.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import Adaptation, Bottleneck, LoRA
from adamix_lab.core.errors import MOST_EXPERTS, LabError
from adamix_lab.core.files import require_file
from adamix_lab.models.model import MixtureModel, attach, check_fit, load_trained
from adamix_lab.models.saving import declared_shapes

_EXPERT = re.compile(
    r"(?P<block>.+)\.(?:ExpertSoup\.MoA_(?P<half>[AB])\.deepspeed_experts\.(?P<n>\d{1,9})\.(?P<what>weight|bias)"
    r"|experts_lora_(?P<lora>[AB])\.(?P<m>\d{1,9}))"
)
_NAMES = {("A", "weight"): "down", ("A", "bias"): "down_bias", ("B", "weight"): "up", ("B", "bias"): "up_bias"}
_SITES = {"output": "dense", "mlp": "c_proj"}  # the frozen layer whose output the authors' module reads
# Buffers and aliases that hold no weights of their own.
_IGNORED = (
    ".position_ids", ".attn.bias", ".attn.masked_bias", "lm_head.decoder.weight", ".lora_A_w", ".lora_B_w",
)  # fmt: skip

Stacks = dict[str, dict[str, Tensor]]


def import_authors(
    model: nn.Module, files: str | Path | Sequence[str | Path], alpha: float | None = None
) -> MixtureModel:
    """A mixture with the experts, and the head, of the authors' files.

    Args:
        model: the pretrained base, with as many labels as were trained. A file that holds the base, too, fills it.
        files: one checkpoint, or several that complete each other.
        alpha: LoRA's, which the files do not tell (the authors' scripts: 32).

    Returns:
        The mixture in evaluation mode.

    Raises ValueError for a file that is none of theirs, or does not fit the model; nothing in it is executed.
    """
    paths = [files] if isinstance(files, (str, Path)) else list(files)
    given: dict[str, Tensor] = {}
    for path in paths:
        read = read_pickle(path)
        if twice := sorted(given.keys() & read.keys()):
            raise LabError(f"{path} holds {twice[0]!r} again: expected files that complete each other.")
        given |= read
    stacks, rest = split_experts(given)
    adaptation, experts, share = infer_adaptation(stacks, alpha)
    sites = list(stacks)
    tensors = {f"experts.{path}.{name}": t for path, named in stacks.items() for name, t in named.items()}
    declared = declared_shapes(model, adaptation, experts, share, sites, head=True)
    heads = {name: f"head.{name}" for name in rest if f"head.{name}" in declared}
    tensors |= {key: rest.pop(name) for name, key in heads.items()}
    base = dict(model.named_parameters())
    if unknown := sorted(rest.keys() - base.keys()):
        raise LabError(
            f"The files hold {unknown[:3]}, which {type(model).__name__} has no place for: expected the architecture "
            "that the experts were trained on (AutoModelForSequenceClassification, or AutoModelForCausalLM for GPT-2)."
        )
    check_fit(declared, tensors)
    check_fit({name: tuple(base[name].shape) for name in rest}, rest)
    with torch.no_grad():
        for name, tensor in rest.items():
            base[name].copy_(tensor)
    mixture = attach(model, adaptation, experts, share, sites)
    load_trained(mixture, tensors)
    return mixture.eval()


def split_experts(given: Mapping[str, Tensor]) -> tuple[Stacks, dict[str, Tensor]]:
    """(experts stacked by site and our names, everything else). Raises ValueError for gaps and unequal shapes."""
    lists: dict[tuple[str, str], dict[int, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for full, tensor in given.items():
        key = full.removeprefix("module.")  # as DistributedDataParallel names them
        if found := _EXPERT.fullmatch(key):
            for site, name, part in _site_tensors(found, tensor):
                lists.setdefault((site, name), {})[int(found["n"] or found["m"])] = part
        elif key.endswith("expert_score_weight"):
            if tensor.numel() and not torch.equal(tensor, tensor.flatten()[:1].expand_as(tensor)):
                raise LabError(f"{key} was trained: expected equal scores, whose softmax is the mean (Eq. 6).")
        elif not key.endswith(_IGNORED):
            rest[key] = tensor
    if not lists:
        raise LabError("No experts were found: expected keys with ExpertSoup.MoA_A or experts_lora_A.")
    stacks: Stacks = {}
    for (site, name), found_at in lists.items():
        if sorted(found_at) != list(range(len(found_at))) or len(found_at) > MOST_EXPERTS:
            raise LabError(
                f"{site} has the experts {sorted(found_at)[:5]} of {name}: expected 0 to M - 1, at most {MOST_EXPERTS}."
            )
        shapes = {tuple(t.shape) for t in found_at.values()}
        if len(shapes) > 1:
            raise LabError(f"{site} has experts of shapes {sorted(shapes)} of {name}: expected one shape.")
        stacks.setdefault(site, {})[name] = torch.stack([found_at[n] for n in range(len(found_at))]).float()
    return stacks, rest


def _site_tensors(found: re.Match[str], tensor: Tensor) -> list[tuple[str, str, Tensor]]:
    block = found["block"]
    if found["lora"]:
        if tensor.dim() != 2 or len(tensor) % 2:
            raise LabError(f"{found[0]} has shape {list(tensor.shape)}: expected rows of q, then as many of v.")
        return [(block, f"{found['lora']}{n}", half) for n, half in enumerate(tensor.chunk(2))]
    last = block.rpartition(".")[2]
    if last not in _SITES:
        raise LabError(f"{found[0]} lies in {last!r}: expected a block's {' or '.join(_SITES)}.")
    return [(f"{block}.{_SITES[last]}", _NAMES[found["half"], found["what"]], tensor)]


def infer_adaptation(stacks: Stacks, alpha: float | None) -> tuple[Adaptation, int, tuple[str, ...]]:
    """(adaptation, M, shared sides) from the stacked tensors of the first site; others are checked by their shapes."""
    site, named = next(iter(stacks.items()))
    lora = "A0" in named
    expected = {"A0", "A1", "B0", "B1"} if lora else {"down", "down_bias", "up", "up_bias"}
    if set(named) != expected:
        raise LabError(f"{site} has {sorted(named)}: expected {sorted(expected)}, both sides of one adaptation.")
    sides = {"A": "A0", "B": "B0"} if lora else {"down": "down", "up": "up"}
    counts = {side: len(named[name]) for side, name in sides.items()}
    experts = max(counts.values())
    share = tuple(side for side, n in counts.items() if n == 1 < experts)
    if not lora:
        if named["down"].dim() != 3:
            raise LabError(f"{site} has down-projections {list(named['down'].shape)}: expected [M, r, d].")
        activation = "gelu_new" if site.endswith(".c_proj") else "gelu"
        return Bottleneck(size=named["down"].shape[1], activation=activation), experts, share
    if alpha is None:
        raise LabError("The files hold LoRA and do not tell its alpha: expected alpha=, 32 in the authors' scripts.")
    rank, width = named["B0"].shape[2], named["B0"].shape[1]
    return LoRA(rank=rank, alpha=alpha, slices=((0, width), (2 * width, 3 * width))), experts, share


# -- Foreign `.bin` files: tensors and nothing else. No code in them is run, no size in them is believed --


def read_pickle(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name of a file that `torch.save` wrote (a state dict, or one under "model_state_dict").

    Raises FileNotFoundError, and ValueError for what is no state dict, would run code, or claims more than the file
    holds: sizes are looked at on the meta device, before any memory is taken.
    """
    path = require_file(Path(path), "a checkpoint that torch.save wrote.")
    if not zipfile.is_zipfile(path):
        raise LabError(
            f"{path} is not in PyTorch's zip format: expected a checkpoint of torch 1.6 or newer. If you trust it, "
            "load it with the torch that wrote it and save it again."
        )
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > size:
        raise LabError(f"{path} has {size:,} bytes and would unpack to {unpacked:,}: torch.save does not compress.")
    claimed = _load_tensors(path, "meta")
    total = sum(tensor.numel() * tensor.element_size() for tensor in claimed.values())
    if total > 2 * size:  # tied tensors may count twice
        raise LabError(f"{path} has {size:,} bytes and claims tensors of {total:,}: it was not written by torch.save.")
    return _load_tensors(path, "cpu")


def _load_tensors(path: Path, device: str) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise LabError(
            f"{path} holds more than tensors ({str(error).splitlines()[0]}): expected a state dict. Loading it would "
            "run code of whoever wrote it, so nothing was loaded."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise LabError(
            f"{path} could not be read ({str(error).splitlines()[0]}): expected a whole file that torch.save wrote. "
            "Copy it again."
        ) from error
    state = found.get("model_state_dict", found) if isinstance(found, Mapping) else None
    named = isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not state or not named:
        raise LabError(f"{path} holds no state dict: expected names and tensors, nothing else.")
    return dict(state)
