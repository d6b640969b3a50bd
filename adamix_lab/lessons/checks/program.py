"""Checks of the pieces of a student's own AdaMix (`lessons.program`): each names the cause of the usual mistakes.

What is right is what the library's program, `lessons.my_adamix`, answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamix_lab.core.objective import reference_kl, symmetric_kl
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons import my_adamix
from adamix_lab.lessons.checks import call, judge, number, several, wrong

Piece = Any  # a class or a function of a student
D, R, M = 6, 2, 4  # width, bottleneck, experts of the layers that are asked
WEIGHT = 0.7  # of the consistency, where it is given


def weights_of(layer: Any) -> tuple[Tensor, Tensor]:
    """A `[M, d, r]` and B `[r, d]` of a layer, whichever way round it keeps them."""
    A, B = layer.A.detach(), layer.B.detach()
    return A if A.shape[-2] >= A.shape[-1] else A.mT, B if B.shape[0] <= B.shape[1] else B.T


def randomise(layer: Any, seed: int = 0) -> Any:
    """Draws A and B in float64, sets what else a student's layer has (biases) to zero, and gives the layer back."""
    for name, weight in layer.double().named_parameters(recurse=False):
        drawn = torch.randn(weight.shape, generator=generator_for(seed, len(name), name == "A"), dtype=weight.dtype)
        weight.data = drawn * 0.3 if name in ("A", "B") else torch.zeros_like(weight)
    return layer


def answer(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """What an expert makes of x `[..., d]` (Eq. 4), of weights A `[d, r]` and B `[r, d]`."""
    return x + F.gelu(x @ A) @ B


def wrong_merges(x: Tensor, A: Tensor, B: Tensor) -> dict[str, Tensor]:
    """What x `[..., d]` becomes by the usual wrong merges of A `[M, d, r]` and B `[r, d]`."""
    experts, merged = torch.stack([answer(x, w, B) for w in A]), A.mean(0)
    known = dict(ensemble=experts.mean(0), sum=answer(x, A.sum(0), B), divided=answer(x, merged, B / M))
    return known | dict(one=experts[0], no_residual=answer(x, merged, B) - x)


class Net:
    """Two layers with bends before and between them, and a head: from a batch `[rows, d]` to logits `[rows, 3]`.

    Attributes:
        seen: of each call the layers' experts, and how many rows it had.
    """

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):  # a new layer draws its weights
            self.layers = [randomise(my_adamix.Layer(D, R, M), seed) for seed in (1, 2)]
        self.batch = torch.randn(5, D, generator=generator_for(3), dtype=torch.double)
        self.labels = torch.tensor([0, 2, 1, 1, 0])
        self.head = torch.randn(D, 3, generator=generator_for(4), dtype=torch.double)
        self.seen: list[tuple[list[int | None], int]] = []

    def __call__(self, batch: Tensor) -> Tensor:
        """Logits `[rows, 3]`."""
        self.seen.append(([layer.expert for layer in self.layers], len(batch)))
        x = batch
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x @ self.head

    def along(self, route: Any) -> Tensor:
        """Logits along a route, or of the merge (two times None), `[rows, 3]`."""
        return my_adamix.send(self, self.layers, route, self.batch)  # type: ignore[no-any-return]


# -- lesson 01 --------------------------------------------------------------------------------------------------------


