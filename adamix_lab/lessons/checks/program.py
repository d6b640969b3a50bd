"""Checks of the pieces of a student's own AdaMix (`lessons.program`): each names the cause of the usual mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamix_lab.core.objective import reference_kl, symmetric_kl
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, compare, match, number, several, wrong

Piece = Any  # a class or a function of a student
D, R, M = 6, 2, 4  # width, bottleneck, experts of the layers that are asked
WEIGHT = 0.7  # of the consistency


def weights_of(layer: Any) -> tuple[Tensor, Tensor]:
    """A `[M, d, r]` and B `[r, d]` of a layer, whichever way round it keeps them."""
    A, B = layer.A.detach(), layer.B.detach()
    return A if A.shape[-2] >= A.shape[-1] else A.mT, B if B.shape[0] <= B.shape[1] else B.T


def randomise(layer: Any, seed: int = 0) -> None:
    """Draws A and B, and sets what else a student's layer has (biases) to zero."""
    for name, weight in layer.named_parameters(recurse=False):
        drawn = torch.randn(weight.shape, generator=generator_for(seed, len(name), name == "A"), dtype=weight.dtype)
        weight.data = drawn * 0.3 if name in ("A", "B") else torch.zeros_like(weight)


def answer(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """What an expert makes of x `[..., d]` (Eq. 4), of weights A `[d, r]` and B `[r, d]`."""
    return x + F.gelu(x @ A) @ B


class Plain(nn.Module):
    """The layer that the checks use: A `[M, d, r]`, B `[r, d]`, and the expert."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.A, self.B = (nn.Parameter(torch.zeros(shape, dtype=torch.double)) for shape in ((M, D, R), (R, D)))
        self.expert: int | None = None
        randomise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        """From `[..., d]` to `[..., d]`."""
        return answer(x, self.A.mean(0) if self.expert is None else self.A[self.expert], self.B)


class Net:
    """Two layers with bends before and between them, and a head: from a batch `[rows, d]` to logits `[rows, 3]`.

    Attributes:
        seen: of each call the layers' experts, and how many rows it had.
    """

    def __init__(self) -> None:
        self.layers = [Plain(1), Plain(2)]
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
        """Logits along a route, or of the merge (None), `[rows, 3]`."""
        for n, layer in enumerate(self.layers):
            layer.expert = None if route is None else route[n]
        logits = self(self.batch)
        for layer in self.layers:
            layer.expert = None
        return logits


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
    layer.double()
    randomise(layer)
    A, B = weights_of(layer)
    x = torch.randn(3, 5, D, generator=generator_for(5), dtype=torch.double)
    merged, experts = answer(x, A.mean(0), B), [answer(x, w, B) for w in A]
    for expert in (2, 0):
        layer.expert, right = expert, experts[expert]
        mistakes = {
            "x is missing: the layer adds to what it is given (the residual).": right - x,
            "That is the merge: is `self.expert` used?": merged,
            "The projection is linear here: f is missing, a GELU.": x + x @ A[expert] @ B,
            "f is a ReLU here: the library's is a GELU.": x + F.relu(x @ A[expert]) @ B,
            "That is another expert.": experts[0],
        }
        if expert == 0:
            mistakes["That is the merge: expert 0 counts as false. Write `is None`."] = mistakes.pop(
                "That is the merge: is `self.expert` used?"
            )
        match(f"Expert {expert}", "x + gelu(x A) B", right, call(layer, x).detach(), mistakes)
    layer.expert = None
    mistakes = {
        "That is the mean of the experts' answers, the ensemble, and runs each: average their weights, run once.":
            torch.stack(experts).mean(0),
        "x is missing: the layer adds to what it is given (the residual).": merged - x,
        "The shared up-projection was divided by M, too: there is one, so it stays.": answer(x, A.mean(0), B / M),
        "The experts were added up: take the mean.": answer(x, A.sum(0), B),
        "That is one expert: None is the mean of all.": experts[0],
    }  # fmt: skip
    match("The merge (expert None)", "x + gelu(x mean(A)) B", merged, call(layer, x).detach(), mistakes)


def check_random_route(draw: Piece) -> None:
    """Checks `random_route(layers, M=4)`: a list of one expert for each layer."""
    layers = Net().layers * 2

    def many(experts: int, times: int = 300) -> list[Any]:
        return [draw(layers, experts) for _ in range(times)]

    many.__name__ = "random_route"
    routes = call(many, M)
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
        net = Net()
        A = [layer.A for layer in net.layers]
        before = torch.stack([w.detach().clone() for w in A])
        for w in A if attempt else []:  # what a step before has left
            w.grad = torch.ones_like(w)

        def seeded(*arguments: Any, seed: int = attempt) -> Any:
            torch.manual_seed(seed)
            return step(*arguments)

        seeded.__name__ = "step"
        given = (net, net.layers, net.batch, net.labels, torch.optim.SGD(A, lr=1.0), WEIGHT)
        loss, change = number(call(seeded, *given), "The loss"), before - torch.stack([w.detach() for w in A])
        first, second = _views(net)
        same_route = same_route and first == second
        for w, start in zip(A, before, strict=True):
            w.data = start.clone()
        _check_loss(net.along(first), net.along(second), net.labels, loss)
        _check_change(net, first, second, change)
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


def _check_loss(first: Tensor, second: Tensor, labels: Tensor, came: float) -> None:
    first, second = first.detach(), second.detach()
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    task, other = float(F.cross_entropy(first, labels)), float(F.cross_entropy(second, labels))
    p_from_q, q_from_p = (float(F.kl_div(a, b, reduction="batchmean", log_target=True)) for a, b in ((q, p), (p, q)))
    agree = WEIGHT * 0.5 * (p_from_q + q_from_p)
    one = "of the KL divergence came: half of both directions is meant, ½ [KL(p‖q) + KL(q‖p)]."
    mistakes = {
        "The consistency is missing.": task,
        "`weight` is not used.": task + agree / WEIGHT,
        "The ½ before the two KL divergences is missing.": task + 2 * agree,
        f"One direction, KL(p‖q), {one}": task + WEIGHT * p_from_q,
        f"One direction, KL(q‖p), {one}": task + WEIGHT * q_from_p,
        f"Half of one direction, KL(p‖q), {one}": task + WEIGHT * 0.5 * p_from_q,
        f"Half of one direction, KL(q‖p), {one}": task + WEIGHT * 0.5 * q_from_p,
        'Sum over classes, mean over rows: reduction="batchmean".': task + agree / first.shape[-1],
        "The consistency is a sum over rows: take their mean.": task + agree * len(labels),
        "The cross-entropy is of both views: Eq. 5 takes it of the first.": (task + other) / 2 + agree,
        "The cross-entropies of both views are added: Eq. 5 takes that of the first.": task + other + agree,
        "The cross-entropy is of the second view: Eq. 5 takes it of the first.": other + agree,
    }
    compare("The loss", task + agree, came, mistakes, 1e-5)


def _check_change(net: Net, *arguments: Any) -> None:
    first, second, came = arguments

    def gradient(distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        one, two = net.along(first), net.along(second)
        loss = F.cross_entropy(one, net.labels) + WEIGHT * distance(one, two)
        return torch.stack(torch.autograd.grad(loss, [layer.A for layer in net.layers]))

    right, held = gradient(reference_kl), "is detached in both terms: each term holds its own target, the other moves."
    still = "view never moves: in each KL divergence the target is held and the other moves."
    mistakes = {
        "Nothing changed: `loss.backward()`, then `optimiser.step()`.": torch.zeros_like(came),
        "The gradients of the step before are in it: `optimiser.zero_grad()` comes before backward().": right + 1,
        "No target is held fixed: `.detach()` the target of each KL divergence.": gradient(symmetric_kl),
        "Nothing pulls the views together: both sides are detached.": gradient(lambda one, two: 0 * one.sum()),
        f"The second {still}": gradient(lambda one, two: reference_kl(one, two.detach())),
        f"The first {still}": gradient(lambda one, two: reference_kl(one.detach(), two)),
        "The wrong side is held: in KL(q‖p) the target is q, the first of the two.": gradient(
            lambda one, two: symmetric_kl(one, two) - reference_kl(one, two)
        ),
        f"The second view {held}": gradient(lambda one, two: symmetric_kl(one, two.detach())),
        f"The first view {held}": gradient(lambda one, two: symmetric_kl(one.detach(), two)),
    }
    match("The change of the weights", "the gradient of Eq. 5", right, came, mistakes)


# -- lessons 03 to 06 -------------------------------------------------------------------------------------------------


def check_merge_layer(merge_layer: Piece) -> None:
    """Checks `merge_layer(layer)`: a layer with one expert, the average; the given one stays as it is."""
    layer, x = Plain(), Net().batch
    A, B = (weight.detach().clone() for weight in weights_of(layer))
    merged = call(merge_layer, layer)
    if not torch.equal(layer.A, A) or not torch.equal(layer.B, B):
        raise AssertionError("The layer that was given has changed: merge a copy (`copy.deepcopy(layer)`).")
    if not isinstance(merged, nn.Module):
        wrong("merge_layer(layer)", "a layer", type(merged).__name__, "Give back a layer, not its weights or answers.")
    mistakes = {
        "That is the mean of the experts' answers, the ensemble: average their weights.":
            torch.stack([answer(x, w, B) for w in A]).mean(0),
        "The experts were added up: take the mean.": answer(x, A.sum(0), B),
        "The shared up-projection was divided, too: there is one, so it stays.": answer(x, A.mean(0), B / M),
        "That is one of the experts: the merge is the mean of all.": answer(x, A[0], B),
        "x is missing: the layer adds to what it is given (the residual).": answer(x, A.mean(0), B) - x,
    }  # fmt: skip
    match("The merged layer", "x + gelu(x mean(A)) B", answer(x, A.mean(0), B), call(merged, x).detach(), mistakes)
    left = list(getattr(merged, "A", torch.zeros(())).shape)
    if left != [1, D, R]:
        wrong("A of the merged layer", [1, D, R], left, "One expert is left: `mean(0, keepdim=True)`.")


def check_ensemble(ensemble: Piece) -> None:
    """Checks `ensemble(model, layers, batch)`: probabilities `[rows, classes]`, the mean over all routes (Eq. 7)."""
    net = Net()
    with torch.no_grad():
        logits = {route: net.along(route) for route in product(range(M), repeat=2)}
        every, fixed = torch.stack([*logits.values()]), torch.stack([logits[n, n] for n in range(M)])
        merged, right = net.along(None).softmax(-1), every.softmax(-1).mean(0)
        mistakes = {
            "That is the softmax of the mean of logits: Eq. 7 averages probabilities.": every.mean(0).softmax(-1),
            "Logits were averaged: Eq. 7 averages probabilities.": every.mean(0),
            "That is the merge: it averages weights, the ensemble averages answers.": merged,
            "Only routes with one expert everywhere are in it: the layers' experts combine, 16 routes.":
                fixed.softmax(-1).mean(0),
            "The probabilities are added up: take the mean.": every.softmax(-1).sum(0),
        }  # fmt: skip
        came = call(ensemble, net, net.layers, net.batch)
    match("The ensemble", "the mean of 16 routes' probabilities", right, came.detach(), mistakes)


def check_line(line: Piece) -> None:
    """Checks `line(model, layers, batch, labels, first, second, points=11)`: losses, and the weights stay."""
    net, points = Net(), 5
    kept = [layer.A.detach().clone() for layer in net.layers]

    def losses(moving: int, shares: list[float], first: int = 1, second: int = 3) -> Tensor:
        found = []
        for t in shares:
            for layer, A in list(zip(net.layers, kept, strict=True))[:moving]:
                layer.A.data = ((1 - t) * A[first] + t * A[second]).expand_as(A).clone()
            found.append(F.cross_entropy(net.along(None), net.labels).detach())
            for layer, A in zip(net.layers, kept, strict=True):
                layer.A.data = A.clone()
        return torch.stack(found)

    shares = torch.linspace(0, 1, points).tolist()
    right = losses(2, shares)
    came = call(line, net, net.layers, net.batch, net.labels, 1, 3, points)
    if any(not torch.equal(layer.A, A) for layer, A in zip(net.layers, kept, strict=True)):
        raise AssertionError("The layers' weights have changed: put them back behind the last point.")
    mistakes = {
        "That is the straight line between the two losses: average the weights, then ask the model.":
            torch.lerp(right[0], right[-1], torch.tensor(shares, dtype=right.dtype)),
        "It runs the other way: it begins at `first`.": right.flip(0),
        "The last point is missing: torch.linspace(0, 1, points) has both ends.":
            losses(2, [n / points for n in range(points)]),
        "One layer moves alone: all layers go from one expert to the other.": losses(1, shares),
    }  # fmt: skip
    match("The losses", "of weights (1 - t) first + t second", right, torch.as_tensor(came).double(), mistakes)


def check_doubt(doubt: Piece) -> None:
    """Checks `doubt(p)` for p `[routes, rows, classes]`: entropy of the mean and mutual information, `[rows]` each."""
    p = torch.randn(7, 4, 3, generator=generator_for(6), dtype=torch.double).mul(2).softmax(-1)
    total, within = torch.special.entr(p.mean(0)).sum(-1), torch.special.entr(p).sum(-1).mean(0)
    entropy, mutual = (torch.as_tensor(part).double() for part in several(call(doubt, p), 2, "two tensors of 4 rows"))
    bits, mean = "Use the natural logarithm (nats).", "Keep the rows: the mean is over routes alone."
    mistakes = {
        "That is the mean of the routes' entropies: first average the probabilities.": within,
        bits: total / torch.log(torch.tensor(2.0)), mean: total.mean(), "The sign is missing: -sum p log p.": -total,
    }  # fmt: skip
    match("The first", "the entropy of the mean over routes", total, entropy, mistakes)
    mistakes = {
        "The sign is turned: it is the entropy of the mean less the mean entropy.": within - total,
        "That is the mean of the routes' entropies: subtract it from the entropy of the mean.": within,
        "That is the entropy of the mean: subtract the mean of the routes' entropies.": total,
    }
    match("The second", "mutual information of answer and route", total - within, mutual, mistakes)


CHECKS: Mapping[str, Callable[[Piece], None]] = {
    "Layer": check_layer,
    "random_route": check_random_route,
    "step": check_step,
    "merge_layer": check_merge_layer,
    "ensemble": check_ensemble,
    "line": check_line,
    "doubt": check_doubt,
}
