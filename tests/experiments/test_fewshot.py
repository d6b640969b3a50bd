"""Few examples: the draw, and runs over seeds on a tiny model."""

import json
import statistics
from collections import Counter
from dataclasses import replace

import pytest
import tiny
import tiny_task

from adamix_lab.experiments.fewshot import few_shot, run_few_shot
from adamix_lab.experiments.methods import Budget
from adamix_lab.tasks.prompts import Prompt
from adamix_lab.tasks.tasks import Task

TASK = tiny_task.task(rows=300)


def classes(task):
    return Counter(row["label"] for row in task.train)


def test_thirty_in_all_the_same_of_each_class_by_seed():
    few = few_shot(TASK)
    assert classes(few) == {0: 10, 1: 10, 2: 10} and few.evaluation == TASK.evaluation
    assert few == few_shot(TASK, seed=0) and few.train != few_shot(TASK, seed=1).train
    assert all(row in TASK.train for row in few.train)
    assert sorted(classes(few_shot(TASK, 32)).values()) == [10, 11, 11]
    assert classes(few_shot(TASK, per_class=4)) == {0: 4, 1: 4, 2: 4}


def test_a_regression_is_drawn_at_random():
    rows = [{"sentence": str(n), "label": n / 7} for n in range(50)]
    task = Task("scores", rows, rows, ("sentence",))
    assert len(few_shot(task).train) == 30
    with pytest.raises(ValueError, match="per_class = 3 for 'scores', a regression"):
        few_shot(task, per_class=3)
    with pytest.raises(ValueError, match="60 examples of the task were asked for, 'scores' has 50"):
        few_shot(task, 60)


def test_more_than_there_are():
    with pytest.raises(ValueError, match="101 examples of class 'good' were asked for, 'tiny' has 100"):
        few_shot(TASK, per_class=101)
    rare = replace(TASK, train=[row for row in TASK.train if row["label"] != 1][:20])
    with pytest.raises(ValueError, match=r"examples of class '.*' were asked for"):
        few_shot(rare)
    for wrong in (0, -3, 2):
        with pytest.raises(ValueError, match="examples"):
            few_shot(TASK, wrong)
    with pytest.raises(ValueError, match="per_class = 0"):
        few_shot(TASK, per_class=0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokens = tiny_task.tokenizer()
    tokens.add_special_tokens({"mask_token": "[MASK]"})
    tiny.bert(cls="BertForMaskedLM").save_pretrained(folder)
    tokens.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("prompt", [None, Prompt("{first} w20 {mask}", ("w0", "w4", "w8"))])
def test_seeds_give_mean_and_standard_deviation(backbone, tmp_path, prompt):
    said = []
    budget = Budget(epochs=4, batch_size=8, max_length=32, top_blocks=2, prompt=prompt)
    record = run_few_shot(TASK, tmp_path, backbone, budget, ["AdaMix"], range(3), say=said.append)
    values = [cell["metrics"]["accuracy"] for cell in record["cells"]]
    assert [cell["seed"] for cell in record["cells"]] == [0, 1, 2] and len(set(values)) > 1
    summary = record["summary"]["AdaMix"]["accuracy"]
    assert summary == {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}
    assert f"accuracy {100 * summary['mean']:.1f} ({100 * summary['sd']:.1f})" in said[-1]
    kept = json.loads((tmp_path / "tiny.json").read_text())
    assert kept["summary"] == record["summary"] and kept["examples"] == 30 and "torch" in kept["versions"]
    trained = {cell["training_rows"] for cell in kept["cells"]}
    assert trained == {30}  # nothing is set aside


def test_an_unknown_method(backbone, tmp_path):
    with pytest.raises(ValueError, match=r"Method 'adamix' is not known.*Did you mean 'AdaMix'"):
        run_few_shot(TASK, tmp_path, backbone, methods=["adamix"])
