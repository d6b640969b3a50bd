"""data/results/landscape/theory.py: pairs, tables that are written set by set, pictures with their numbers."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_task

from adamix_lab.analysis.landscape import task_batches

MAKER = Path(__file__).resolve().parents[2] / "data" / "results" / "landscape" / "theory.py"
spec = importlib.util.spec_from_file_location("theory_maker", MAKER)
maker = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = maker  # where dataclasses look
spec.loader.exec_module(maker)

pytestmark = pytest.mark.usefixtures("one_thread")
one_thread = tiny_task.one_thread


def quiet(_):
    pass


def test_pairs_are_different_and_seeded():
    mixture = tiny_task.mixture(blocks=(-1,))
    task = tiny_task.task()
    batches = task_batches(task, tiny_task.tokenizer(), 8)
    gaps = maker.gaps_of_pairs(mixture, batches, 3)  # three routes make three pairs
    assert len({gap.ensemble for gap in gaps}) == 3
    assert [gap.row() for gap in maker.gaps_of_pairs(mixture, batches, 3)] == [gap.row() for gap in gaps]
    with pytest.raises(ValueError, match=r"pairs = 4: expected at most 3"):
        maker.gaps_of_pairs(mixture, batches, 4)


@pytest.mark.slow
def test_the_tables_of_theory_are_written_set_by_set_and_drawn(tmp_path, monkeypatch):
    asked = maker.Study(("adamix",), (0,), ("early", "late"), rows=8, pairs=3, scaled=2, probes=2)
    real, seen = maker.study_set, []

    def study_set(study, place):
        if len(seen) == 1:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(place["stage"])
        return real(study, place)

    monkeypatch.setattr(maker, "study_set", study_set)
    with pytest.raises(KeyboardInterrupt):
        maker.write_theory(tmp_path, asked, quiet)
    tables = maker.write_theory(tmp_path, asked, quiet)
    assert seen == ["early", None, "late"]  # killed in the second set: the first was kept
    assert {name: len(rows) for name, rows in tables.items() if name != "stages"} == {
        "pairs": 6, "scales": 8, "barycentres": 2, "curvature": 2,
    }  # fmt: skip
    written = json.loads((tmp_path / "theory.json").read_text(encoding="utf-8"))
    assert written["pairs"] == tables["pairs"] and written["study"]["rows"] == 8 and "torch" in written["versions"]
    for name in ("gaps", "scales", "stages", "curvature"):
        assert (tmp_path / f"{name}.png").is_file() and (tmp_path / f"{name}.txt").is_file()
    with pytest.raises(ValueError, match=r"holds another study"):
        maker.write_theory(tmp_path, replace(asked, rows=9), quiet)


ROWS = [
    {"twin": twin, "seed": 0, "stage": stage, "scale": scale, "measured": m * scale, "estimate": 2 * m * scale}
    for n, twin in enumerate(("adamix", "apart"))
    for stage, m in (("early", 0.01 + n), ("late", 0.02 + n))
    for scale in (0.5, 1.0)
]


def test_estimates_are_drawn_with_their_correlation():
    picture = maker.plot_gaps(ROWS, ROWS[:3])
    assert "pairs of routes: 8 points, correlation 1.00, of ranks 1.00" in picture.alt
    assert "all experts against all routes: 3 points" in picture.alt
    assert "apart at 0.5: 0.51 and 1, 1: 1" in maker.plot_scales(ROWS).alt


def test_stages_are_drawn():
    rows = [{**row, "measure": "cka", "value": row["measured"]} for row in ROWS]
    assert "CKA of experts' updates, adamix: 0.007, 0.015" in maker.plot_stages(rows, ("cka",)).alt
