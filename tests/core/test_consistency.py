"""Consistency losses: values, gradients, masks."""

import close
import pytest
import torch
import torch.nn.functional as F

from adamix_lab.core.objective import DISTANCES, mean_squared_difference, reference_kl, symmetric_kl

ROWS, CLASSES = 5, 4
KL = [name for name in DISTANCES if name != "mse"]


def pair(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = shape or (ROWS, CLASSES)
    return [(torch.randn(*shape, generator=generator) * scale).requires_grad_() for _ in range(2)]


def kl(p, q):
    """KL(p || q) of rows, by hand."""
    return (p * (p.log() - q.log())).sum(-1)


def test_reference_gradient_golden():
    """0.5 * (p - q) / B on the first logits, its negative on the second."""
    a, b = pair()
    reference_kl(a, b).backward()
    expected = 0.5 * (a.softmax(-1) - b.softmax(-1)).detach() / ROWS
    close.assert_close(a.grad, expected)
    close.assert_close(b.grad, -expected)


def test_reference_value_is_the_symmetric_one():
    a, b = pair()
    p, q = a.softmax(-1), b.softmax(-1)
    by_hand = 0.5 * (kl(p, q) + kl(q, p)).mean()
    close.assert_close(reference_kl(a, b), by_hand)
    close.assert_close(symmetric_kl(a, b), by_hand)


def test_symmetric_gradient_goes_through_both_sides():
    a, b = pair()
    symmetric_kl(a, b).backward()
    true_a, true_b = pair()
    p, q = true_a.softmax(-1), true_b.softmax(-1)
    (0.5 * (kl(p, q) + kl(q, p)).mean()).backward()
    close.assert_close(a.grad, true_a.grad)
    close.assert_close(b.grad, true_b.grad)
    detached, other = pair()
    reference_kl(detached, other).backward()
    assert detached.grad.norm() == pytest.approx(float(a.grad.norm()) / 2, rel=0.4)  # about half of it
    assert F.cosine_similarity(detached.grad.flatten(), a.grad.flatten(), 0) > 0.9


def test_squared():
    a, b = pair(ROWS, 1)
    close.assert_close(mean_squared_difference(a, b), ((a - b) ** 2).mean())
    mean_squared_difference(a, b).backward()
    close.assert_close(a.grad, (2 * (a - b) / ROWS).detach())


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_views_agree(name):
    a, _ = pair()
    distance = DISTANCES[name](a, a.detach().clone(), None)
    close.assert_close(distance, 0.0, close.ROUNDED, scale=1.0)  # a row's terms p log p are at most 1 / e
    distance.backward()
    close.assert_close(a.grad, torch.zeros_like(a), close.ROUNDED, scale=1 / ROWS)  # made of p / rows


@pytest.mark.parametrize("name", DISTANCES)
def test_symmetric_in_the_views(name):
    a, b = pair()
    close.assert_close(DISTANCES[name](a, b, None), DISTANCES[name](b, a, None))


@pytest.mark.parametrize("name", DISTANCES)
def test_only_masked_tokens_count(name):
    a, b = pair(2, 3, CLASSES)
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    kept = [x[mask.bool()] for x in (a, b)]
    found = DISTANCES[name](a, b, mask)
    close.assert_close(found, DISTANCES[name](*kept, None))
    found.backward()
    assert a.grad[mask == 1].any() and not a.grad[mask == 0].any()


@pytest.mark.parametrize("name", DISTANCES)
def test_narrow_floats_are_compared_in_float32(name):
    a, b = (x.detach().bfloat16() for x in pair())
    assert DISTANCES[name](a, b, None).dtype == torch.float32
    close.assert_close(DISTANCES[name](a, b, None), DISTANCES[name](a.float(), b.float(), None))


@pytest.mark.parametrize("name", DISTANCES)
def test_large_logits_stay_finite(name):
    a, b = pair(scale=1e4)
    distance = DISTANCES[name](a, b, None)
    distance.backward()
    assert distance.isfinite() and a.grad.isfinite().all()


@pytest.mark.parametrize("name", KL)
def test_one_class_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=r"one class is always 0.*STS-B.*expected two classes or more.*kind=\"mse\""):
        DISTANCES[name](*pair(ROWS, 1), None)


@pytest.mark.parametrize("name", DISTANCES)
def test_shapes_must_agree(name):
    with pytest.raises(ValueError, match=r"shapes \[5, 4\] and \[5, 3\] cannot be compared"):
        DISTANCES[name](torch.zeros(5, 4), torch.zeros(5, 3), None)
