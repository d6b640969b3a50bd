"""Curvature of the loss restricted to the adapters: Hessian-vector products, top eigenvalues, trace, sharpness.

Products are exact (two backward passes). Eigenvalues are ARPACK's Lanczos iteration over them, the trace is
Hutchinson's estimate. Fused attention has no second derivative, so attention runs eagerly meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from adamix_lab.analysis.landscape import counted, mixture_place, refuse_batches, targets
from adamix_lab.analysis.points import Point, above_prefix, anchored, logits_at, point_of
from adamix_lab.core.errors import positive
from adamix_lab.core.model import MixtureModel, evaluating
from adamix_lab.core.objective import predicts_next
from adamix_lab.core.views import Batch


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Attention in plain operations inside the block; what was chosen comes back."""
    configs: list[Any] = list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())
    before = [(config, getattr(config, "_attn_implementation", None)) for config in configs]
    try:
        for config, chosen in before:
            if chosen is not None:
                config._attn_implementation = "eager"
        yield
    finally:
        for config, chosen in before:
            if chosen is not None:
                config._attn_implementation = chosen


class AdapterLoss:
    """The mean loss over batches as a function of one flat vector: a displacement `[P]` of a point's weights.

    Args:
        mixture: never changed.
        batches: with labels; what lies below the first site is computed once, here.
        point: where displacements start; None is the merge.
        head: whether the head moves, too.

    Raises ValueError for no batches, a regression, or a point that is not finite or does not fit.
    """

    def __init__(
        self, mixture: MixtureModel, batches: Sequence[Batch], point: Point | None = None, head: bool = False
    ) -> None:
        refuse_batches(mixture, batches)
        place = point_of(mixture, head=head) if point is None else point
        self.point = {name: stacked[0] for name, stacked in anchored([place], ["The point"]).items()}
        if not head:
            self.point = {name: weight for name, weight in self.point.items() if name.startswith("experts.")}
        self.mixture = mixture
        self.shift = predicts_next(mixture.model)
        device, _ = mixture_place(mixture)
        with torch.no_grad(), evaluating(mixture):
            self.top, cache = above_prefix(mixture)
            self.batches = [cache({name: value.to(device) for name, value in batch.items()}) for batch in batches]
        self.rows = sum(len(targets(batch["labels"], self.shift)[1]) for batch in self.batches)

    @property
    def size(self) -> int:
        """P, the number of weights that move."""
        return sum(weight.numel() for weight in self.point.values())

    def zero(self) -> Tensor:
        """No displacement, `[P]`, in the weights' dtype and place."""
        return torch.zeros(self.size).to(next(iter(self.point.values())))

    def value(self, displacement: Tensor | None = None) -> float:
        """The loss in nats a row."""
        with torch.no_grad():
            return float(sum(self._sums(self._displaced(displacement))) / self.rows)

    def gradient(self, displacement: Tensor | None = None) -> Tensor:
        """The gradient `[P]`."""
        at = self._displaced(displacement).requires_grad_()
        with torch.enable_grad():
            parts = [torch.autograd.grad(loss, at)[0] for loss in self._sums(at)]
        return torch.stack(parts).sum(0) / self.rows

    def hvp(self, direction: Tensor, displacement: Tensor | None = None) -> Tensor:
        """The Hessian times a direction, `[P]`."""
        at, product = self._displaced(displacement).requires_grad_(), self.zero()
        with torch.enable_grad():
            for loss in self._sums(at):
                (gradient,) = torch.autograd.grad(loss, at, create_graph=True)
                product += torch.autograd.grad(gradient @ direction, at)[0]
        return product / self.rows

    def _displaced(self, displacement: Tensor | None) -> Tensor:
        return (self.zero() if displacement is None else displacement).detach().clone()

    def _sums(self, displacement: Tensor) -> Iterator[Tensor]:
        # the loss summed over the rows of one batch after another
        for batch in self.batches:
            with evaluating(self.mixture), eager_attention(self.mixture.model):
                weights = {name: weight[None] for name, weight in self._moved(displacement).items()}
                keep, gold = targets(batch["labels"], self.shift)
                logits = counted(logits_at(self.top, batch, weights), keep, self.shift)[0]
            yield F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), gold, reduction="sum")

    def _moved(self, displacement: Tensor) -> Point:
        parts = displacement.split([weight.numel() for weight in self.point.values()])
        return {
            name: weight + part.view_as(weight) for (name, weight), part in zip(self.point.items(), parts, strict=True)
        }


def top_eigenvalues(loss: AdapterLoss, number: int = 3, seed: int = 0, tolerance: float = 1e-3) -> list[float]:
    """The largest eigenvalues of the Hessian, greatest first (Lanczos).

    Raises ValueError unless 1 <= number < P - 1.
    """
    from numpy import ndarray
    from scipy.sparse.linalg import LinearOperator, eigsh

    positive("number", number)
    if number >= loss.size - 1:
        raise ValueError(f"number = {number}: expected fewer than the {loss.size} weights that move, less one.")

    def product(vector: ndarray) -> ndarray:
        return loss.hvp(torch.from_numpy(vector.reshape(-1).copy()).to(loss.zero())).double().cpu().numpy()

    start = torch.randn(loss.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    operator = LinearOperator((loss.size, loss.size), matvec=product, dtype="float64")
    found = eigsh(operator, number, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return sorted(map(float, found), reverse=True)


def trace(loss: AdapterLoss, generator: Generator, probes: int = 16) -> tuple[float, float]:
    """(the Hessian's trace, its standard error), from random signs (Hutchinson, 1990). Raises ValueError below 2."""
    if probes < 2:
        raise ValueError(f"probes = {probes}: expected at least 2, for a standard error.")
    found = []
    for _ in range(probes):
        signs = torch.randint(0, 2, (loss.size,), generator=generator).mul(2).sub(1).to(loss.zero())
        found.append(float(signs @ loss.hvp(signs)))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std() / probes**0.5)


def sharpness(loss: AdapterLoss, share: float = 0.05) -> float:
    """The rise of the loss after one step up the gradient, as long as a share of the weights (Foret et al., 2021)."""
    gradient = loss.gradient()
    length = share * torch.cat([weight.flatten() for weight in loss.point.values()]).norm()
    return loss.value(gradient * (length / gradient.norm().clamp_min(1e-30))) - loss.value()


def curvature(
    mixture: MixtureModel, batches: Sequence[Batch], point: Point | None = None, seed: int = 0, probes: int = 16
) -> dict[str, Any]:
    """Top eigenvalue, trace and sharpness at a point (None: the merge), adapters only, as one row of a table."""
    loss = AdapterLoss(mixture, batches, point)
    spur, error = trace(loss, torch.Generator().manual_seed(seed), probes)
    return {
        "loss": loss.value(),
        "top_eigenvalue": top_eigenvalues(loss, 1, seed)[0],
        "trace": spur,
        "trace_error": error,
        "sharpness": sharpness(loss),
        "weights": loss.size,
        "rows": loss.rows,
        "seed": seed,
    }
