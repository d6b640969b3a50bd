"""Gradients and Hessian-vector products against finite differences in float64; eigenvalues and traces."""

import close
import pytest
import tiny
import tiny_task
import torch

from adamix_lab.analysis import theory as c
from adamix_lab.analysis.points import point_of
from adamix_lab.core.adaptations import IA3, Bottleneck, LoRA

pytestmark = pytest.mark.usefixtures("one_thread")
one_thread = tiny_task.one_thread


def loss_of(family="bert", adaptation=None, head=False, blocks=(-2, -1), rows=4):
    made = tiny.FAMILIES[family](0.1)
    mixture = tiny.mixed(made, adaptation or Bottleneck(2), experts=2, blocks=blocks).double()
    batches = [tiny.batch(rows, seed=seed) for seed in range(2)]
    for batch in batches:
        batch["labels"] = batch["input_ids"].clone() if family in ("gpt2", "llama") else tiny.labels(rows)
    return c.AdapterLoss(mixture, batches, head=head)


def direction(loss, seed=0):
    return torch.randn(loss.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = [  # no llama: its norms compute in float32, whatever the model is
    ("bert", Bottleneck(2), True), ("bert", LoRA(2), False), ("roberta", Bottleneck(2), True),
    ("distilbert", IA3(), False), ("deberta-v2", Bottleneck(2), False), ("gpt2", LoRA(2), False),
]  # fmt: skip


@pytest.mark.parametrize(("family", "adaptation", "head"), CASES)
def test_gradients_and_products_are_those_of_finite_differences(family, adaptation, head):
    loss = loss_of(family, adaptation, head)
    along, step = direction(loss), 1e-5
    slope = (loss.value(step * along) - loss.value(-step * along)) / (2 * step)
    close.assert_close(loss.gradient() @ along, slope, close.DIFFERENCES)
    product = loss.hvp(along)
    expected = (loss.gradient(step * along) - loss.gradient(-step * along)) / (2 * step)
    close.assert_close(product, expected, close.DIFFERENCES)
    there = 0.1 * direction(loss, 1)
    expected = (loss.gradient(there + step * along) - loss.gradient(there - step * along)) / (2 * step)
    close.assert_close(loss.hvp(along, there), expected, close.DIFFERENCES)


def test_the_loss_is_the_mean_over_rows_at_the_point():
    loss = loss_of()
    mixture = loss.mixture.eval()
    found = []
    for seed in range(2):
        with torch.no_grad():
            logits = mixture(**tiny.batch(4, seed=seed)).logits
        found.append(torch.nn.functional.cross_entropy(logits, tiny.labels(4)))
    assert loss.value() == pytest.approx(float(torch.stack(found).mean()))
    point = point_of(mixture, mixture.space.fixed(1))
    batches = [{**tiny.batch(4), "labels": tiny.labels()}]
    assert c.AdapterLoss(mixture, batches, point).size == loss.size  # the head stays out unless asked for


def test_eigenvalues_and_trace_are_those_of_the_whole_hessian():
    loss = loss_of(blocks=(-1,), adaptation=Bottleneck(1))
    hessian = torch.stack([loss.hvp(row) for row in torch.eye(loss.size, dtype=torch.float64)])
    close.assert_close(hessian, hessian.T, close.DOUBLE)
    values = torch.linalg.eigvalsh(hessian)
    assert c.top_eigenvalues(loss, 2) == pytest.approx([float(values[-1]), float(values[-2])], rel=1e-3)
    trace, error = c.trace(loss, torch.Generator().manual_seed(0), 40)
    assert abs(trace - float(hessian.trace())) < 4 * error
    again, _ = c.trace(loss, torch.Generator().manual_seed(0), 40)
    assert again == trace


def test_sharpness_is_the_rise_up_the_gradient():
    loss = loss_of()
    gradient = loss.gradient()
    norm = torch.cat([weight.flatten() for weight in loss.point.values()]).norm()
    expected = loss.value(gradient / gradient.norm() * 0.1 * norm) - loss.value()
    assert c.sharpness(loss, 0.1) == pytest.approx(expected) and expected > 0


def test_attention_and_model_come_back():
    loss = loss_of()
    model = loss.mixture.model
    chosen, before = model.config._attn_implementation, tiny.state(loss.mixture)
    assert chosen == "sdpa"
    with pytest.raises(ZeroDivisionError), c.eager_attention(model):
        assert model.config._attn_implementation == "eager"
        1 / 0  # noqa: B018
    loss.hvp(direction(loss))
    assert model.config._attn_implementation == chosen and tiny.same(before, tiny.state(loss.mixture))
    assert all(p.grad is None for p in loss.mixture.parameters())


def test_one_row_of_a_table():
    loss = loss_of()
    row = c.curvature(loss.mixture, [{**tiny.batch(), "labels": tiny.labels()}], seed=3, probes=2)
    assert row["seed"] == 3 and row["rows"] == 4 and row["weights"] == loss.size and row["trace_error"] >= 0


def test_bad_input_is_named():
    loss = loss_of()
    with pytest.raises(ValueError, match=r"no batches"):
        c.AdapterLoss(loss.mixture, [])
    with pytest.raises(ValueError, match=r"number = 0"):
        c.top_eigenvalues(loss, 0)
    with pytest.raises(ValueError, match=r"expected fewer than the"):
        c.top_eigenvalues(loss, loss.size)
    with pytest.raises(ValueError, match=r"probes = 1"):
        c.trace(loss, torch.Generator(), 1)
    point = point_of(loss.mixture)
    next(iter(point.values()))[0] = torch.nan
    with pytest.raises(ValueError, match=r"The point holds NaN"):
        c.AdapterLoss(loss.mixture, [{**tiny.batch(), "labels": tiny.labels()}], point)
