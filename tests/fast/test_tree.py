"""The tree of routes: the logits of one pass a route, with the work of a tree."""

import re
import warnings

import close
import pytest
import tiny
import torch

from adamix_lab.core.adaptations import IA3, Bias, Bottleneck, LoRA
from adamix_lab.fast import tree
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.fast.tree import Replay, capture, check_budget, group_bytes, tree_logits

CUT = {"bert": tiny.bert, "roberta": tiny.roberta, "distilbert": tiny.distilbert, "electra": tiny.electra}
KINDS = {
    "shared": (Bottleneck(4), {"experts": 3, "share": "up"}),
    "unshared": (Bottleneck(4), {"experts": 2}),
    "tied-gap": (Bottleneck(4), {"experts": 3, "tied": True, "blocks": [0, 2]}),
    "qv": (LoRA(2), {"experts": 2, "share": "B", "blocks": [1, 2]}),
    "input-scaled": (IA3(feedforward=True), {"experts": 2}),
    "bias": (Bias(), {"experts": 2, "blocks": [0, 1]}),  # the last block holds no site
}


def plain(mixture, batch):
    with torch.no_grad():
        return torch.stack([mixture(selection=route, **batch).logits for route in mixture.space.enumerate()], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CUT)
def test_the_tree_gives_what_a_pass_a_route_gives_in_the_order_of_enumerate(name, kind):
    adaptation, more = KINDS[kind]
    mixture, batch = tiny.mixed(CUT[name](), adaptation, **more), tiny.batch()
    wanted = plain(mixture, batch)
    assert float(wanted.std(1).mean()) > 0.02  # routes matter
    close.assert_close(tree_logits(mixture, batch), wanted)


@pytest.mark.parametrize("memory", [1, 20_000, 60_000])
@pytest.mark.parametrize("kind", ["shared", "qv"])
def test_small_chunks_give_the_same(kind, memory):
    adaptation, more = KINDS[kind]
    mixture, batch = tiny.mixed(tiny.bert(), adaptation, **more), tiny.batch()
    assert memory < 16 * group_bytes(mixture, batch)
    close.assert_close(tree_logits(mixture, batch, memory=memory), plain(mixture, batch))


@pytest.mark.parametrize("blocks", [[1, 2], [2]], ids=str)
@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["end", "inside"])
def test_it_takes_what_lies_above_a_cached_prefix(adaptation, blocks):
    mixture, batch = tiny.mixed(tiny.bert(), adaptation, experts=2, blocks=blocks), tiny.batch()
    top, cache = cached_prefix(mixture)
    close.assert_close(tree_logits(top.eval(), cache(batch)), plain(mixture, batch))


def test_one_row_and_no_padding():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=2, share="up")
    for batch in (tiny.batch(rows=1), tiny.batch(rows=2, pad=False), tiny.batch(rows=1, tokens=1)):
        close.assert_close(tree_logits(mixture, batch), plain(mixture, batch))


def test_a_block_runs_once_for_all_children_of_a_node():
    """(M^L - 1) / (M - 1) blocks instead of L M^L, and the last one's feed-forward part on one position."""
    mixture, seen = tiny.mixed(tiny.bert(), Bottleneck(4), experts=3, share="up"), []
    for n, block in enumerate(mixture.model.bert.encoder.layer):
        block.intermediate.register_forward_pre_hook(lambda m, args, n=n: seen.append((n, *args[0].shape[:2])))
    tree_logits(mixture, tiny.batch(rows=4, tokens=7))
    assert seen == [(0, 4, 7), (1, 12, 7), (2, 36, 1)]
    assert sum(rows for _, rows, _ in seen) // 4 == (3**3 - 1) // (3 - 1)


