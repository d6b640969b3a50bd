"""The commands' functions on shipped experts: arrays and pictures are written, and say what they show."""

from dataclasses import replace

import pytest
import tiny_task

from adamix_lab.analysis import landscape, study
from adamix_lab.analysis.landscape import read_landscape
from adamix_lab.analysis.study import write_landscapes

pytestmark = pytest.mark.usefixtures("one_thread")
one_thread = tiny_task.one_thread


def test_every_kind_has_points():
    mixture = tiny_task.mixture(experts=4)
    for kind in study.KINDS:
        points = study.points_of_kind(kind, mixture, 3)
        assert points.references and len(points) >= 3
    with pytest.raises(ValueError, match=r"kind of landscape 'plain' is not known.*'plane'"):
        study.points_of_kind("plain", mixture)
    with pytest.raises(ValueError, match=r"has 2 experts: expected 3"):
        study.points_of_kind("triangle", tiny_task.mixture(experts=2))


def test_batches_of_a_task_and_an_empty_evaluation_set():
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    batches = landscape.task_batches(task, tokenizer, rows=10, batch_size=4)
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 2]
    with pytest.raises(ValueError, match=r"evaluation set of 'tiny' is empty"):
        landscape.task_batches(replace(task, evaluation=[]), tokenizer)


def test_rows_of_a_sorted_set_are_of_every_class_and_padding_is_where_the_head_does_not_read():
    """Embedded sentences stand in the order of their classes: the first of them would be of one class."""
    task, tokenizer = tiny_task.task(rows=96), tiny_task.tokenizer()
    by_class = replace(task, evaluation=sorted(task.evaluation, key=lambda row: row["label"]))
    for rows in (1, 12, 30, 31, None):
        batches = landscape.task_batches(by_class, tokenizer, rows)
        labels = [int(label) for batch in batches for label in batch["labels"]]
        assert len(labels) == min(rows or 30, 30) and (rows == 1 or {*labels} == {0, 1, 2})
    tokenizer.padding_side = "left"
    with pytest.warns(UserWarning, match="padded on the right"):
        (batch,) = landscape.task_batches(task, tokenizer, model=tiny_task.mixture().model)
    assert bool(batch["attention_mask"][:, 0].all())


def test_shipped_experts_are_drawn_and_a_second_call_computes_nothing(tmp_path):
    names, said = ["adamix", "apart"], []
    settings = {"steps": 3, "rows": 16, "say": said.append}
    found = write_landscapes(names, "plane", tmp_path, ["loss", "accuracy"], **settings)
    assert found["adamix"].marks == ("expert 0", "expert 1", "merged") and found["adamix"].rows == 16
    for name in names:
        assert read_landscape(tmp_path / f"plane-{name}.safetensors").finished
    for metric in ("loss", "accuracy"):
        assert (tmp_path / f"plane-{metric}.png").is_file() and "adamix: expert 0" in (
            tmp_path / f"plane-{metric}.txt"
        ).read_text(encoding="utf-8")
    write_landscapes(names, "plane", tmp_path, **settings)
    assert any("1 of 1 batches are done" in line for line in said)
    with pytest.raises(ValueError, match=r"Twin, or folder, 'adamx' is not known"):
        write_landscapes(["adamx"], "line", tmp_path)
    with pytest.raises(ValueError, match=r"metric 'los' is not known"):
        write_landscapes(names, "line", tmp_path, ["los"])