def check_layer(kind: Piece) -> None:
    """Checks the class `Layer(d, r, M)` with parameters A and B and an attribute `expert`."""
    layer = call(kind, D, R, M)
    if not isinstance(layer, nn.Module):
        wrong("Layer(6, 2, 4)", "a torch.nn.Module", type(layer).__name__, "Write class Layer(nn.Module).")
    given = dict(layer.named_parameters(recurse=False))
    for name, shapes in {"A": ([M, D, R], [M, R, D]), "B": ([R, D], [D, R])}.items():
        shape = list(given[name].shape) if name in given else "no parameter of this name"
        if shape not in shapes:
            cause = "The up-projection is shared: there is one." if name == "B" and len(shape) == 3 else ""
            wrong(f"{name} of Layer(d=6, r=2, M=4), an nn.Parameter", shapes[0], shape, cause)
    if not hasattr(layer, "expert") or layer.expert is not None:
        wrong("`expert` of a new layer", None, getattr(layer, "expert", "no such attribute"), "None is the merge.")
    A, _ = weights_of(layer)
    if len(A.unique(dim=0)) == 1:
        raise AssertionError("All experts of a new layer are alike: draw each row of A at random (0.02 * randn).")
    A, B = weights_of(randomise(layer))
    x = torch.randn(3, 5, D, generator=generator_for(5), dtype=torch.double)
    merged, experts = answer(x, A.mean(0), B), [answer(x, w, B) for w in A]
    for expert in (2, 0):
        layer.expert, right, bent = expert, experts[expert], x @ A[expert]
        known = dict(no_residual=right - x, linear=x + bent @ B, relu=x + F.relu(bent) @ B, other=experts[0])
        known["always_merged" if expert else "zero_merged"] = merged
        judge("Layer", f"Expert {expert}", right, call(layer, x), known, "x + gelu(x A) B")
    layer.expert = None
    known, rule = wrong_merges(x, A, B), "x + gelu(x mean(A)) B"
    judge("Layer", "The merge (expert None)", merged, call(layer, x), known, rule)
    judge("Layer", "M of Layer(16), by default", M, len(call(kind, 16).A), {})


def check_random_route(draw: Piece) -> None:
    """Checks `random_route(layers, M=4)`: a list of one expert for each layer."""
    layers = Net().layers * 2

    def many(*experts: int) -> list[Any]:
        return [draw(layers, *experts) for _ in range(300)]

    many.__name__ = "random_route"
    routes = call(many)
    for route in routes:
        listed = route.tolist() if isinstance(route, Tensor) else route
        if not isinstance(listed, list | tuple) or len(listed) != len(layers):
            cause = "A route is for the whole batch: one expert for each layer, not for each row."
            wrong("A route through 4 layers", "4 whole numbers", listed, cause)
        if any(isinstance(expert, bool) or not isinstance(expert, int) for expert in listed):
            wrong("A route through 4 layers", "4 whole numbers", listed, "`.tolist()` makes them of a tensor.")
        if min(listed) < 0 or max(listed) >= M:
            wrong("Experts", "numbers from 0 to 3", listed, "Python counts from 0.")
    drawn = torch.tensor([list(route) for route in routes])
    if (drawn == drawn[0]).all():
        raise AssertionError("300 calls gave one and the same route: draw it anew each time (is a seed set inside?).")
    if (drawn == drawn[:, :1]).all():
        raise AssertionError("All layers take the same expert: draw one for each layer.")
    shares = F.one_hot(drawn, M).double().mean((0, 1))
    if (shares - 1 / M).abs().max() > 0.07:
        wrong("Shares of the 4 experts", "about 0.25 each", [round(share, 2) for share in shares.tolist()])
    if torch.tensor([list(route) for route in call(many, 2)]).max() > 1:
        raise AssertionError("With M = 2 an expert above 1 came: use M.")


# -- lesson 02 --------------------------------------------------------------------------------------------------------


