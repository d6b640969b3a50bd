"""Merging: from M experts to one module a site (Eq. 6), and soups at other points of the simplex.

A soup is a mixture point: coefficients `[sites, sides, M]`. `merge` makes the model of such a point, by default of the
barycentre; `weighted` gives others. Last, how far results may be apart that should be equal.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.errors import LabError
from adamix_lab.core.mixture import MixtureLayer, base_parameters, noting
from adamix_lab.core.routing import RouteSpace
from adamix_lab.core.sites import READ_MARK
from adamix_lab.core.views import Batch, Mixture

M = TypeVar("M", bound=Mixture)


def merge(mixture: M, point: Tensor | None = None, dtype: torch.dtype | None = None) -> M:
    """A model with one expert a site: the effective weights at a point or a route (None: the barycentre).

    Each weight is averaged by itself (the mean of down, the mean of up); a shared one is taken as it is. Of a model
    with several tasks' experts the current one's are merged. The frozen weights lie in `mixture`'s memory, under
    parameters of their own; the head is copied.

    point: a mixture point `[sites, sides, M]`, or a route `[sites, sides]`.
    dtype: of the merged weights, rounded after averaging; None keeps float32. A base answers fastest with its own.

    Raises ValueError for several points or routes, and for weights by site.

    >>> merge(mixture).space.experts
    1
    """
    shared: dict[int, Tensor] = {id(b): b for b in mixture.model.buffers()}
    shared |= {id(p): _same_storage(p) for p in mixture.model.parameters() if not p.requires_grad}
    merged = copy.deepcopy(mixture, shared)
    merged.mixture = replace(mixture.mixture, experts=1, share=())
    for path, weights in _weights_at(mixture, point).items():
        experts = {name: w.detach().to(dtype or w.dtype, copy=True) for name, w in weights.items()}
        merged.sites[path].experts = nn.ParameterDict({name: nn.Parameter(w[None]) for name, w in experts.items()})
    merged._tasks = {merged.task: merged._owned()}
    return merged


def _same_storage(parameter: nn.Parameter) -> nn.Parameter:
    # `detach` sets requires_grad on the merged model's own, and so leaves the mixture's alone
    twin = copy.copy(parameter)
    twin.__class__ = type(parameter)  # a copy of a quantised kind may come back as a plain parameter
    return twin


def _weights_at(mixture: Mixture, point: Tensor | None) -> dict[str, dict[str, Tensor]]:
    if point is not None and not isinstance(point, Tensor):
        raise LabError(f"A {type(point).__name__} cannot be merged: expected a point or a route. Give a tensor.")
    if point is not None and point.dim() != (3 if point.is_floating_point() else 2):
        raise LabError(
            f"Shape {list(point.shape)} cannot be merged: expected one point [sites, sides, M] or one route "
            f"[sites, sides], with [sites, sides] = {list(mixture.space.shape)}. Merge several one by one."
        )
    sites = zip(mixture.sites.items(), mixture.selections(point), strict=True)
    return {path: layer.weights(here) for (path, layer), here in sites}  # type: ignore[arg-type]


def weighted(space: RouteSpace, weights: Sequence[float]) -> Tensor:
    """The same M coefficients at every site and side. Raises ValueError unless they lie on the simplex."""
    if len(weights) != space.experts:
        raise LabError(f"{len(weights)} weights were given: expected {space.experts}, one an expert.")
    point = torch.tensor([float(w) for w in weights])
    if not (point >= 0).all() or abs(float(point.sum()) - 1) > 1e-4:
        raise LabError(f"Weights {list(weights)} are no mixture: expected numbers of at least 0 that sum to 1.")
    return point.expand(*space.shape, -1).clone()


def stack_experts(singles: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Trained tensors of M single modules, experts `[1, ...]` each, as those of one mixture; heads are averaged."""
    together = {name: [single[name] for single in singles] for name in singles[0]}
    return {n: torch.cat(t) if n.startswith("experts.") else torch.stack(t).mean(0) for n, t in together.items()}


