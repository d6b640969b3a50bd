"""Consistency: how far two views of the same rows disagree (Eq. 5).

Every function takes two logit tensors `[..., C]` and an optional mask `[...]` of the positions that count, and
returns a scalar: the mean over rows (or over masked target tokens, as the reference has it for generation).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _rows(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(
            f"Views of shapes {list(a.shape)} and {list(b.shape)} cannot be compared: expected equal shapes."
        )
    a, b = a.reshape(-1, a.shape[-1]).float(), b.reshape(-1, b.shape[-1]).float()
    if mask is not None:
        keep = mask.reshape(-1).bool()
        a, b = a[keep], b[keep]
    return a, b


def _log_probabilities(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    a, b = _rows(a, b, mask)
    if a.shape[-1] == 1:
        raise ValueError(
            "KL between distributions over one class is always 0 (the reference spends a pass on it for STS-B): "
            'expected two classes or more. Use kind="mse" for regression.'
        )
    return F.log_softmax(a, -1), F.log_softmax(b, -1)


def reference_kl(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """`0.5 * [KL(sg(q) || p) + KL(sg(p) || q)]`, targets detached as in the reference (REFERENCE 1.3).

    The value is the symmetric KL; the gradient on a's logits is exactly `0.5 * (p - q) / rows`.
    """
    p, q = _log_probabilities(a, b, mask)
    to_p = F.kl_div(p, q.detach(), reduction="batchmean", log_target=True)
    to_q = F.kl_div(q, p.detach(), reduction="batchmean", log_target=True)
    return 0.5 * (to_p + to_q)


def symmetric_kl(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """`0.5 * [KL(p || q) + KL(q || p)]` as printed in Eq. 5, gradients through both sides."""
    p, q = _log_probabilities(a, b, mask)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


def jensen_shannon(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Jensen-Shannon divergence in nats, at most ln 2."""
    p, q = _log_probabilities(a, b, mask)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    to_middle = (p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)
    return 0.5 * to_middle.mean()


def squared(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of the outputs: the consistency of a regression."""
    a, b = _rows(a, b, mask)
    return F.mse_loss(a, b)


DISTANCES: dict[str, Distance] = {
    "reference": reference_kl,
    "symmetric": symmetric_kl,
    "jensen-shannon": jensen_shannon,
    "mse": squared,
}
