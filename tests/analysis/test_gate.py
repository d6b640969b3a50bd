"""The learned Switch gate."""

import close
import tiny
import torch

from adamix_lab.analysis.gate import attach_gates, collect_gates, detach_gates
from adamix_lab.core.adaptations import Bottleneck


def gated():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=3)
    return mixture, attach_gates(mixture)


def test_the_gate_scales_the_chosen_expert_by_its_probability():
    _, model = gated()
    layer = next(m for m in model.modules() if hasattr(m, "gate"))
    x = torch.randn(2, 5, layer.layer.in_features)
    with collect_gates() as record:
        out = layer(x)
    y = layer.layer.base(x)
    for row in range(2):
        for token in range(5):
            expert = int(record.choices[0][row, token])
            probability = record.probabilities[0][row, token, expert]
            route = torch.tensor([expert, expert])
            one = layer.layer.adaptation.apply(layer.layer.base, x, layer.layer.weights(route), False)
            expected = y[row, token] + probability * (one - y)[row, token]
            close.assert_close(out[row, token], expected, close.ROUNDED)


def test_balance_is_one_for_an_even_load_and_gives_the_gate_a_gradient():
    mixture, model = gated()
    with collect_gates() as record:
        model(**tiny.batch())
    assert len(record.choices) == len(mixture.mixture.sites)
    close.assert_close(record.load().sum(-1), torch.ones(len(record.choices)), close.ROUNDED)
    record.balance().backward()
    gates = [m.gate for m in model.modules() if hasattr(m, "gate")]
    assert all(gate.grad is not None and gate.grad.abs().sum() > 0 for gate in gates)
    even = torch.full((1, 6, 3), 1 / 3)
    record.choices, record.probabilities = [torch.tensor([[0, 1, 2, 0, 1, 2]])], [even]
    close.assert_close(record.balance(), torch.tensor(1.0), close.ROUNDED)


def test_nothing_is_kept_outside_a_collector_and_gates_come_off():
    mixture, model = gated()
    batch = tiny.batch()
    model(**batch)
    detach_gates(mixture)
    plain = tiny.mixed(tiny.bert(), Bottleneck(4), experts=3)
    close.assert_close(mixture(**batch).logits, plain(**batch).logits)