def fold(mixture: Mixture, point: Tensor | None = None) -> nn.Module:
    """A plain copy of the base model whose own weights give the adapted output: nothing of ours is left in it.

    Raises ValueError for adaptations without `fold` (bottleneck is not linear), and names tied or quantised weights.

    >>> plain = fold(attach(model, LoRA(4), share="B"))
    >>> type(plain) is type(model), any("lora" in name.lower() for name, _ in plain.named_modules())
    (True, False)
    """
    uses: dict[int, list[str]] = {}
    for name, parameter in mixture.model.named_parameters(remove_duplicate=False):
        uses.setdefault(id(parameter), []).append(name)
    folded: dict[str, nn.Module] = {}
    for path, weights in _weights_at(mixture, point).items():
        layer = mixture.sites[path]
        if not layer.weight.is_floating_point():
            raise LabError(f"{path} is quantised ({layer.weight.dtype}): expected floats. Export a merged adapter.")
        if len(names := uses[id(layer.weight)]) > 1:
            raise LabError(f"{path} is tied ({', '.join(names)}): expected a weight alone. Export a merged adapter.")
        folded[path] = _folded_layer(layer, weights)
    kept = {id(t): t for t in [*mixture.model.parameters(), *mixture.model.buffers()] if not t.requires_grad}
    plain = copy.deepcopy(mixture.model, kept)
    for path, module in folded.items():
        plain.set_submodule(path, module.train(mixture.training))
    for path, module in mixture.head.items():
        plain.set_submodule(path, copy.deepcopy(module))
    marks = {name: getattr(parameter, READ_MARK, False) for name, parameter in base_parameters(mixture.model)}
    for name, parameter in plain.named_parameters():  # a copy of a tensor loses them
        setattr(parameter, READ_MARK, marks.get(name, any(marks.values())))
    mixture.restore(plain)
    return plain


@torch.no_grad()
def _folded_layer(layer: MixtureLayer, weights: dict[str, Tensor]) -> nn.Module:
    transposed = hasattr(layer.base, "nf")  # Conv1D holds [in, out]
    weight = layer.weight.detach().float()
    bias = None if layer.bias is None else layer.bias.detach().float()
    new, new_bias = layer.adaptation.fold(weights, weight.mT if transposed else weight, bias)
    plain = copy.deepcopy(layer.base)
    new = (new.mT if transposed else new).to(layer.weight.dtype).contiguous()
    plain.weight = nn.Parameter(new, requires_grad=False)
    if new_bias is not None:
        plain.bias = nn.Parameter(new_bias.to(layer.weight.dtype), requires_grad=False)
    return plain


@torch.no_grad()
def merge_gap(mixture: Mixture, batch: Batch, limit: int = 256) -> dict[str, float]:
    """How far each site's merged output is from the expected output over its routes, on the site's own inputs.

    `|f(mean weights) - mean over routes f(weights)| / |mean over routes f(weights) - frozen output|`, Frobenius
    norms, in the merged pass. It is 0 where the output is linear in what is mixed: for IA3 and bias, for LoRA
    with a shared side or independent sides, for a bottleneck whose down side is shared; not for other bottlenecks, nor
    for LoRA with tied sides (the mean of products is no product of means).

    Returns the ratio by site. Raises ValueError where a site has more than `limit` routes.

    >>> gaps = merge_gap(mixture, batch)
    >>> sorted(gaps) == sorted(mixture.sites)
    True
    """
    with noting(mixture.sites) as called:
        mixture(selection="merge", **{name: value for name, value in batch.items() if name != "labels"})
    tied = mixture.mixture.tied
    return {path: _gap(layer, called[path][0][0], limit, tied) for path, layer in mixture.sites.items()}


def _gap(layer: MixtureLayer, x: Tensor, limit: int, tied: bool) -> float:
    frozen = layer.base(x).float()

    def update(selection: Tensor | None) -> Tensor:  # exactly 0 where nothing is changed, as a mean of outputs is not
        return layer.adaptation.apply(layer.base, x, layer.weights(selection), False).float() - frozen

    routes = RouteSpace((layer.counts(),), tied).enumerate(limit)[:, 0].to(x.device)
    expected = torch.stack([update(route) for route in routes]).mean(0)
    gap, size = (update(None) - expected).norm(), expected.norm()
    return float(gap / size) if size > 0 else 0.0


