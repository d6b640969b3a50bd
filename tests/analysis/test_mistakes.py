"""Which rows two models answer apart, and which wrong labels each learned by heart: made by hand, and trained."""

from dataclasses import replace

import pytest
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.analysis.calibration import answered, by_heart, describe_mistakes, disagreements
from adamix_lab.baselines.making import baseline, fitted
from adamix_lab.tasks.tasks import flip_labels
from adamix_lab.training.evaluation import evaluate
from adamix_lab.training.train import train

TASK = replace(
    tiny_task.task(),
    train=[
        {"sentence": "w0 w1", "label": 0, "true_label": 0},
        {"sentence": "w4", "label": 0, "true_label": 1},  # wrong
        {"sentence": "w9", "label": 1, "true_label": 2},  # wrong
        {"sentence": "w5", "label": 1, "true_label": 1},
    ],
)


def log_p(*classes, sure=0.9):
    probabilities = torch.full((len(classes), 3), (1 - sure) / 2)
    return probabilities.scatter(1, torch.tensor(classes)[:, None], sure).log()


def test_by_hand():
    heart, sound = log_p(0, 0, 1, 1), log_p(0, 1, 0, 1, sure=0.6)
    heart[2] = log_p(1, sure=0.99)[0]
    answers = {"single": heart, "AdaMix": sound}
    table = disagreements(answers, TASK, TASK.train)
    assert list(table.columns) == ["row", "text", "given", "true", "single", "AdaMix"]
    assert table.to_numpy().tolist() == [
        [2, "w9", "bad", "neither", "bad", "good"],  # the surest first
        [1, "w4", "good", "bad", "good", "bad"],
    ]
    assert by_heart(answers, TASK, TASK.train) == {"single": (2, 0), "AdaMix": (0, 1)}
    lines = describe_mistakes(answers, TASK, TASK.train, most=1).splitlines()
    assert lines == [
        "2 of 4 labels are wrong: single learned 2 by heart and sets 0 right, "
        "AdaMix learned 0 by heart and sets 1 right.",
        '  "w9" (labelled bad, is neither): single says bad, AdaMix says good',
    ]
    assert len(answered({"single": heart}, TASK, TASK.train)) == 4


def test_pairs_and_rows_without_a_true_label():
    task = replace(tiny_task.task(), text=("sentence", "sentence"))
    rows = task.evaluation[:2]
    table = answered({"a": log_p(0, 1)}, task, rows)
    assert list(table["given"]) == list(table["true"]) and " | " in table["text"][0]
    assert by_heart({"a": log_p(0, 1)}, task, rows) == {"a": (0, 0)}


def test_what_cannot_be_compared_is_said():
    one = {"a": log_p(0, 1, 2, 0)}
    with pytest.raises(ValueError, match="1 models"):
        disagreements(one, TASK, TASK.train)
    with pytest.raises(ValueError, match=r"'a' answers \[4, 3\]: expected \[3, 3\]"):
        answered(one, TASK, TASK.train[:3])
    with pytest.raises(ValueError, match="another name than row, text"):
        answered({"given": log_p(0, 1, 2, 0)}, TASK, TASK.train)
    with pytest.raises(ValueError, match="asks for numbers: expected classes"):
        answered(one, replace(TASK, classes=(), kind="numbers"), TASK.train)


def test_an_adapter_that_trains_long_repeats_what_a_short_one_does_not():
    task = tiny_task.task(40)
    task = replace(task, train=flip_labels(task.train, 0.25, 0, task.label, task.classes))
    answers = {}
    for name, steps in (("long", 400), ("short", 1)):
        mixture = baseline("single", tiny_task.tiny.bert(), size=16)
        recipe = fitted("single", tiny_task.recipe(steps=steps, lr=3e-2))
        train(mixture, task, tiny_task.tokenizer(), recipe, progress=False)
        on_train = replace(task, evaluation=task.train)
        answers[name] = evaluate(mixture, on_train, tiny_task.tokenizer())[0].log_probabilities
    counts = by_heart(answers, task, task.train)
    assert counts["long"][0] > counts["short"][0]
    assert "labels are wrong: long learned" in describe_mistakes(answers, task, task.train)
