"""Rows drawn from a task: few to train on, few to be judged on."""

from collections import Counter
from dataclasses import replace

import pytest
import tiny_task

from adamix_lab.tasks.tasks import Task, few_shot, subsample

TASK = tiny_task.task(rows=300)


def classes(task):
    return Counter(row["label"] for row in task.train)


def test_thirty_in_all_the_same_of_each_class_by_seed():
    few = few_shot(TASK)
    assert classes(few) == {0: 10, 1: 10, 2: 10} and few.evaluation == TASK.evaluation
    assert few == few_shot(TASK, seed=0) and few.train != few_shot(TASK, seed=1).train
    assert all(row in TASK.train for row in few.train)
    assert sorted(classes(few_shot(TASK, 32)).values()) == [10, 11, 11]


def test_a_regression_is_drawn_at_random():
    rows = [{"sentence": str(n), "label": n / 7} for n in range(50)]
    task = Task("scores", rows, rows, ("sentence",))
    assert len(few_shot(task).train) == 30
    with pytest.raises(ValueError, match="60 examples of the task were asked for, 'scores' has 50"):
        few_shot(task, 60)


def test_more_than_there_are():
    with pytest.raises(ValueError, match="101 examples of class 'good' were asked for, 'tiny' has 100"):
        few_shot(TASK, 303)
    rare = replace(TASK, train=[row for row in TASK.train if row["label"] != 1][:20])
    with pytest.raises(ValueError, match=r"examples of class '.*' were asked for"):
        few_shot(rare)
    for wrong in (0, -3, 2):
        with pytest.raises(ValueError, match="examples"):
            few_shot(TASK, wrong)


def test_rows_to_be_judged_on():
    with pytest.raises(ValueError, match="evaluation_rows = 0"):
        subsample(tiny_task.task(), 0)
    assert subsample(tiny_task.task(), 10**6).evaluation == tiny_task.task().evaluation
