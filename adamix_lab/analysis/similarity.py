"""How alike experts are: directions of their weights, the spaces they span, what they add to the hidden states."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.points import inputs_of
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.core.model import MixtureModel, evaluating
from adamix_lab.core.views import Batch

Row = dict[str, Any]


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two tensors of equal shape, flattened; nan where one is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features `[n, d]` and `[n, e]` of the same rows (Kornblith et al., 2019).

    1 where they agree up to a rotation and a scale. Raises ValueError for different numbers of rows.
    """
    if len(x) != len(y):
        raise ValueError(f"Features of {len(x)} and {len(y)} rows cannot be aligned: expected the same rows.")
    x, y = (f.double() - f.double().mean(0) for f in (x, y))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def subspace_angles(a: Tensor, b: Tensor) -> Tensor:
    """Principal angles in radians, the smallest first, between the spans of the columns of `[n, r]` and `[n, q]`."""
    bases = [torch.linalg.qr(m.double()).Q for m in (a, b)]
    return torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(-1, 1).acos()


def expert_similarity(mixture: MixtureModel, batch: Batch) -> list[Row]:
    """Every pair of experts at every site, one row a measure.

    - "cosine": of a side's weights, flattened; shared sides are left out;
    - "angle": the mean principal angle in degrees between the spaces that a side's matrices span in model width
      (rows of a down-projection or A, columns of an up-projection or B); 90 is orthogonal;
    - "cka": of what the two add to the frozen output, on the site's inputs in the merged pass (padding left out).

    Returns:
        Rows with site, side ("" for cka), measure, first, second, value.
    """
    inputs = site_inputs(mixture, batch)
    rows: list[Row] = []
    for path, layer in mixture.sites.items():
        for first, second in itertools.combinations(range(max(layer.counts())), 2):
            found = [*_of_weights(layer, first, second), ("", "cka", _cka(layer, inputs[path], first, second))]
            rows += [
                {"site": path, "side": side, "measure": measure, "first": first, "second": second, "value": value}
                for side, measure, value in found
            ]
    return rows


def _of_weights(layer: MixtureLayer, first: int, second: int) -> list[tuple[str, str, float]]:
    rows = []
    for number, side in enumerate(layer.adaptation.sides):
        mine = {n: w.detach() for n, w in layer.experts.items() if layer.side_of[n] == number and len(w) > 1}
        if not mine:
            continue
        one, other = (torch.cat([w[n].flatten() for w in mine.values()]) for n in (first, second))
        rows.append((side, "cosine", cosine(one, other)))
        angles = [subspace_angles(_tall(w[first]), _tall(w[second])) for w in mine.values() if w.dim() == 3]
        if angles:
            rows.append((side, "angle", float(torch.cat(angles).rad2deg().mean())))
    return rows


def _tall(matrix: Tensor) -> Tensor:
    # the long way is model width, whichever side it is
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T


@torch.no_grad()
def _cka(layer: MixtureLayer, x: Tensor, first: int, second: int) -> float:
    frozen = layer.base(x)

    def update(expert: int) -> Tensor:
        route = torch.tensor([min(expert, count - 1) for count in layer.counts()], device=x.device)
        return (layer.adaptation.apply(layer.base, x, layer.weights(route), False) - frozen).float()

    return linear_cka(update(first), update(second))


@torch.no_grad()
def site_inputs(mixture: MixtureModel, batch: Batch) -> dict[str, Tensor]:
    """What each site reads in the merged pass, `[tokens, in]`, without padding; in evaluation mode."""
    kept: dict[str, Tensor] = {}
    mask = batch.get("attention_mask")
    handles = [
        layer.register_forward_pre_hook(lambda module, args, path=path: kept.__setitem__(path, args[0]))
        for path, layer in mixture.sites.items()
    ]
    try:
        with evaluating(mixture):
            mixture(**inputs_of(mixture, batch))
    finally:
        for handle in handles:
            handle.remove()
    whole = {path: mask is not None and x.shape[:2] == mask.shape for path, x in kept.items()}
    return {path: x[mask.bool()] if whole[path] else x.flatten(0, -2) for path, x in kept.items()}  # type: ignore[union-attr]
