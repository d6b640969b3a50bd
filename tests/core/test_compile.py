"""Routes reach compiled code as tensors: many routes, one compilation."""

import close
import pytest
import tiny
import torch

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.merging import merge
from adamix_lab.core.routing import Router
from adamix_lab.fast.blocks import routed_logits

pytestmark = pytest.mark.slow


class Count:
    """A backend that compiles nothing and counts what it is asked to compile."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, module, example_inputs):
        self.graphs += 1
        return module.forward


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def breaks():
    return sum(torch._dynamo.utils.counters["graph_break"].values())


@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["ffn", "qv"])
@pytest.mark.parametrize("lead", [(), (2,), (4,)], ids=["batch", "views", "example"])
def test_twenty_routes_one_compilation(record_property, adaptation, lead):
    mixture = tiny.mixed(tiny.bert(), adaptation, share=adaptation.sides[-1])
    backend, batch = Count(), tiny.batch()
    torch._dynamo.utils.counters.clear()
    plain = mixture.model.forward
    compiled = torch.compile(mixture.model, backend=backend)
    routes = [mixture.space.draw(torch.Generator().manual_seed(n), lead) for n in range(20)]
    first = None
    for route in routes:
        with mixture.select(route):
            found, expected = compiled(**batch).logits, plain(**batch).logits
        close.assert_close(found, expected)
        first = first or backend.graphs
    record_property("graphs", backend.graphs)
    record_property("graph_breaks", breaks())
    print(f"\n{adaptation.kind} {lead}: graphs {backend.graphs}, breaks {breaks()}")
    assert backend.graphs == first == 1


def test_the_whole_mixture_compiles_too(record_property):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    backend, batch = Count(), tiny.batch()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(mixture, backend=backend)
    graphs = []
    for n in range(20):
        route = Router(mixture.space).route(n)
        close.assert_close(compiled(selection=route, **batch).logits, mixture(selection=route, **batch).logits)
        graphs.append(backend.graphs)
    record_property("graphs", backend.graphs)
    record_property("graph_breaks", breaks())
    print(f"\nmixture: graphs {graphs[-1]}, breaks {dict(torch._dynamo.utils.counters['graph_break'])}")
    assert graphs[-1] == graphs[1]  # nothing new after the second call


@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["ffn", "qv"])
def test_a_merged_model_is_one_graph(adaptation):
    merged = merge(tiny.mixed(tiny.bert(), adaptation))
    backend = Count()
    compiled = torch.compile(merged.model, backend=backend)
    for seed in range(3):
        batch = tiny.batch(seed=seed)
        with torch.no_grad():
            close.assert_close(compiled(**batch).logits, merged(**batch).logits)
    assert backend.graphs == 1


@pytest.mark.parametrize("way", ["independent", "same_dropout", "shared_prefix"])
def test_two_views_of_a_compiled_model(way):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    batch, backend = tiny.batch(), Count()
    routes = [Router(mixture.space).views(n) for n in range(20)]
    expected = [routed_logits(mixture, batch, route, way) for route in routes]
    mixture.model.compile(backend=backend)
    graphs = []
    for route, logits in zip(routes, expected, strict=True):
        close.assert_close(routed_logits(mixture, batch, route, way), logits)
        graphs.append(backend.graphs)
    print(f"\n{way}: graphs {graphs[-1]}")
    assert graphs[-1] == graphs[1]


@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["ffn", "qv"])
def test_hooks_come_and_go_with_compiled_models(adaptation):
    """Same shapes in, with and without the hooks of the shared prefix: the graph of one must not serve the other."""
    mixture = tiny.mixed(tiny.bert(), adaptation)
    batch, routes = tiny.batch(), Router(mixture.space).views(0)
    calls = [
        lambda: routed_logits(mixture, batch, routes, "shared_prefix"),
        lambda: mixture(selection=routes, **batch).logits,  # two groups of two rows
        lambda: routed_logits(mixture, batch, routes[:1], "shared_prefix"),
        lambda: mixture(**batch).logits,
    ]
    expected = [call() for call in calls]
    mixture.model.compile(backend=Count())
    for _ in range(2):
        for call, logits in zip(calls, expected, strict=True):
            close.assert_close(call(), logits)
