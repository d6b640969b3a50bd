"""Merging LoRA experts that belong in pairs: the mean of products, which is no product of means.

Tied experts (imported, trained apart) change the frozen weight by `(alpha / r) B_i A_i`. Their mean is the LoRA of rank
M r whose A is the A_i stacked and whose B is the B_i side by side over M; a truncated SVD brings it to a lower rank.
`merge` would take `mean(B) mean(A)` instead: with four random pairs, a quarter of the update is left and the rest is
cross terms between strangers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.errors import positive
from adamix_lab.core.merging import merge
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.core.model import MixtureModel


def merge_products(mixture: MixtureModel, rank: int | None = None) -> MixtureModel:
    """A model with one LoRA a site whose product is the mean of the experts' products.

    Args:
        mixture: LoRA; a shared side belongs to every pair.
        rank: None keeps the whole rank M r, exactly; a lower one takes the best approximation (SVD).

    Raises ValueError for another adaptation, or for sides that are unshared and not tied: they have no pairs.
    """
    config, adaptation = mixture.mixture, mixture.mixture.adaptation
    if not isinstance(adaptation, LoRA):
        raise ValueError(f"merge_products multiplies B and A: expected LoRA, got {adaptation.kind}. Use merge.")
    if mixture.space.experts > 1 and not config.tied and not config.share:
        raise ValueError(
            "The sides are routed independently, so that no A belongs to a B: expected tied experts (tied=True) or a "
            "shared side. Their mean of products over all pairs is what merge gives, exactly."
        )
    positive("rank", rank if rank is not None else 1)
    whole = mixture.space.experts * adaptation.rank
    kept = whole if rank is None else min(rank, whole)
    changed = replace(adaptation, rank=kept, alpha=adaptation.scale * kept)  # alpha / r stays
    merged = merge(mixture)
    merged.mixture = replace(merged.mixture, adaptation=changed, tied=False)
    for path, layer in mixture.sites.items():
        target = merged.model.get_submodule(path)
        assert isinstance(target, MixtureLayer)
        target.adaptation = changed
        target.experts = nn.ParameterDict(
            {name: nn.Parameter(w[None]) for name, w in _site(layer, adaptation, kept).items()}
        )
    merged._tasks = {merged.task: merged._owned()}
    return merged


@torch.no_grad()
def _site(layer: MixtureLayer, adaptation: LoRA, kept: int) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for name, _, _ in adaptation.ranges(layer.out_features):
        a, b = layer.experts[f"A{name}"], layer.experts[f"B{name}"]  # [M, r, in], [M, out, r]; 1 where shared
        experts = max(len(a), len(b))
        a, b = a.expand(experts, -1, -1), b.expand(experts, -1, -1)
        stacked, beside = a.flatten(0, 1), b.permute(1, 0, 2).flatten(1) / experts
        made[f"A{name}"], made[f"B{name}"] = _truncated(stacked, beside, kept)
    return made


def _truncated(a: Tensor, b: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """A `[kept, in]` and B `[out, kept]` whose product is the best of that rank to `b @ a`."""
    if kept == len(a):
        return a.clone(), b.clone()
    qa, ra = torch.linalg.qr(a.mT.double())  # the SVD of a small matrix [M r, M r] is enough
    qb, rb = torch.linalg.qr(b.double())
    u, s, vh = torch.linalg.svd(rb @ ra.mT)
    root = s[:kept].sqrt()
    down, up = root[:, None] * vh[:kept] @ qa.mT, qb @ u[:, :kept] * root
    if len(down) < kept:  # narrower than the rank: the rest is zero
        down = torch.nn.functional.pad(down, (0, 0, 0, kept - len(down)))
        up = torch.nn.functional.pad(up, (0, kept - up.shape[1]))
    return down.to(a).contiguous(), up.to(b).contiguous()
