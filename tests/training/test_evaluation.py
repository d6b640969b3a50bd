"""Strategies side by side, predictions, intervals."""

import math
from dataclasses import replace

import close
import pytest
import tiny
import tiny_task
import torch

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.objective import Consistency
from adamix_lab.core.routing import generator_for
from adamix_lab.core.sites import declare
from adamix_lab.models.model import attach
from adamix_lab.training.evaluation import STRATEGIES, answer_by, evaluate, predict
from adamix_lab.training.train import train

ALL = [name for name in STRATEGIES if not name.startswith("fixed-") or name in ("fixed-0", "fixed-2")]


@pytest.fixture
def mixture():
    return tiny.shake(tiny_task.mixture(blocks=(-1,)))


def test_every_strategy_answers_with_probabilities_in_the_order_of_the_rows(mixture):
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    results = {r.strategy: r for r in evaluate(mixture, task, tokenizer, ALL)}
    for result in results.values():
        close.assert_close(result.log_probabilities.exp().sum(-1), torch.ones(len(task.evaluation)), close.ROUNDED)
        assert result.labels.tolist() == [row["label"] for row in task.evaluation]
        right = sum(result.log_probabilities.argmax(-1) == result.labels)
        assert math.isclose(result.accuracy, int(right) / len(task.evaluation))
    sentences = [row["sentence"] for row in task.evaluation]
    merged = predict(mixture, tokenizer, sentences)
    close.assert_close(results["merged"].log_probabilities.exp(), merged)
    assert torch.equal(results["fixed"].log_probabilities, results["fixed-0"].log_probabilities)


def test_one_strategy_alone_gives_what_it_gives_beside_others(mixture):
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    together = evaluate(mixture, task, tokenizer, ALL, seed=3)
    for result in together:
        alone = evaluate(mixture, task, tokenizer, [result.strategy], seed=3)[0]
        close.assert_close(alone.log_probabilities, result.log_probabilities)


def test_the_ensemble_averages_logits_or_probabilities_over_routes(mixture):
    batch = tiny.batch()
    with torch.no_grad():
        routes = mixture.space.draw(generator_for(1), (4,))
        logits = torch.stack([mixture(selection=route, **batch).logits for route in routes])
        by_logits = answer_by("ensemble", mixture, batch, generator_for(1))
        by_probabilities = answer_by("ensemble-probabilities", mixture, batch, generator_for(1))
    close.assert_close(by_logits, logits.mean(0).log_softmax(-1), close.ROUNDED)
    close.assert_close(by_probabilities.exp(), logits.softmax(-1).mean(0), close.ROUNDED)


