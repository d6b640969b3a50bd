"""Where samples come from, on rows that stay the same."""

import close
import pytest
import tiny
import tiny_task
import torch

from adamix_lab.analysis import posterior
from adamix_lab.analysis.posterior import (
    drawn_routes,
    dropout_samples,
    every_route,
    fix_batches,
    member_samples,
    merged_sample,
    token_samples,
)
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.evaluation import evaluate, predict

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()
SENTENCES = [row["sentence"] for row in TASK.evaluation]


def mixture(dropout=0.0, blocks=None, **more):
    return tiny.shake(tiny_task.mixture(dropout=dropout, blocks=blocks, **more))


def fixed(model, rows=None, batch_size=8):
    return fix_batches(model, TASK, TOKENIZER, rows, batch_size)


@pytest.mark.parametrize("blocks", [None, (-1,)], ids=["all", "top"])
def test_every_source_answers_in_the_rows_order(blocks):
    model = mixture(blocks=blocks)
    batches = fixed(model)
    merged, routes = merged_sample(batches), every_route(batches)
    close.assert_close(merged.log_probabilities[:, 0].exp(), predict(model, TOKENIZER, SENTENCES))
    assert routes.labels.tolist() == [row["label"] for row in TASK.evaluation]
    assert routes.exact and len(routes) == model.space.number == len(routes.routes)
    number = (routes.routes == model.space.fixed(1)).all(-1).all(-1).nonzero().item()
    alone = evaluate(model, TASK, TOKENIZER, ["fixed-1"])[0].log_probabilities
    close.assert_close(routes.log_probabilities[:, number], alone)


def test_drawn_routes_are_those_of_the_tree_and_replay(monkeypatch):
    model = mixture()
    batches = fixed(model)
    drawn, every = drawn_routes(batches, 6, seed=2), every_route(batches)
    for n, route in enumerate(drawn.routes):
        number = (every.routes == route).all(-1).all(-1).nonzero().item()
        close.assert_close(drawn.logits[:, n], every.logits[:, number])
    assert not drawn.exact
    assert not torch.equal(drawn_routes(batches, 6, seed=3).routes, drawn.routes)
    monkeypatch.setattr(posterior, "free_memory", lambda device: 1)  # one route a pass
    close.assert_close(drawn_routes(batches, 6, seed=2).logits, drawn.logits)


def test_dropout_is_on_for_its_samples_only_and_replays():
    model = mixture(dropout=0.3, blocks=(-1,))
    batches, state = fixed(model), torch.random.get_rng_state()
    first, again, other = (dropout_samples(batches, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(first.logits, again.logits) and not torch.equal(first.logits, other.logits)
    assert not torch.allclose(first.logits[:, 0], first.logits[:, 1])
    assert torch.equal(torch.random.get_rng_state(), state) and model.training == batches.mixture.training
    assert torch.equal(merged_sample(batches).logits, merged_sample(batches).logits)
    with pytest.raises(ValueError, match=r"no dropout to sample"):
        dropout_samples(fixed(mixture()), 2)


def test_tokens_take_routes_of_their_own():
    batches = fixed(mixture())
    first, again = token_samples(batches, 2), token_samples(batches, 2)
    assert first.logits.shape == (len(SENTENCES), 2, 3) and torch.equal(first.logits, again.logits)
    assert not torch.allclose(first.logits[:, 0], first.logits[:, 1])


def test_members_bring_their_own_weights():
    members = [fixed(mixture(experts=1, share=None)), fixed(tiny.shake(tiny_task.mixture(experts=1), seed=5))]
    together = member_samples(members)
    assert together.logits.shape[1] == 2
    for n, member in enumerate(members):
        assert torch.equal(together.logits[:, n], merged_sample(member).logits[:, 0])
    with pytest.raises(ValueError, match=r"rows differ"):
        member_samples([members[0], fixed(mixture(), TASK.evaluation[:4])])
    with pytest.raises(ValueError, match=r"No members"):
        member_samples([])


def test_text_without_labels_is_answered_too():
    outside = fixed(mixture(), [{"sentence": "w30 w31"}, {"sentence": "w9"}])
    assert outside.labels.tolist() == [-1, -1] and every_route(outside).logits.shape == (2, 27, 3)


def test_bad_input_is_named():
    batches = fixed(mixture(dropout=0.1))
    for source in (drawn_routes, token_samples, dropout_samples):
        with pytest.raises(ValueError, match=r"draws \(T\) = 0: expected a whole number of at least 1"):
            source(batches, 0)
    with pytest.raises(ValueError, match=r"No rows"):
        fixed(mixture(), [])
    with pytest.raises(ValueError, match=r"27 routes: expected at most 26.*drawn_routes"):
        every_route(batches, limit=26)
    regression = Task("scores", [], [{"sentence": "w1", "label": 0.5}], ("sentence",))
    with pytest.raises(ValueError, match=r"'scores' asks for numbers: expected classes"):
        fix_batches(mixture(), regression, TOKENIZER)


def test_a_model_without_known_blocks_gives_the_same_kind_of_samples():
    model = tiny.mixed(tiny.deberta(), Bottleneck(4), experts=2, share="up")
    batches = fix_batches(model, TASK, TOKENIZER, TASK.evaluation[:5], 5)
    with pytest.warns(UserWarning, match="pass of its own"):
        every = every_route(batches)
    assert every.logits.shape == (5, model.space.number, 3)
