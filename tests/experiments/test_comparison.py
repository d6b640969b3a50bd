"""The table of tasks x methods on a tiny model: every cell, resuming, what is said."""

import json

import pytest
import tiny
import tiny_task

from adamix_lab.experiments import comparison
from adamix_lab.experiments.comparison import compare, finite, table, words
from adamix_lab.experiments.methods import METHODS, Budget

BUDGET = Budget(steps=3, batch_size=8, max_length=6, top_blocks=1)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.bert(num_labels=2).save_pretrained(folder)
    tiny_task.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sentences = [row["sentence"] for row in tiny_task.task().train]
    tables = {
        "cola": [{"sentence": s, "label": n % 2} for n, s in enumerate(sentences)],
        "stsb": [{"sentence1": s, "sentence2": "w1", "label": (n % 11) / 2} for n, s in enumerate(sentences)],
        "mnli": [{"premise": s, "hypothesis": "", "label": n % 3} for n, s in enumerate(sentences)],
    }
    for name, rows in tables.items():
        (folder / name).mkdir()
        parts = {"train": rows[:60], "validation": rows[60:]}
        if name == "mnli":
            parts["validation_mismatched"] = rows[50:80]
        for part, some in parts.items():
            (folder / name / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def test_every_task_by_every_method(data, backbone, tmp_path):
    said = []
    cells = compare(data, tmp_path, BUDGET, backbone, rows=40, evaluation_rows=20, say=said.append)
    assert {(c["task"], c["method"]) for c in cells} == {(t, m) for t in ("cola", "stsb", "mnli") for m in METHODS}
    assert {name for c in cells for name in c["metrics"]} == {
        "matthews", "pearson", "spearman", "accuracy", "accuracy, mismatched",
    }  # fmt: skip
    for cell in cells:
        assert cell["training_rows"] == 40 and set(cell["evaluation_rows"].values()) == {20}
        assert cell["seconds"] >= 0 and cell["trained_parameters"] >= cell["kept_parameters"] > 0
    counts = {c["method"]: (c["trained_parameters"], c["kept_parameters"]) for c in cells if c["task"] == "cola"}
    assert counts["AdaMix"][0] > counts["AdaMix"][1] == counts["single bottleneck"][1] > counts["linear probe"][0]
    text = (tmp_path / "table.txt").read_text()
    assert said[-1].strip() == text.strip() and "trained on 40 rows, judged on 20 (mnli), 20 (mnli-mismatched)" in text
    assert "longer than max_length = 6 tokens" in text
    kept = json.loads((tmp_path / "table.json").read_text())
    assert kept["cells"] == json.loads(json.dumps(finite(cells))) and kept["evaluation_rows"] == 20


def test_finished_cells_are_not_run_again(data, backbone, tmp_path, monkeypatch):
    ran = []
    real = comparison.run_cell

    def stops_at_third(task, method, *rest):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append((task.name, method))
        return real(task, method, *rest)

    monkeypatch.setattr(comparison, "run_cell", stops_at_third)
    options = {"methods": ["linear probe", "AdaMix"], "tasks": ["cola", "stsb"], "say": lambda line: None}
    with pytest.raises(KeyboardInterrupt):
        compare(data, tmp_path, BUDGET, backbone, **options)
    assert len(json.loads((tmp_path / "table.json").read_text())["cells"]) == 2
    ran.clear()
    cells = compare(data, tmp_path, BUDGET, backbone, **options)
    assert ran == [("stsb", "linear probe"), ("stsb", "AdaMix")] and len(cells) == 4
    with pytest.raises(ValueError, match=r"table.json holds a table with budget = .*Give another --out"):
        compare(data, tmp_path, Budget(steps=4), backbone, **options)


def test_bad_input(data, tmp_path):
    with pytest.raises(ValueError, match=r"Task 'col' is not known.*Did you mean 'cola'"):
        compare(data, tmp_path, BUDGET, tasks=["col"])
    with pytest.raises(ValueError, match=r"Method 'lora' is not known.*Did you mean 'LoRA'"):
        compare(data, tmp_path, BUDGET, methods=["lora"])
    with pytest.raises(FileNotFoundError, match="holds no task's folder"):
        compare(tmp_path, tmp_path, BUDGET)


def test_an_undefined_metric_is_said_and_is_no_number_in_json():
    nan = float("nan")
    assert words({"pearson": nan, "f1": 0.5}) == "pearson undefined, f1 50.0 %"
    cell = {
        "task": "stsb", "method": "LoRA", "metrics": {"pearson": nan}, "seconds": 1.0, "trained_parameters": 1000,
        "kept_parameters": 10, "training_rows": 3, "evaluation_rows": {"stsb": 2}, "notes": ["odd"],
    }  # fmt: skip
    text = table([cell], {"backbone": "b", "budget": {}})
    assert "undefined" in text and "1,000" in text and "  odd" in text
    assert json.dumps(finite(cell), allow_nan=False)