def test_random_routes_are_replayable(mixture):
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    first, again, other = (evaluate(mixture, task, tokenizer, ["random-example"], seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first.log_probabilities, again.log_probabilities)
    assert not torch.equal(first.log_probabilities, other.log_probabilities)


def test_a_route_a_token_mixes_experts_inside_a_row(mixture):
    batch = tiny.batch(pad=False)
    with torch.no_grad():
        one = answer_by("random-token", mixture, batch, generator_for(0))
        fixed_ones = [answer_by(f"fixed-{n}", mixture, batch, generator_for(0)) for n in range(3)]
    assert all(not close.is_close(one, other) for other in fixed_ones)


def test_evaluation_leaves_the_mode_as_it_was_and_ignores_dropout():
    mixture = tiny.shake(tiny_task.mixture(dropout=0.5)).train()
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    first, second = (evaluate(mixture, task, tokenizer)[0] for _ in range(2))
    assert torch.equal(first.log_probabilities, second.log_probabilities)
    assert mixture.training


def regression():
    """Similarity of a kind: how many of the words are good ones, from 0 to 1; learnable by a tiny model."""
    from adamix_lab.tasks.tasks import Task

    base = tiny_task.task(rows=200)

    def scored(rows):
        return [{**row, "label": float(row["label"] == 0)} for row in rows]

    return Task("tiny", scored(base.train), scored(base.evaluation), ("sentence",))


def test_a_regression_is_trained_judged_and_predicted():
    task, tokenizer = regression(), tiny_task.tokenizer()
    mixture = attach(tiny.bert(num_labels=1), Bottleneck(4), experts=3, share="up", seed=1)
    before = evaluate(mixture, task, tokenizer)[0]
    train(mixture, task, tokenizer, tiny_task.recipe(steps=40, lr=1e-2, consistency=Consistency(1.0, "mse")))
    results = evaluate(mixture, task, tokenizer, ALL)
    for result in results:
        assert result.log_probabilities.shape == (len(task.evaluation), 1) and math.isnan(result.accuracy)
        assert list(result.metrics) == ["pearson", "spearman"] and "accuracy" not in result.row()
        wrong = (result.predictions - result.labels).square().mean()
        close.assert_close(result.loss, float(wrong))
    assert results[0].loss < before.loss and results[0].metrics["pearson"] > before.metrics["pearson"]
    numbers = predict(mixture, tokenizer, [row["sentence"] for row in task.evaluation])
    assert numbers.shape == (len(task.evaluation), 1)
    close.assert_close(numbers[:, 0], results[0].predictions)


def test_a_table_shows_the_tasks_own_metrics(mixture):
    from dataclasses import replace

    from adamix_lab.experiments.seeds import over_seeds

    task = replace(tiny_task.task(), metrics=("matthews", "f1"))
    result = evaluate(mixture, task, tiny_task.tokenizer())[0]
    assert {"accuracy", "matthews", "f1"} <= result.row().keys()
    table = over_seeds([[result]])
    assert f"{100 * result.metrics['matthews']:.1f}" in table and "matthews" in table and "accuracy" not in table


def test_predict_takes_what_holds_texts_and_names_its_answers(mixture):
    import copy
    import pickle

    import pandas

    declare(mixture.model, "classes", ("good", "bad", "neither"))
    tokenizer, sentences = tiny_task.tokenizer(), ["w0 w1", "w5", "w9 w8 w7"]
    found = predict(mixture, tokenizer, sentences)
    named = [found.names[n] for n in found.argmax(-1)]
    assert found.names == ("good", "bad", "neither") and found.labels == named
    assert predict(mixture, tokenizer, sentences[0]).labels == named[:1]
    frame = pandas.DataFrame({"text": sentences, "stars": [1, 2, 3]}, index=[7, 8, 9])
    rows = frame.to_dict("records")
    for texts in (frame, rows, frame["text"], iter(sentences)):
        again = predict(mixture, tokenizer, texts)
        assert torch.equal(again, found) and again.labels == named
    close.assert_close(predict(mixture, tokenizer, rows[1]), found[1:2])  # other batches, other sums
    assert predict(mixture, tokenizer, frame.rename(columns={"text": "said"}), text="said").labels == named
    pairs = predict(mixture, tokenizer, [("w0", "w5"), ("w1", "w9")])
    table = pandas.DataFrame({"premise": ["w0", "w1"], "hypothesis": ["w5", "w9"]})
    assert torch.equal(pairs, predict(mixture, tokenizer, table)) and pairs.shape == (2, 3)
    with pytest.raises(ValueError, match=r"Text 2, .*does not fit"):
        predict(mixture, tokenizer, pandas.DataFrame({"text": ["a", None]}))
    # It is a tensor, and what is computed of it is a plain one.
    assert type(found - found) is type(found[0]) is type(found.log()) is torch.Tensor
    for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert torch.equal(copied, found) and copied.labels == named
    lines = str(found).splitlines()
    assert len(lines) == 3 and named[0] in lines[0] and lines[0].endswith(f"{100 * float(found[0].max()):5.1f} %")


def test_predict_names_several_labels_and_numbers():
    tokenizer, several = tiny_task.tokenizer(), tiny_task.mixture()
    declare(several.model, "labels", ("x", "y", "z"))
    found = predict(several, tokenizer, ["w0 w1", "w5"])
    holds = [tuple(name for name, p in zip("xyz", row, strict=True) if p > 0.5) for row in found.tolist()]
    assert found.labels == holds and len(str(found).splitlines()) == 2
    declare(several.model, "numbers", ("x", "y", "z"))
    numbers = predict(several, tokenizer, ["w0 w1", "w5"])
    assert numbers.labels == numbers.tolist() and len(numbers.labels[0]) == 3


def test_bad_input_is_named(mixture):
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    with pytest.raises(ValueError, match=r"Strategy 'merge' is not known.*Did you mean 'merged'"):
        evaluate(mixture, task, tokenizer, ["merge"])
    with pytest.raises(ValueError, match="head answers 3 labels: expected 1 for task 'tiny'"):
        evaluate(mixture, regression(), tokenizer)
    for texts in ([], ("a", "b"), [3], [("a", "b", "c")], ["a", ("b", "c")], [{"sentence": 3}], [{"words": "a"}]):
        with pytest.raises(ValueError, match="expected"):
            predict(mixture, tokenizer, texts)
    assert predict(mixture, tokenizer, [""]).shape == (1, 3)
    for label in (3, -1, -100):
        rows = [*task.evaluation[:-1], {**task.evaluation[-1], "label": label}]
        with pytest.raises(ValueError, match=f"Label {label} is outside the 3 classes"):
            evaluate(mixture, replace(task, evaluation=rows), tokenizer)
    with pytest.raises(ValueError, match="Expert 7 is out of range: expected 0 to 2"):
        evaluate(mixture, task, tokenizer, ["fixed-7"])


def test_a_language_model_is_not_asked_for_classes():
    mixture = attach(tiny.gpt2(), Bottleneck(4))
    assert mixture.head_paths == ()


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_row_of_a_decoder_classifier_is_answered_as_it_is_alone(side):
    tokenizer = tiny_task.tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = "w39", side
    model = tiny.llama(cls="LlamaForSequenceClassification")
    model.config.pad_token_id = tokenizer.pad_token_id
    mixture = tiny.mixed(model, Bottleneck(4), experts=2)
    task = replace(tiny_task.task(), evaluation=tiny_task.task().evaluation[:6])
    rows = [row["sentence"] for row in task.evaluation]
    alone = torch.cat([predict(mixture, tokenizer, [row]) for row in rows])
    close.assert_close(predict(mixture, tokenizer, rows), alone)
    close.assert_close(evaluate(mixture, task, tokenizer)[0].log_probabilities.exp(), alone)
    if side == "right":
        model.config.pad_token_id = 0
        for answer in (lambda: predict(mixture, tokenizer, rows), lambda: evaluate(mixture, task, tokenizer)):
            with pytest.raises(ValueError, match="pad_token_id = 0: expected the tokenizer's"):
                answer()
        with pytest.raises(ValueError, match="pad_token_id = 0: expected the tokenizer's"):
            train(mixture, task, tokenizer, tiny_task.recipe(), progress=False)
