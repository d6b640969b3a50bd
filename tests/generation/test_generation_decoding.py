"""Training on masked targets, and beam search under one selection for the whole text."""

import math
import warnings

import close
import pytest
import tiny
import tiny_generation
import torch
from tiny_task import apart, weights

from adamix_lab.baselines.making import baseline
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.merging import merge
from adamix_lab.core.objective import Consistency, next_token_loss
from adamix_lab.core.routing import generator_for
from adamix_lab.generation.decoding import Decoding, generate_texts, selection_of, trim
from adamix_lab.generation.training import encode_pairs, train_generator
from adamix_lab.models.model import attach
from adamix_lab.training.recipe import Recipe

TASK, TOKENIZER = tiny_generation.task(), tiny_generation.tokenizer()
SHORT = Decoding(beams=3, new_tokens=12, batch_size=3)


def recipe(**more):
    return Recipe(**{"steps": 6, "batch_size": 8, "lr": 5e-3, "max_length": 64, "dev_fraction": 0.0, **more})


def mixture(adaptation=None, experts=3):
    made = attach(tiny_generation.decoder(), adaptation or LoRA(2), experts, "B" if adaptation is None else "up")
    return tiny.shake(made, 1.0)


# -- training ----------------------------------------------------------------------------------------------


def test_smoothing_by_hand():
    logits, labels = torch.randn(2, 4, 5), torch.tensor([[-100, 1, 2, -100], [-100, -100, 0, 4]])
    close.assert_close(next_token_loss(logits, labels, 0.0), next_token_loss(logits, labels), close.ROUNDED)
    log_p = logits[:, :-1].log_softmax(-1)[labels[:, 1:] != -100]  # four target tokens
    right = log_p.gather(1, labels[labels != -100][:, None])
    by_hand = -(0.9 * right.mean() + 0.1 * log_p.mean())
    close.assert_close(next_token_loss(logits, labels, 0.1), by_hand, close.ROUNDED)


@pytest.mark.parametrize("adaptation", [None, Bottleneck(4)], ids=["lora", "bottleneck"])
def test_two_views_train_on_the_target_alone(adaptation):
    made = mixture(adaptation)
    before = weights(made)
    history = train_generator(
        made, TASK, TOKENIZER, recipe(consistency=Consistency(2.0), log_every=1, label_smoothing=0.1), progress=False
    )
    assert apart(before, weights(made)) > 0
    row = history.rows[0]
    close.assert_close(row["loss"], row["task"] + 2.0 * row["consistency"], close.ROUNDED)
    assert row["consistency"] > 0
    assert len(row["route"]) == 2
    # what stands in the source does not count: its logits may be anything
    example = encode_pairs(TASK.train[:1], TASK, TOKENIZER)[0]
    labels, logits = example["labels"][None], torch.randn(1, len(example["labels"]), len(TOKENIZER))
    other = logits.clone()
    first = int((labels[0] != -100).nonzero()[0])
    other[:, : first - 1] += 5 * torch.randn_like(other[:, : first - 1])
    assert torch.equal(next_token_loss(logits, labels), next_token_loss(other, labels))


def test_the_dev_slice_holds_whole_sources():
    history = train_generator(mixture(), TASK, TOKENIZER, recipe(dev_fraction=0.25, evaluate_every=3), progress=False)
    assert [row["step"] for row in history.looks] == [3, 6]
    assert all(math.isfinite(row["dev"]["loss"]) and "accuracy" not in row["dev"] for row in history.looks)


def test_full_fine_tuning_learns_the_task_by_heart(tmp_path):
    """Everything trains, tied weights once; beam search then writes the targets word by word."""
    rows = TASK.train[::2]
    model = tiny_generation.decoder()
    whole = baseline("full", model)
    assert sum(p.numel() for _, p in whole.own_parameters()) == sum(p.numel() for p in model.parameters())
    from dataclasses import replace

    settings = recipe(steps=150, lr=1e-2).with_options(consistency=0.0)
    history = train_generator(whole, replace(TASK, train=rows), TOKENIZER, settings, tmp_path, progress=False)
    assert history.losses[-1] < 0.05 < history.losses[0]
    texts = generate_texts(whole, [row["source"] for row in rows], TOKENIZER, Decoding(beams=4, new_tokens=16))
    assert texts == [row["target"] for row in rows]
    again = train_generator(baseline("full", tiny_generation.decoder()), replace(TASK, train=rows), TOKENIZER, settings,
                            tmp_path, progress=False)  # fmt: skip
    assert again.resumed_from == 150


# -- decoding ----------------------------------------------------------------------------------------------


def test_merged_in_place_or_not_is_the_same_text():
    made = mixture()
    texts = generate_texts(made, TASK.sources, TOKENIZER, SHORT)
    assert texts == generate_texts(merge(made), TASK.sources, TOKENIZER, SHORT)
    with made.disabled():
        bare = generate_texts(made, TASK.sources, TOKENIZER, SHORT)
    assert bare == generate_texts(tiny_generation.decoder(), TASK.sources, TOKENIZER, SHORT) != texts


