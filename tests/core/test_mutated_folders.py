"""Damaged folders end in a clear error or in equal answers; `python tests/mutated_folders.py` counts them by hand."""

import mutated_folders
import pytest
from tiny_task import one_thread  # noqa: F401


@pytest.mark.slow
def test_damaged_folders_are_refused_or_give_equal_answers(tmp_path):
    counts, defects = mutated_folders.mutate(tmp_path, every=2)
    assert not defects, "\n".join(defects)
    assert sum(counts.values()) >= 660 and len({kind for kind, _, _ in counts}) == len(mutated_folders.KINDS)


def test_a_few_damaged_folders(tmp_path, monkeypatch):
    kinds = ("saved bottlenecks", "rows as JSON", "grids")
    monkeypatch.setattr(mutated_folders, "KINDS", {kind: mutated_folders.KINDS[kind] for kind in kinds})
    counts, defects = mutated_folders.mutate(tmp_path, every=5)
    assert not defects, "\n".join(defects)
    assert sum(counts.values()) >= 30
