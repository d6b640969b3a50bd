"""Selections belong to a call: threads, nested blocks, errors, and recomputations in another thread."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import close
import pytest
import tiny
import torch

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.mixture import checkpoints_gradients, during, here, noting, states
from adamix_lab.core.routing import Router
from adamix_lab.fast.blocks import cut_last_block, routed_logits
from adamix_lab.fast.prefix import prefix_states
from adamix_lab.fast.tree import tree_logits

ROUTES = {"two routes": (0, 1), "a route and the merge": (0, None)}


@pytest.fixture(autouse=True)
def often():
    """Threads take turns as often as they can."""
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*works):
    """Runs functions in threads of their own, which begin together; raises what one of them raised."""
    together = threading.Barrier(len(works))

    def begin(work):
        together.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return [done.result() for done in [threads.submit(begin, work) for work in works]]


def repeated(call, expected, times):
    """How often a call, made so many times without gradients, answers something else."""
    wrong = 0
    with torch.no_grad():
        for _ in range(times):
            wrong += not torch.equal(call(), expected)
    return wrong


def resting(mixture):
    layers = mixture.sites.values()
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in mixture.modules())
    return not states() and not hooks and all(layer.selection is None and layer.enabled for layer in layers)


@pytest.mark.parametrize("routes", ROUTES)
def test_two_threads_under_two_routes(routes):
    """A thousand calls in all."""
    mixture, batch = tiny.mixed(tiny.bert(), Bottleneck(4)), tiny.batch()
    selections = [None if n is None else mixture.space.fixed(n) for n in ROUTES[routes]]
    with torch.no_grad():
        merged = mixture(**batch).logits
        right = [mixture(selection=selection, **batch).logits for selection in selections]

    def work(n):
        return repeated(lambda: mixture(selection=selections[n], **batch).logits, right[n], 500)

    wrong = at_once(lambda: work(0), lambda: work(1))
    print(f"\n{routes}: wrong answers {wrong} of 500 each")
    assert wrong == [0, 0] and resting(mixture)
    with torch.no_grad():
        assert torch.equal(mixture(**batch).logits, merged)


FAST = {
    "shared prefix": lambda m, b, r: routed_logits(m, b, r, "shared_prefix"),
    "tree": lambda m, b, r: tree_logits(m, b),
    "prefix": lambda m, b, r: prefix_states(m, _plan(m), b),
}


def _plan(mixture):
    from adamix_lab.fast.blocks import plan_blocks

    return plan_blocks(mixture)


@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["ffn", "qv"])
@pytest.mark.parametrize("way", FAST)
def test_fast_ways_beside_plain_calls(way, adaptation):
    """Hooks of a fast way are on modules that another thread runs at the same time, by the same way or plainly."""
    mixture, batch = tiny.mixed(tiny.bert(), adaptation, share=adaptation.sides[-1]), tiny.batch()
    other = tiny.batch(rows=3, seed=1)
    routes = Router(mixture.space).views(0)

    def fast(inputs):
        return lambda: FAST[way](mixture, inputs, routes)

    calls = [fast(batch), fast(other), lambda: mixture(selection=routes[0], **batch).logits]
    with torch.no_grad():
        right = [call() for call in calls]
    times = {"shared prefix": 60, "tree": 15, "prefix": 60}[way]
    counted = [lambda n=n: repeated(calls[n], right[n], times) for n in range(3)]
    assert at_once(*counted) == [0, 0, 0] and resting(mixture)


def test_a_failure_in_one_thread_leaves_the_other_alone():
    """An attention that fails while cut must leave its own thread as it was, and no other's."""
    mixture, batch = tiny.mixed(tiny.bert(), LoRA(2)), tiny.batch()
    me = threading.get_ident()

    def fail(*args):
        if threading.get_ident() == me:
            raise KeyboardInterrupt

    with torch.no_grad():
        right = routed_logits(mixture, batch, Router(mixture.space).views(0), "shared_prefix")
    handle = mixture.model.bert.encoder.layer[-1].attention.self.value.register_forward_hook(fail)

    def cut():
        return routed_logits(mixture, batch, Router(mixture.space).views(0), "shared_prefix")

    with ThreadPoolExecutor(1) as thread:
        wrong = thread.submit(repeated, cut, right, 60)
        for _ in range(60):
            with pytest.raises(KeyboardInterrupt), torch.no_grad(), cut_last_block(mixture.model):
                mixture(**batch)
        assert wrong.result() == 0
    handle.remove()
    assert resting(mixture) and torch._C._len_torch_function_stack() == 0


def test_generation_in_a_thread_of_its_own():
    """As a streamer does it: `Thread(target=mixture.generate, kwargs=...)` beside a main thread under another route."""
    mixture = tiny.mixed(tiny.gpt2(), Bottleneck(4))
    ids = tiny.batch(2, 4, pad=False)["input_ids"]
    settings = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False}
    routes = [mixture.space.fixed(n) for n in range(3)]
    right = [mixture.generate(selection=route, **settings) for route in routes]
    assert not torch.equal(right[0], right[1])
    with mixture.select(routes[2]):
        made = at_once(*(lambda route=route: mixture.generate(selection=route, **settings) for route in routes[:2]))
    assert all(torch.equal(a, b) for a, b in zip(made, right, strict=False))


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_the_backward_pass_of_another_thread(reentrant):
    """The recomputation runs where `backward` was called, under the route of its first run, whatever is set there."""

    def step(checkpointed):
        mixture = tiny.mixed(tiny.bert(), LoRA(2)).train()
        if checkpointed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                mixture.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        first, second = Router(mixture.space).views(0)
        losses = [mixture(selection=route, **tiny.batch()).logits.square().sum() for route in (first, second)]

        def backward():
            with mixture.select(second):
                losses[0].backward()
            assert not states()

        if checkpointed:
            at_once(backward)
            with mixture.select(first):
                losses[1].backward()
        else:
            sum(losses).backward()
        return tiny.gradients(mixture)

    close.assert_all_close(step(True), step(False), close.ROUNDED)


def test_blocks_nest_and_end():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    layer, other = list(mixture.sites.values())[:2]
    with during({layer: {"selection": 1}}), during({layer: {"enabled": False}, other: {"selection": 2}}):
        assert (here(layer, "selection"), layer.enabled, here(other, "selection")) == (1, False, 2)
        with pytest.raises(RuntimeError), during({layer: {"selection": 3}}):
            raise RuntimeError
        assert here(layer, "selection") == 1 and at_once(states) == [{}]
    assert not states() and layer.enabled and layer.selection is None


def test_a_layer_keeps_no_selection():
    layer = next(iter(tiny.mixed(tiny.bert(), Bottleneck(4)).sites.values()))
    for name in ("selection", "enabled", "fan_out"):
        with pytest.raises(AttributeError):
            setattr(layer, name, None)


def test_blocks_that_note_nest():
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with noting({"outer": layer}) as outer:
        with noting({"inner": layer}) as inner:
            layer(x)
        assert list(inner) == ["inner"] and not outer  # the inner block's own
        layer(x)
        with noting({"inner": layer}):
            pass
        outer.clear()
        layer(x)
        assert list(outer) == ["outer"]
    assert not layer._forward_pre_hooks


def test_a_model_that_recomputes_nothing_is_known():
    model = tiny.bert()
    assert not checkpoints_gradients(torch.nn.Linear(2, 2)) and not checkpoints_gradients(model)
    model.gradient_checkpointing_enable()
    assert checkpoints_gradients(model)