def test_the_model_is_as_it_was(monkeypatch):
    mixture = tiny.mixed(tiny.bert(dropout=0.5), Bottleneck(4), experts=2, share="up").train()
    before, modes, classes = tiny.state(mixture), tiny.modes(mixture), tiny.classes(mixture)
    first, second = (tree_logits(mixture, tiny.batch()) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad  # dropout is off
    monkeypatch.setattr(Replay, "head", lambda self, states: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tree_logits(mixture, tiny.batch())
    assert tiny.same(before, tiny.state(mixture))
    assert modes == tiny.modes(mixture) and classes == tiny.classes(mixture)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mixture.modules())
    assert all(layer.selection is None and layer.fan_out == "none" for layer in mixture.sites.values())


@pytest.mark.parametrize("build", [tiny.deberta, tiny.albert, lambda: tiny.bert(cls="BertForTokenClassification")])
def test_other_models_run_plain_passes_and_say_so_once(build):
    mixture, batch = tiny.mixed(build(), Bottleneck(4), experts=2, share="up"), tiny.batch()
    assert capture(mixture, batch) is None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        answers = [tree_logits(mixture, batch) for _ in range(2)]
    close.assert_close(answers[1], plain(mixture, batch))
    ours = [str(warning.message) for warning in said if "pass of its own" in str(warning.message)]
    assert len(ours) == 1 and type(mixture.model).__name__ in ours[0]


def test_too_many_routes_say_how_many_and_offer_monte_carlo():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=4)  # 16 a site
    with pytest.raises(ValueError, match=r"4,096 routes: expected at most 4,095 .*Monte-Carlo"):
        tree_logits(mixture, tiny.batch(), limit=4095)
    check_budget(mixture.space, 4096)
    with pytest.raises(ValueError, match=r"limit = 0: expected a whole number"):
        check_budget(mixture.space, 0)


def test_out_of_memory_halves_the_chunk_and_says_so(monkeypatch):
    mixture, batch = tiny.mixed(tiny.bert(), Bottleneck(4), experts=3, share="up"), tiny.batch(rows=4)
    wanted, block = plain(mixture, batch), Replay.block

    def small(self, level, states, routes):  # room for 8 groups of 4 rows
        if len(states) * len(routes) > 32:
            raise torch.OutOfMemoryError("full")
        return block(self, level, states, routes)

    monkeypatch.setattr(Replay, "block", small)
    with pytest.warns(UserWarning, match=r"Out of memory: going on with \d groups of rows") as said:
        close.assert_close(tree_logits(mixture, batch), wanted)
    sizes = [int(re.search(r"with (\d+) groups", str(warning.message))[1]) for warning in said]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= 1
    monkeypatch.setattr(Replay, "block", lambda *args: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with (
        pytest.warns(UserWarning),
        pytest.raises(torch.OutOfMemoryError, match=r"single group of 4 rows: expected room for one.*batch_size"),
    ):
        tree_logits(mixture, batch)


@pytest.mark.parametrize(("memory", "room", "failed"), [(4, 1, [4, 2]), (8, 5, [8]), (16, 6, [16, 8])])
def test_what_memory_holds_is_learned_once(monkeypatch, memory, room, failed):
    mixture, batch = tiny.mixed(tiny.bert(), Bottleneck(4), experts=4, share="up"), tiny.batch(rows=4)
    wanted, block, sizes = tree_logits(mixture, batch), Replay.block, []  # the short-cut is tried at its first use

    def small(self, level, states, routes):  # room for so many groups of 4 rows
        sizes.append(len(states) * len(routes) // 4)
        if sizes[-1] > room:
            raise torch.OutOfMemoryError("full")
        return block(self, level, states, routes)

    monkeypatch.setattr(Replay, "block", small)
    with pytest.warns(UserWarning, match="Out of memory"):
        found = tree_logits(mixture, batch, memory=memory * group_bytes(mixture, batch))
    close.assert_close(found, wanted)
    assert [size for size in sizes if size > room] == failed  # each once


def test_memory_defaults_to_what_there_is(monkeypatch):
    assert tree.free_memory(torch.device("cpu")) == 256_000_000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert tree.free_memory(torch.device("cuda")) == 500


@pytest.mark.slow
def test_minilm_with_every_block_adapted():
    from adamix_lab.models.model import attach
    from adamix_lab.tasks.backbones import load_backbone

    model, _ = load_backbone("minilm", num_labels=2, pooling="cls")
    mixture = tiny.shake(attach(model.eval(), Bottleneck(16), experts=2, share="up"), scale=0.1)
    batch = {name: value.clone() for name, value in tiny.batch(rows=3, tokens=12).items()}
    close.assert_close(tree_logits(mixture, batch), plain(mixture, batch))
