"""The commands' functions on shipped experts: arrays and pictures are written, and say what they show."""

import json
from dataclasses import replace

import pytest
import tiny_task

from adamix_lab.analysis import gallery, kinds
from adamix_lab.analysis.estimates import Study, gaps_of_pairs
from adamix_lab.analysis.gallery import write_landscapes
from adamix_lab.analysis.landscape import read_landscape
from adamix_lab.analysis.points import point_of

pytestmark = pytest.mark.usefixtures("one_thread")
one_thread = tiny_task.one_thread


def quiet(_):
    pass


def test_every_kind_has_points():
    mixture = tiny_task.mixture(experts=4)
    stages = {f"{n}": point_of(mixture, mixture.space.fixed(n)) for n in range(3)}
    for kind in kinds.KINDS:
        points = kinds.points_of_kind(kind, mixture, 3, stages=stages)
        assert points.references and len(points) >= 3
    with pytest.raises(ValueError, match=r"kind of landscape 'plain' is not known.*'plane'"):
        kinds.points_of_kind("plain", mixture)
    with pytest.raises(ValueError, match=r'"stages" needs checkpoints'):
        kinds.points_of_kind("stages", mixture)
    with pytest.raises(ValueError, match=r"has 3 experts: expected 4"):
        kinds.points_of_kind("square", tiny_task.mixture(experts=3))


def test_batches_of_a_task_and_an_empty_evaluation_set():
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    batches = kinds.task_batches(task, tokenizer, rows=10, batch_size=4)
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 2]
    with pytest.raises(ValueError, match=r"evaluation set of 'tiny' is empty"):
        kinds.task_batches(replace(task, evaluation=[]), tokenizer)


def test_shipped_experts_are_drawn_and_a_second_call_computes_nothing(tmp_path):
    names, said = ["adamix", "apart"], []
    settings = {"steps": 3, "rows": 16, "say": said.append}
    found = write_landscapes(names, "stages", tmp_path, ["loss", "accuracy"], **settings)
    assert found["adamix"].marks == ("early", "middle", "late") and found["adamix"].rows == 16
    assert found["adamix"].at("late") < found["adamix"].at("early")
    for name in names:
        assert read_landscape(tmp_path / f"stages-{name}.safetensors").finished
    for metric in ("loss", "accuracy"):
        assert (tmp_path / f"stages-{metric}.png").is_file() and "adamix: early" in (
            tmp_path / f"stages-{metric}.txt"
        ).read_text(encoding="utf-8")
    write_landscapes(names, "stages", tmp_path, **settings)
    assert any("1 of 1 batches are done" in line for line in said)
    with pytest.raises(ValueError, match=r"Twin, or folder, 'adamx' is not known"):
        write_landscapes(["adamx"], "line", tmp_path)
    with pytest.raises(ValueError, match=r"metric 'los' is not known"):
        write_landscapes(names, "line", tmp_path, ["los"])


def test_pairs_are_different_and_seeded():
    mixture = tiny_task.mixture(blocks=(-1,))
    task = tiny_task.task()
    batches = kinds.task_batches(task, tiny_task.tokenizer(), 8)
    gaps = gaps_of_pairs(mixture, batches, 3)  # three routes make three pairs
    assert len({gap.ensemble for gap in gaps}) == 3
    assert [gap.row() for gap in gaps_of_pairs(mixture, batches, 3)] == [gap.row() for gap in gaps]
    with pytest.raises(ValueError, match=r"pairs = 4: expected at most 3"):
        gaps_of_pairs(mixture, batches, 4)


@pytest.mark.slow
def test_the_tables_of_theory_are_written_set_by_set_and_drawn(tmp_path, monkeypatch):
    asked = Study(("adamix",), (0,), ("early", "late"), rows=8, pairs=3, scaled=2, probes=2)
    real, seen = gallery.study_set, []

    def study_set(study, place):
        if len(seen) == 1:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(place["stage"])
        return real(study, place)

    monkeypatch.setattr(gallery, "study_set", study_set)
    with pytest.raises(KeyboardInterrupt):
        gallery.write_theory(tmp_path, asked, quiet)
    tables = gallery.write_theory(tmp_path, asked, quiet)
    assert seen == ["early", None, "late"]  # killed in the second set: the first was kept
    assert {name: len(rows) for name, rows in tables.items() if name != "stages"} == {
        "pairs": 6, "scales": 8, "barycentres": 2, "curvature": 2,
    }  # fmt: skip
    written = json.loads((tmp_path / "theory.json").read_text(encoding="utf-8"))
    assert written["pairs"] == tables["pairs"] and written["study"]["rows"] == 8 and "torch" in written["versions"]
    for name in ("gaps", "scales", "stages", "curvature"):
        assert (tmp_path / f"{name}.png").is_file() and (tmp_path / f"{name}.txt").is_file()
    with pytest.raises(ValueError, match=r"holds another study"):
        gallery.write_theory(tmp_path, replace(asked, rows=9), quiet)
