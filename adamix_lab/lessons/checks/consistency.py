"""Lesson 02: the consistency loss, its value and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adamix_lab.core.objective import reference_kl, symmetric_kl
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, close, compare, match, number, passed, wrong

Loss = Callable[[Tensor, Tensor], Tensor]


def check_consistency(loss: Loss) -> None:
    """Checks `loss(a, b)` of logits `[rows, classes]`: half of KL(p || q) + KL(q || p), mean over rows."""
    for rows, classes in ((5, 3), (8, 2), (1, 4)):
        generator = generator_for(rows, classes)
        a, b = (torch.randn(rows, classes, generator=generator) for _ in range(2))
        came = number(call(loss, a, b), "The loss")
        expected, there, back = float(symmetric_kl(a, b)), _kl(a, b), _kl(b, a)
        over_batch = 0.5 * (_kl(a.mT, b.mT) + _kl(b.mT, a.mT))
        by_rows, squared = over_batch * classes / rows, float((a - b).square().mean())
        compare(
            f"The loss of {rows} rows and {classes} classes",
            expected,
            came,
            {
                "That is the sum of both directions: Eq. 5 takes half of it.": there + back,
                "That is KL(p || q) alone: the other direction is missing.": there,
                "That is KL(q || p) alone: the other direction is missing.": back,
                "That is the sum over rows: take the mean over rows.": rows * expected,
                "That is the mean over rows and classes (reduction='mean'): divide by the rows only.": expected
                / classes,
                "The softmax ran over the batch: each row must sum to 1 (dim=-1).": over_batch,
                "The softmax ran over the batch (dim=0), then the sum was divided by the rows.": by_rows,
                "That is the squared distance of the logits: a constant added to them changes no answer.": squared,
            },
        )
        shifted = number(call(loss, a, a + 3.0), "The loss")
        if not close(shifted, 0.0):
            wrong("The loss of logits and the same logits plus 3", 0.0, shifted,
                  "A constant added to a row's logits changes no probability: is the softmax missing?")  # fmt: skip
    passed("check_consistency")


def check_gradient(loss: Loss) -> None:
    """Checks that the gradient on the first logits is `0.5 * (p - q) / rows`, targets fixed as in the reference."""
    generator = generator_for(7)
    a, b = (torch.randn(6, 3, generator=generator) for _ in range(2))
    expected, symmetric = _gradient(reference_kl, a, b), _gradient(symmetric_kl, a, b)
    if not close(number(call(loss, a, b), "The loss"), float(reference_kl(a, b))):
        wrong(
            "The value", float(reference_kl(a, b)), number(loss(a, b), "The loss"), "Check it with check_consistency."
        )
    came = _gradient(lambda x, y: call(loss, x, y), a, b)
    mistakes = {
        "Gradients flow through both sides: the reference detaches the target of each KL.": symmetric,
        "No gradient reaches the first logits: was everything detached?": torch.zeros_like(came),
        "Twice too large: the half is missing.": 2 * expected,
    }
    match("The gradient on the first logits", "0.5 * (p - q) / rows", expected, came, mistakes)
    passed("check_gradient")


def _kl(a: Tensor, b: Tensor) -> float:
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def _gradient(loss: Loss, a: Tensor, b: Tensor) -> Tensor:
    first, second = a.clone().requires_grad_(), b.clone().requires_grad_()
    value = loss(first, second)
    if not isinstance(value, Tensor) or not value.requires_grad:
        return torch.zeros_like(a)
    (gradient,) = torch.autograd.grad(value, [first], allow_unused=True)
    return torch.zeros_like(a) if gradient is None else gradient