# -- merging LoRA experts that belong in pairs: the mean of products, which is no product of means --
# Tied experts (imported, trained apart) change the frozen weight by `(alpha / r) B_i A_i`. Their mean is the LoRA of
# rank M r whose A is the A_i stacked and whose B is the B_i side by side over M. `merge` would take `mean(B) mean(A)`
# instead: with four random pairs, a quarter of the update is left and the rest is cross terms between strangers.


def merge_products(mixture: M) -> M:
    """A model with one LoRA a site, of rank M r, whose product is the mean of the experts' products, exactly.

    mixture: LoRA; a shared side belongs to every pair.

    Raises ValueError for another adaptation, or for sides that are unshared and not tied: they have no pairs.

    >>> merge_products(attach(model, LoRA(4), share="B")).space.experts
    1
    """
    config, adaptation = mixture.mixture, mixture.mixture.adaptation
    if not isinstance(adaptation, LoRA):
        raise LabError(f"merge_products multiplies B and A: expected LoRA, got {adaptation.kind}. Use merge.")
    if mixture.space.experts > 1 and not config.tied and not config.share:
        raise LabError(
            "The sides are routed independently, so that no A belongs to a B: expected tied experts or a shared side. "
            "The mean of products over all pairs is what merge gives, exactly."
        )
    rank = mixture.space.experts * adaptation.rank
    changed = replace(adaptation, rank=rank, alpha=adaptation.scale * rank)  # alpha / r stays
    merged = merge(mixture)
    merged.mixture = replace(merged.mixture, adaptation=changed, tied=False)
    for path, layer in mixture.sites.items():
        experts = {name: nn.Parameter(w[None]) for name, w in _site(layer, adaptation).items()}
        merged.sites[path].adaptation = changed
        merged.sites[path].experts = nn.ParameterDict(experts)
    merged._tasks = {merged.task: merged._owned()}
    return merged


@torch.no_grad()
def _site(layer: MixtureLayer, adaptation: LoRA) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for name, _, _ in adaptation.ranges(layer.out_features):
        a, b = layer.experts[f"A{name}"], layer.experts[f"B{name}"]  # [M, r, in], [M, out, r]; 1 where shared
        experts = max(len(a), len(b))
        a, b = a.expand(experts, -1, -1), b.expand(experts, -1, -1)
        made[f"A{name}"], made[f"B{name}"] = a.flatten(0, 1).clone(), b.permute(1, 0, 2).flatten(1) / experts
    return made


# -- how far two floating-point results may be apart: relative to the largest value compared, and to the dtype --

# What a function may differ by when its sums run in another order (another program, batch, or processor), as a share of
# the largest value: some eighty roundings of float32, twenty of float16 and of bfloat16 (products summed in float32).
REORDERED = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def relative_difference(found: Any, expected: Any) -> float:
    """The largest |found - expected| over the largest |expected| (or over 1 where that is 0).

    found, expected: tensors of one shape, numbers, or lists of numbers; raises ValueError for two shapes. Equal
    values give 0, a NaN on one side only infinity.

    >>> relative_difference(torch.tensor([0.0, 10.1]), torch.tensor([0.0, 10.0])) < 0.011
    True
    """
    a, b = (torch.as_tensor(value, dtype=torch.double).detach().cpu() for value in (found, expected))
    if a.shape != b.shape:
        raise LabError(f"Results of shapes {list(a.shape)} and {list(b.shape)}: expected equal shapes to compare.")
    if not a.numel():
        return 0.0
    difference = torch.where(a == b, 0.0, (a - b).abs())  # equal infinities are no difference
    difference = torch.where(a.isnan() & b.isnan(), 0.0, difference)
    largest = float(torch.where(b.isfinite(), b.abs(), 0.0).max())
    worst = float(difference.max()) if not bool(difference.isnan().any()) else math.inf
    return worst / (largest or 1.0)
