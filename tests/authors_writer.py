"""Mixtures written as the authors' checkpoints are, for the tests that read them."""

from __future__ import annotations

import torch
from torch import Tensor

from adamix_lab.core.adaptations import LoRA
from adamix_lab.interop.authors import _NAMES
from adamix_lab.models.model import MixtureModel


def authors_state_dict(mixture: MixtureModel) -> dict[str, Tensor]:
    """The experts and the head under the authors' names, as `torch.save` of it gives their file.

    mixture: bottlenecks at `output.dense` or `mlp.c_proj`, or LoRA on q and v of `attn.c_attn`.
    """
    state: dict[str, Tensor] = {name: p.detach().clone() for name, p in mixture.head_parameters()}
    back = {name: key for key, name in _NAMES.items()}
    for path, layer in mixture.sites.items():
        block = path.rpartition(".")[0]
        if isinstance(layer.adaptation, LoRA):
            for side in "AB":
                halves = zip(layer.experts[f"{side}0"], layer.experts[f"{side}1"], strict=True)
                for n, pair in enumerate(halves):
                    state[f"{path}.experts_lora_{side}.{n}"] = torch.cat([half.detach() for half in pair])
            continue
        for name, stacked in layer.experts.items():
            half, what = back[name]
            for n, one in enumerate(stacked):
                state[f"{block}.ExpertSoup.MoA_{half}.deepspeed_experts.{n}.{what}"] = one.detach().clone()
    return state
