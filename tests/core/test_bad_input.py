"""What is missing or wrong is told in words, where the person looks. Where each kind of bad input is tested:

texts, ends of sliders, configurations      test_widgets.py; in the browser test_browser.py
a kernel restarted under an open widget     test_browser.py; its words, here
loops, hogs, deleted tests                  test_classroom_sandbox.py, test_classroom_grading.py
submissions that are no notebooks           test_classroom_grading.py, test_mend.py, test_odd_downloads.py
hostile submissions, grading that is killed test_hostile_class.py, test_guard.py, test_killed_grading.py
no GPU, missing packages, tables and runs   here; effect tables, test_effects.py
"""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from adamix_lab.analysis.study import choose_device
from adamix_lab.core.errors import extra
from adamix_lab.lessons import answers, consistency
from adamix_lab.lessons.widgets import Prediction, heading
from adamix_lab.tasks.rows import open_parquet


def test_no_gpu_is_told_with_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=r"there is none here\. Leave `device` out"):
            choose_device(device)
    assert choose_device(None) == "cpu" and choose_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(None) == "cuda" and choose_device("cuda:1") == "cuda:1"


def test_a_dial_without_its_runs_says_what_makes_them(monkeypatch, tmp_path):
    def nowhere(name, seed, *rest, **more):
        return tmp_path / f"{name}-{seed}.safetensors"

    monkeypatch.setattr(answers, "place_of", nowhere)
    answers.load_answers.cache_clear()
    try:
        with pytest.raises(FileNotFoundError, match=r"no-consistency-20.*data/experts/make.py noisy"):
            consistency.consistency_dial()
    finally:
        answers.load_answers.cache_clear()


def test_every_head_carries_hidden_words_for_a_kernel_that_is_gone():
    for head in (heading("A <b>", "Reach 5."), Prediction("Who wins?", ("A", "B")).box.children[0].value):
        assert "adamix-lost { display: none; }" in head and "Run All Cells" in head
    assert "A &lt;b&gt;" in heading("A <b>")


def test_what_is_installed_is_not_said_to_be_missing(monkeypatch):
    for name in ("a_package", "a_package.part"):
        with (
            pytest.raises(ImportError, match=rf"needs {name}, which is not installed.*adamix-lab\[data\]"),
            extra("data"),
        ):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    with pytest.raises(ImportError, match=r"^cannot import name 'new' from 'json'"), extra("data"):
        from json import new  # noqa: F401  # an older version, or one that is broken
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"adamix-lab\[analysis\]"):  # which brings it
        open_parquet(Path("table.parquet"))