def check_step(step: Piece) -> None:
    """Checks `step(model, layers, batch, labels, optimiser, weight=1.0)`, which returns the loss."""
    same_route = True
    for attempt in range(4):
        net, before = Net(), Net()
        A = [layer.A for layer in net.layers]
        for w in A if attempt else []:  # what a step before has left
            w.grad = torch.ones_like(w)

        def seeded(*arguments: Any, seed: int = attempt) -> Any:
            torch.manual_seed(seed)
            return step(*arguments)

        seeded.__name__ = "step"
        rest, weight = ((WEIGHT,), WEIGHT) if attempt < 3 else ((), 1.0)  # the last goes by the default
        given = (net, net.layers, net.batch, net.labels, torch.optim.SGD(A, lr=1.0), *rest)
        loss = number(call(seeded, *given), "The loss")
        change = torch.stack([(old.A - new).detach() for old, new in zip(before.layers, A, strict=True)])
        first, second = _views(net)
        same_route = same_route and first == second
        _check_loss(before.along(first).detach(), before.along(second).detach(), net.labels, loss, weight)
        _check_change(before, first, second, change, weight)
    if same_route:
        raise AssertionError("Both views took the same route in four steps: draw one for each view.")


def _views(net: Net) -> list[list[int | None]]:
    if any(rows != len(net.batch) for _, rows in net.seen):
        raise AssertionError("The batch was divided: a route is drawn for the whole batch, which passes in one call.")
    if len(net.seen) != 2:
        wrong("Calls of the model in a step", 2, len(net.seen), "Two views of the same batch, a route each.")
    if any(expert is None for route, _ in net.seen for expert in route):
        raise AssertionError("A view met the merge: give each layer its expert (`layer.expert = ...`) before the call.")
    return [route for route, _ in net.seen]


def _check_loss(first: Tensor, second: Tensor, labels: Tensor, came: float, weight: float) -> None:
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    task, other = float(F.cross_entropy(first, labels)), float(F.cross_entropy(second, labels))
    p_q, q_p = (weight * float(F.kl_div(a, b, reduction="batchmean", log_target=True)) for a, b in ((q, p), (p, q)))
    agree = 0.5 * (p_q + q_p)
    terms = dict(no_consistency=0.0, no_weight=agree / weight, no_half=2 * agree)
    terms |= dict(p_q=p_q, q_p=q_p, half_p_q=0.5 * p_q, half_q_p=0.5 * q_p)
    terms |= dict(by_class=agree / first.shape[-1], row_sum=agree * len(labels))
    known = {name: task + term for name, term in terms.items()}
    known |= dict(mean_task=(task + other) / 2 + agree, both_tasks=task + other + agree, second_task=other + agree)
    judge("step_loss", "The loss", task + agree, came, known, tolerance=1e-5)


def _check_change(net: Net, first: Any, second: Any, came: Tensor, weight: float) -> None:
    def gradient(distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        one, two = net.along(first), net.along(second)
        loss = F.cross_entropy(one, net.labels) + weight * distance(one, two)
        return torch.stack(torch.autograd.grad(loss, [layer.A for layer in net.layers]))

    right = gradient(reference_kl)
    distances: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "none_held": symmetric_kl,
        "all_held": lambda one, two: 0 * one.sum(),
        "second_still": lambda one, two: reference_kl(one, two.detach()),
        "first_still": lambda one, two: reference_kl(one.detach(), two),
        "wrong_side": lambda one, two: symmetric_kl(one, two) - reference_kl(one, two),
        "second_detached": lambda one, two: symmetric_kl(one, two.detach()),
        "first_detached": lambda one, two: symmetric_kl(one.detach(), two),
    }
    known = dict(nothing=torch.zeros_like(came), left=right + 1)
    known |= {name: gradient(distance) for name, distance in distances.items()}
    judge("step_change", "The change of the weights", right, came, known, "the gradient of Eq. 5")


# -- lessons 03 to 06 -------------------------------------------------------------------------------------------------


