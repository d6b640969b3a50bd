"""A task's kind is obeyed from its rows to its metrics: several labels, several numbers, a class a token, texts."""

import math
from dataclasses import replace

import close
import pytest
import tiny
import tiny_task
import torch
from sklearn.metrics import f1_score
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.objective import Consistency
from adamix_lab.core.sites import answer_kind, class_names
from adamix_lab.models.model import attach
from adamix_lab.tasks.batches import label_tensor
from adamix_lab.tasks.tasks import Task, few_shot, hold_out
from adamix_lab.training.evaluation import evaluate, judge, predict
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train

TEXTS = [" ".join(tiny_task.WORDS[n % 7 : n % 7 + 1 + n % 4]) for n in range(24)]
MARKS = {"labels": ("food", "service", "price"), "numbers": ("joy", "fear", "calm")}


def _task(kind):
    label = {"labels": lambda n: [n % 2, n // 2 % 2, 1], "numbers": lambda n: [n / 3, -n / 5, 0.1 * n]}[kind]
    rows = [{"sentence": text, "label": label(n)} for n, text in enumerate(TEXTS)]
    return Task(kind, rows, rows, ("sentence",), classes=MARKS[kind], kind=kind if kind == "numbers" else None)


def _trained(task, model=None, **settings):
    mixture = attach(model or tiny.bert(), LoRA(2), experts=2)
    recipe = Recipe(steps=4, batch_size=4, dev_fraction=0.25, consistency=Consistency(1.0, "mse"))
    history = train(mixture, task, tiny_task.tokenizer(), recipe, progress=False, **settings)
    return mixture, history


def test_a_task_knows_its_kind():
    labels, numbers = _task("labels"), _task("numbers")
    assert (labels.kind, labels.metrics, labels.regression, labels.num_labels) == ("labels", ("f1",), False, 3)
    assert (numbers.kind, numbers.metrics, numbers.num_labels) == ("numbers", ("pearson", "spearman"), 3)
    assert replace(tiny_task.task(), classes=()).kind == "classes" and tiny_task.task().kind == "classes"
    assert len(few_shot(labels, 5).train) == 5 and [len(part) for part in hold_out(labels.train, 0.25, 0)] == [18, 6]


@pytest.mark.parametrize(("label", "says"), [([1, 0], "0 or 1 for each of food"), ([1, 0, 2], "0 or 1 for each")])
def test_labels_that_do_not_fit_are_named(label, says):
    with pytest.raises(ValueError, match=says):
        label_tensor(label, _task("labels"))


@pytest.mark.parametrize(("kind", "says"), [("labels", "Label 1 .*expected 0 or 1"), ("numbers", "a number")])
def test_one_number_for_several_is_refused(kind, says):
    with pytest.raises(ValueError, match=f"{says} for each of {', '.join(MARKS[kind])}"):
        label_tensor(1, _task(kind))


@pytest.mark.parametrize("kind", MARKS)
def test_train_writes_the_kind_and_the_names_and_all_strategies_obey(kind):
    task = _task(kind)
    mixture, history = _trained(task)
    assert answer_kind(mixture.model) == kind and class_names(mixture.model) == MARKS[kind]
    assert "accuracy" not in history.looks[0]["dev"] and math.isfinite(history.losses[-1])
    names = ("merged", "fixed", "random", "ensemble", "ensemble-probabilities")
    for result in evaluate(mixture, task, tiny_task.tokenizer(), names):
        assert result.kind == kind and result.labels.shape == (24, 3) == result.predictions.shape
        assert math.isfinite(result.loss) and set(result.metrics) == set(task.metrics)
    merged = evaluate(mixture, task, tiny_task.tokenizer())[0]
    found = predict(mixture, tiny_task.tokenizer(), TEXTS)
    ours = merged.log_probabilities if kind == "numbers" else merged.log_probabilities.exp()
    close.assert_close(torch.Tensor(found), ours)
    if kind == "labels":
        expected = f1_score(merged.labels.numpy(), merged.predictions.numpy(), average="macro", zero_division=0)
        close.assert_close(torch.tensor(merged.metrics["f1"]), torch.tensor(expected))
        assert merged.right.shape == (24,) and found.labels[0] == tuple(
            name for name, p in zip(found.names, found[0].tolist(), strict=True) if p > 0.5
        )


def test_an_ensemble_of_several_labels_averages_their_probabilities():
    mixture, _ = _trained(_task("labels"))
    tokenizer = tiny_task.tokenizer()
    result = evaluate(mixture, _task("labels"), tokenizer, ("ensemble-probabilities",))[0]
    assert bool((result.log_probabilities <= 0).all())
    assert float(result.log_probabilities.exp().sum(-1).sub(1).abs().max()) > 1e-3  # no distribution over labels


def test_a_metric_keeps_its_meaning_whatever_classes_occur():
    answers = torch.log_softmax(torch.tensor([[2.0, 0, -1], [0, 2, -1], [0, 2, -1], [2, 0, -1]]), -1)
    labels = torch.tensor([0, 1, 0, 0])
    macro = f1_score(labels, answers.argmax(-1), average="macro")
    assert judge("merged", 1, answers, labels, ("f1",)).metrics["f1"] == pytest.approx(macro)
    binary = f1_score(labels, answers.argmax(-1))
    assert judge("merged", 1, answers[:, :2], labels, ("f1",)).metrics["f1"] == pytest.approx(binary)


def test_one_label_that_may_hold_is_no_regression():
    result = judge("merged", 1, torch.tensor([[0.9], [0.2]]).log(), torch.tensor([[1.0], [1.0]]), ("f1",), "labels")
    assert result.predictions.tolist() == [[1], [0]] and result.right.tolist() == [True, False]


def test_evaluate_compares_names_their_order_and_the_kind():
    mixture, task = attach(tiny.bert(), LoRA(2), experts=2), tiny_task.task()
    tokenizer = tiny_task.tokenizer()
    evaluate(mixture, replace(task, classes=("x", "y", "z")), tokenizer)  # nothing was declared yet
    train(mixture, task, tokenizer, tiny_task.recipe(steps=1), progress=False)
    evaluate(mixture, replace(task, classes=("Good", "bad", "NEITHER")), tokenizer)
    evaluate(mixture, replace(task, classes=("0", "1", "2")), tokenizer)
    with pytest.raises(ValueError, match="has the classes bad, good, neither: expected good, bad, neither, in this"):
        evaluate(mixture, replace(task, classes=("bad", "good", "neither")), tokenizer)
    with pytest.raises(ValueError, match="has the classes ham, spam, eggs: expected good"):
        evaluate(mixture, replace(task, classes=("ham", "spam", "eggs")), tokenizer)
    with pytest.raises(ValueError, match=r"asks for labels, the head answers with classes.*multi_label_classification"):
        evaluate(mixture, _task("labels"), tokenizer)


# -- by an encoder of one's own --


def _tokens(rows, task, tokenizer, max_length):
    encoded = [torch.tensor(tokenizer(row["sentence"])["input_ids"]) for row in rows]
    inner = [torch.arange(len(ids)) % 3 for ids in encoded]
    for labels in inner:
        labels[[0, -1]] = -100
    return [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        for ids, labels in zip(encoded, inner, strict=True)
    ]


def test_tokens_are_judged_where_they_are_labelled():
    rows = [{"sentence": text} for text in TEXTS]
    task = Task("marks", rows, rows, ("sentence",), classes=("O", "B", "I"), kind="tokens")
    mixture, history = _trained(task, tiny.bert(cls="BertForTokenClassification"), encoder=_tokens)
    assert answer_kind(mixture.model) == "tokens" and class_names(mixture.model) == ("O", "B", "I")
    assert 0 <= history.looks[0]["dev"]["accuracy"] <= 1
    tokenizer = tiny_task.tokenizer()
    results = [evaluate(mixture, task, tokenizer, batch_size=size, encoder=_tokens)[0] for size in (1, 24)]
    examples = _tokens(rows, task, tokenizer, 0)
    with torch.no_grad():
        alone = [mixture(input_ids=e["input_ids"][None]).logits[0][e["labels"] >= 0].argmax(-1) for e in examples]
    labels = torch.cat([example["labels"][example["labels"] >= 0] for example in examples])
    for result in results:
        assert result.labels.equal(labels) and result.predictions.equal(torch.cat(alone))
        assert result.accuracy == float((result.predictions == labels).double().mean())
    bare = tiny.bert(cls="BertForTokenClassification")
    for call in (lambda: evaluate(mixture, task, tokenizer), lambda: _trained(task, bare)):
        with pytest.raises(ValueError, match="The head answers every token: expected encoder="):
            call()
    with pytest.raises(ValueError, match="answers with tokens"):
        predict(mixture, tokenizer, TEXTS)


def test_a_dev_slice_of_texts_reads_the_labels_that_the_decoder_reads():
    def encoder(rows, task, tokenizer, max_length):
        ids = [torch.tensor(tokenizer(row["sentence"])["input_ids"]) for row in rows]
        return [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": torch.tensor([6, 3])} for i in ids]

    rows = [{"sentence": text, "label": 0} for text in TEXTS]
    task = Task("texts", rows, rows, ("sentence",), classes=("a", "b"))
    mixture = attach(tiny.t5(), LoRA(2), experts=2)
    recipe = Recipe(steps=4, batch_size=4, dev_fraction=0.25)
    history = train(mixture, task, tiny_task.tokenizer(), recipe, progress=False, encoder=encoder)
    assert history.looks and "accuracy" not in history.looks[0]["dev"]


def test_a_head_for_spans_is_trained_and_not_judged():
    def encoder(rows, task, tokenizer, max_length):
        ids = [torch.tensor(tokenizer(row["sentence"])["input_ids"]) for row in rows]
        return [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": torch.tensor([0, 1])} for i in ids]

    rows = [{"sentence": text} for text in TEXTS]
    task = Task("spans", rows, rows, ("sentence",), kind="spans")
    model = tiny.bert(cls="BertForQuestionAnswering", num_labels=2)
    mixture = attach(model, LoRA(2), experts=2)
    train(mixture, task, tiny_task.tokenizer(), Recipe(steps=2, batch_size=4), progress=False, encoder=encoder)
    with pytest.raises(ValueError, match="The model marks spans"):
        evaluate(mixture, task, tiny_task.tokenizer(), encoder=encoder)
