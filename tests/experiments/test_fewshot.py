"""Few examples: runs over seeds on a tiny model."""

import json
import statistics

import pytest
import tiny
import tiny_task

from adamix_lab.experiments.fewshot import run_few_shot
from adamix_lab.experiments.methods import Budget
from adamix_lab.tasks.prompts import Prompt

TASK = tiny_task.task(rows=300)


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