def check_merge_layer(merge_layer: Piece) -> None:
    """Checks `merge_layer(layer)`: a layer with one expert, the average; the given one stays as it is."""
    net = Net()
    layer, x = net.layers[0], net.batch
    A, B = (weight.clone() for weight in weights_of(layer))
    merged = call(merge_layer, layer)
    if not torch.equal(layer.A, A) or not torch.equal(layer.B, B):
        raise AssertionError("The layer that was given has changed: merge a copy (`copy.deepcopy(layer)`).")
    if not isinstance(merged, nn.Module):
        wrong("merge_layer(layer)", "a layer", type(merged).__name__, "Give back a layer, not its weights or answers.")
    right, known, rule = answer(x, A.mean(0), B), wrong_merges(x, A, B), "x + gelu(x mean(A)) B"
    judge("merge_layer", "The merged layer", right, call(merged, x), known, rule)
    left = list(getattr(merged, "A", torch.zeros(())).shape)
    if left != [1, D, R]:
        wrong("A of the merged layer", [1, D, R], left, "One expert is left: `mean(0, keepdim=True)`.")


@torch.no_grad()
def check_ensemble(ensemble: Piece) -> None:
    """Checks `ensemble(model, layers, batch)`: probabilities `[rows, classes]`, the mean over all routes (Eq. 7)."""
    net = Net()
    logits = torch.stack([net.along(route) for route in product(range(M), repeat=2)])
    p, merged = logits.softmax(-1), net.along([None, None]).softmax(-1)
    known = dict(of_logits=logits.mean(0).softmax(-1), logits=logits.mean(0), merge=merged, sum=p.sum(0))
    known["fixed"] = p[:: M + 1].mean(0)  # one expert everywhere
    came = call(ensemble, net, net.layers, net.batch)
    judge("ensemble", "The ensemble", p.mean(0), came, known, "the mean of 16 routes' probabilities")


def check_line(line: Piece) -> None:
    """Checks `line(model, layers, batch, labels, first, second, points=11)`: losses, and the weights stay."""
    net = Net()

    def losses(layers: Any, points: int) -> Tensor:
        return torch.tensor(my_adamix.line(net, layers, net.batch, net.labels, 1, 3, points))

    right, one_layer = losses(net.layers, 5), losses(net.layers[:1], 5)
    came = call(line, net, net.layers, net.batch, net.labels, 1, 3, 5)
    if any(not torch.equal(layer.A, before.A) for layer, before in zip(net.layers, Net().layers, strict=True)):
        raise AssertionError("The layers' weights have changed: put them back behind the last point.")
    known = dict(between=torch.lerp(right[0], right[-1], torch.linspace(0, 1, 5)), turned=right.flip(0))
    known |= dict(no_end=losses(net.layers, 6)[:-1], one_layer=one_layer)
    judge("line", "The losses", right, came, known, "of weights (1 - t) first + t second")
    came = call(line, net, net.layers, net.batch, net.labels, 1, 3)
    judge("line", "The losses where no number of points is given", losses(net.layers, 11), came, {}, "11 of them")


def check_doubt(doubt: Piece) -> None:
    """Checks `doubt(p)` for p `[routes, rows, classes]`: entropy of the mean and mutual information, `[rows]` each."""
    p = torch.randn(7, 4, 3, generator=generator_for(6), dtype=torch.double).mul(2).softmax(-1)
    total, between = my_adamix.doubt(p)
    within = total - between
    first, second = several(call(doubt, p), 2, "two tensors of 4 rows")
    known = dict(within=within, bits=total / torch.log(torch.tensor(2.0)), no_rows=total.mean(), no_sign=-total)
    judge("doubt_total", "The first", total, first, known, "the entropy of the mean over routes")
    known = dict(turned=-between, within=within, total=total)
    judge("doubt_between", "The second", between, second, known, "mutual information of answer and route")


# the lesson that asks for a piece, and its check
STAGES: Mapping[str, tuple[str, Callable[[Piece], None]]] = {
    "Layer": ("01", check_layer),
    "random_route": ("01", check_random_route),
    "step": ("02", check_step),
    "merge_layer": ("03", check_merge_layer),
    "ensemble": ("04", check_ensemble),
    "line": ("05", check_line),
    "doubt": ("06", check_doubt),
}