def test_batches_change_nothing():
    """Left padding, and routes an example, do not depend on the company."""
    made = mixture()
    for strategy in ("merged", "fixed-1"):
        one_by_one = [generate_texts(made, [s], TOKENIZER, SHORT, strategy)[0] for s in TASK.sources]
        assert generate_texts(made, TASK.sources, TOKENIZER, SHORT, strategy) == one_by_one
    sources = ["name", "name : The Mill | area : city centre"]  # lengths far apart
    together = generate_texts(made, sources, TOKENIZER, SHORT)
    assert together == [generate_texts(made, [s], TOKENIZER, SHORT)[0] for s in sources]


def test_beam_search_equals_plain_transformers():
    """One source, no rule against repetition: transformers' own call says the same."""
    model, source = tiny_generation.decoder(), TASK.sources[0]
    ids = torch.tensor([[*TOKENIZER(source)["input_ids"], TOKENIZER.eos_token_id]])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=4, do_sample=False, max_new_tokens=10, length_penalty=0.8,
        pad_token_id=TOKENIZER.eos_token_id,
    )  # fmt: skip
    expected = trim(TOKENIZER.decode(made[0, ids.shape[1] :]), TOKENIZER)
    assert generate_texts(model, [source], TOKENIZER, Decoding(4, no_repeat=0, new_tokens=10)) == [expected]


def test_repetition_is_forbidden_in_the_text_but_the_source_may_be_copied():
    model = tiny_generation.decoder()
    with torch.no_grad():  # a model that always writes one token
        model.transformer.wte.weight.zero_()
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.transformer.wte.weight[TOKENIZER("x")["input_ids"][0]] = 1.0
    settings = Decoding(beams=1, new_tokens=12, no_repeat=0)
    assert generate_texts(model, ["a"], TOKENIZER, settings) == ["x" * 12]
    made = generate_texts(model, ["xxxxxxxx"], TOKENIZER, Decoding(beams=1, new_tokens=12, no_repeat=4))[0]
    assert made.startswith("xxxx") and "xxxxx" not in made  # four once, although the source has them


def test_one_route_is_held_for_the_whole_text():
    made, seen = mixture(), []
    layer = next(iter(made.sites.values()))
    layer.register_forward_pre_hook(lambda module, args: seen.append((args[0].shape[0], module.selection)))
    for strategy, rows in (("fixed-2", None), ("random", None), ("random-example", 9)):
        seen.clear()
        generate_texts(made, TASK.sources[:3], TOKENIZER, SHORT, strategy, seed=3)
        assert len(seen) > 1 and all(torch.equal(route, seen[0][1]) for _, route in seen)
        assert seen[0][0] == 9  # three sources, three beams
        if rows:
            assert len(seen[0][1]) == rows and torch.equal(seen[0][1][0], seen[0][1][1])  # beams of one source
    assert torch.equal(seen[0][1][::3], selection_of("random-example", made.space, generator_for(3, 0), 3)[:, 0])


def test_texts_end_at_the_end_token_or_the_line():
    assert trim(f" It is.{tiny_generation.END} more", TOKENIZER) == "It is."
    assert trim("\n It is.\nThere", TOKENIZER) == "It is."
    assert trim("", TOKENIZER) == ""


def test_long_sources_are_cut_to_what_the_model_takes():
    sources = ["name : Aromi " * 20, "name : Aromi"]
    with pytest.warns(UserWarning, match="1 of 2 sources are longer than the 52 tokens"):
        assert len(generate_texts(mixture(), sources, TOKENIZER, SHORT)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "ensemble"}, "Strategy of decoding 'ensemble' is not known; expected one of fixed"),
        ({"strategy": "fixed-N"}, "Strategy of decoding 'fixed-N' is not known; expected one of fixed, fixed-0"),
        ({"strategy": "fixed-12"}, "Expert 12 is out of range: expected 0 to 2"),
        ({"strategy": "fixed-3"}, "Expert 3 is out of range: expected 0 to 2"),
        ({"sources": []}, "expected a list of texts, at least one"),
        ({"sources": "name"}, "expected a list of texts, at least one"),
        ({"settings": Decoding(new_tokens=64)}, "65 tokens are asked for: expected at most 64"),
    ],
)
def test_bad_requests(change, message):
    given = {"sources": TASK.sources, "settings": SHORT, "strategy": "merged"} | change
    with pytest.raises(ValueError, match=message):
        generate_texts(mixture(), tokenizer=TOKENIZER, **given)


def test_bad_settings():
    for settings, message in (
        ({"beams": 0}, "beams = 0"),
        ({"no_repeat": -1}, "no_repeat = -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Decoding(**settings)
    with pytest.raises(ValueError, match="needs experts"), warnings.catch_warnings():
        generate_texts(tiny_generation.decoder(), TASK.sources, TOKENIZER, SHORT, "fixed")
