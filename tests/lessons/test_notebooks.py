"""Notebooks equal their sources, run without network, keep to their budgets, and are read out."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "notebooks"
SOURCES = sorted((ROOT / "src").glob("*.py"))

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(source):
    return nbformat.read(ROOT / f"{source.stem}.ipynb", as_version=4)


def errors_in_widgets(notebook):
    """Errors that widgets swallow: they stand only in the saved widget state, as outputs or in our own readouts."""
    state = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    outputs = [o for model in state.values() for o in model.get("state", {}).get("outputs", [])]
    readouts = [str(model.get("state", {}).get("value", "")) for model in state.values()]
    faults = [text for text in readouts if "fault of the widget" in text]
    return faults + [o for o in outputs if o.get("output_type") == "error"]


def test_a_widget_that_swallows_an_error_is_found():
    def saved(state):
        widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"a": {"state": state}}}}
        return nbformat.from_dict({"metadata": {"widgets": widgets}, "cells": []})

    assert errors_in_widgets(saved({"outputs": [{"output_type": "error", "ename": "KeyError"}]}))
    assert errors_in_widgets(saved({"value": "<div>KeyError: 'x' This is a fault of the widget, not yours.</div>"}))
    assert not errors_in_widgets(saved({"outputs": [{"output_type": "stream"}], "value": "fine"}))


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_cells_equal_the_source(build, source):
    assert not build.differs(source), f"run python notebooks/build.py {source.stem}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_committed_notebooks_are_executed_clean_and_read_out(source):
    notebook = committed(source)
    assert "widgets" not in notebook.metadata
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    images = [o for o in outputs if "image/png" in o.get("data", {})]
    assert images
    for image in images:
        assert len(image["metadata"]["image/png"]["alt"]) >= 40
        assert "<img alt=" in image["data"]["text/html"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_budgets_of_cells_and_words(source):
    cells = committed(source).cells
    words = sum(len(re.findall(r"\w+", cell.source)) for cell in cells if cell.cell_type == "markdown")
    assert len(cells) <= 45 and words <= 1500


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_runs_in_the_fast_mode_within_its_time(build, source, monkeypatch):
    monkeypatch.setenv("ADAMIX_LAB_FAST", "1")
    notebook = build.build(source)
    build.run(notebook)  # its seconds are measured by tests/benchmarks/notebooks.py
    assert not errors_in_widgets(notebook)
