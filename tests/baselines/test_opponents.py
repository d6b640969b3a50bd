"""What AdaMix may be made of, each opponent by one word: a smaller step, an average over steps, a tuned probe."""

from dataclasses import replace

import close
import numpy as np
import pytest
import tiny
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.baselines.making import PENALTIES, baseline, choose_c, features, fitted, linear_probe
from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.objective import Consistency
from adamix_lab.tasks.tasks import hold_out
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()


def test_words_are_recipes_on_a_single_adapter():
    begun = Recipe(steps=8, lr=1e-2)
    words = {name: fitted(name, begun) for name in ("single", "r-drop", "slow", "swa", "ema", "slow-swa")}
    one_view = replace(begun, consistency=Consistency(0.0, views="shared_prefix"))
    assert words["single"] == one_view
    assert words["slow"] == replace(one_view, side_rates={"down": 0.25})
    assert words["swa"] == replace(one_view, swa=0.75) and words["ema"] == replace(one_view, ema=0.99)
    assert words["slow-swa"] == replace(one_view, swa=0.75, side_rates={"down": 0.25})
    assert words["r-drop"].consistency.weight == 1.0
    assert fitted("swa", replace(begun, ema=0.9)).ema == 0.9 and fitted("swa", replace(begun, ema=0.9)).swa is None
    assert fitted("slow", begun, 2, "B", LoRA.sides).side_rates == {"A": 0.5}


@pytest.mark.parametrize(
    ("share", "rates"), [("up", {"down": 1 / 8}), ("down", {"up": 1 / 8}), (None, {"down": 1 / 8, "up": 1 / 8})]
)
def test_the_slow_side_is_the_one_that_adamix_routes(share, rates):
    assert fitted("slow", Recipe(), experts=8, share=share).side_rates == rates
    routed = baseline("adamix", tiny.bert(), share=share, experts=8).space.counts[0]
    assert {side for side, number in zip(("down", "up"), routed, strict=True) if number == 8} == rates.keys()


@pytest.mark.parametrize(("share", "counts"), [("up", [4, 1]), ("B", [4, 1]), ("down", [1, 4]), (None, [4, 4])])
def test_adamix_of_loras_shares_the_side_that_a_grid_or_lora_names(share, counts):
    mixture = baseline("adamix-lora", tiny.bert(), share=share)
    assert mixture.mixture.adaptation == LoRA(8) and list(mixture.space.counts[0]) == counts
    assert fitted("adamix-lora", Recipe()).consistency.weight == 1.0
    with pytest.raises(ValueError, match="left"):
        baseline("adamix-lora", tiny.bert(), share="left")


def test_a_slow_adapter_is_the_single_one_and_moves_less_on_that_side():
    single, slow = (baseline(name, tiny.bert(), seed=3) for name in ("single", "slow"))
    start = tiny_task.weights(single)
    assert tiny_task.apart(start, tiny_task.weights(slow)) == 0
    moved = {}
    for name, mixture in (("single", single), ("slow", slow)):
        recipe = fitted(name, tiny_task.recipe(steps=1, warmup=0.0, weight_decay=0.0))
        train(mixture, TASK, TOKENIZER, recipe, progress=False)
        moved[name] = {key: (new - start[key]).abs().max() for key, new in tiny_task.weights(mixture).items()}
    for key in start:  # a first step of Adam is of the rate's size
        share = 0.25 if key.rpartition(".")[2].startswith("down") and key.startswith("experts") else 1.0
        close.assert_close(moved["slow"][key], share * moved["single"][key], close.TRAINED)


def test_a_side_or_a_number_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="Side to share for bottleneck 'B'"):
        baseline("slow", tiny.bert(), share="B")
    with pytest.raises(ValueError, match="experts"):
        baseline("slow", tiny.bert(), experts=0)


# -- the probe -------------------------------------------------------------------------------------------------


def flipped(task, share, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {**row, "label": int((row["label"] + 1 + rng.integers(2)) % 3) if rng.random() < share else row["label"]}
        for row in task.train
    ]
    return replace(task, train=rows)


def by_hand(x, y, kept, dev):
    """The C with the smallest dev loss, with scikit-learn alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    mean, spread = x[kept].mean(0), x[kept].std(0)
    losses = {}
    for c in PENALTIES:
        found = LogisticRegression(C=c, max_iter=2000).fit((x[kept] - mean) / spread, y[kept])
        losses[c] = log_loss(y[dev], found.predict_proba((x[dev] - mean) / spread), labels=[0, 1, 2])
    return min(losses, key=losses.__getitem__)


def test_the_probes_c_is_chosen_on_a_slice_of_the_training_rows():
    model, chosen = tiny.bert(), []
    for noise in (0.0, 0.5):
        x, y = features(model, flipped(TASK, noise), TOKENIZER, flipped(TASK, noise).train)
        rows = [{"n": n, "label": int(label)} for n, label in enumerate(y)]
        kept, dev = ([row["n"] for row in part] for part in hold_out(rows, 0.2, 0))
        chosen.append(choose_c(x, y))
        assert chosen[-1] == by_hand(x.numpy(), y.numpy(), kept, dev)
    assert chosen[1] < chosen[0]  # wrong labels ask for a stronger penalty
    true = features(model, TASK, TOKENIZER, TASK.train)[1]
    judged = y.clone()
    judged[dev] = true[dev]
    assert choose_c(x, y, true=true) == by_hand(x.numpy(), judged.numpy(), kept, dev)  # an oracle beside it


def test_the_rows_that_are_judged_on_choose_nothing(monkeypatch):
    from adamix_lab.baselines import making as probe

    found, real = [], probe.choose_c
    monkeypatch.setattr(probe, "choose_c", lambda *given: found.append(real(*given)) or found[-1])
    other = replace(TASK, evaluation=[{**row, "label": 2 - row["label"]} for row in TASK.evaluation[:9]])
    first, second = (linear_probe(tiny.bert(), each, TOKENIZER) for each in (TASK, other))
    assert found[0] == found[1] and len(found) == 2
    assert torch.equal(first.log_probabilities[:9].argmax(-1), second.log_probabilities.argmax(-1))


def test_a_class_without_rows_is_named_and_too_few_rows_choose_nothing():
    without = replace(TASK, train=[row for row in TASK.train if row["label"] != 1])
    with pytest.raises(ValueError, match="Class 'bad' of 'tiny' has no training row"):
        linear_probe(tiny.bert(), without, TOKENIZER)
    assert choose_c(torch.randn(3, 4), torch.tensor([0, 1, 2])) == 1.0


def test_a_regression_takes_a_penalty_too():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    assert choose_c(x, x @ torch.ones(5), regression=True) == max(PENALTIES)


def test_features_are_the_same_whichever_side_a_tokenizer_pads():
    """The tiny BERT counts positions from the first place: padding before a sentence would move it."""
    left = tiny_task.tokenizer()
    left.padding_side = "left"
    for found, expected in zip(
        *(features(tiny.bert(), TASK, each, TASK.train) for each in (left, TOKENIZER)), strict=True
    ):
        assert torch.equal(found, expected)


def test_an_oracle_of_labels_that_nobody_made_wrong_is_the_probe():
    probe, oracle = (linear_probe(tiny.bert(), TASK, TOKENIZER, oracle=asked) for asked in (False, True))
    assert torch.equal(probe.log_probabilities, oracle.log_probabilities)
