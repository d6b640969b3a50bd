"""Exercises: the reference scores full, a blank zero, and each named wrong answer loses its checks and no others."""

import functools
import inspect
import re
import time

import pytest
import torch  # noqa: F401  (before anything is timed)
from classroom_helpers import BLANK, lost, mutants, notebook, points_of

pytest.importorskip("jupytext", reason="the notebooks extra is not installed")

from adamix_lab.classroom.course import assignments, exercises, sources_folder
from adamix_lab.lessons.checks import refuse_library

ASSIGNMENTS = assignments()
MUTANTS = [(name, mutant) for name in ASSIGNMENTS for mutant in mutants(name)]


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_reference_scores_full_and_a_blank_nothing(name):
    start = time.perf_counter()
    assert lost(name) == ()
    assert time.perf_counter() - start < 10
    assert lost(name, everything=BLANK) == tuple(sorted(points_of(name)))


@pytest.mark.parametrize(("name", "mutant"), MUTANTS, ids=lambda v: getattr(v, "name", v))
def test_a_wrong_answer_loses_its_checks_and_no_others(name, mutant):
    assert lost(name, {mutant.answer: mutant.source}) == mutant.loses


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_exercise_is_aimed_timed_and_has_three_wrong_answers(name):
    found = exercises(name)
    assert len(found) >= 3
    for exercise in found:
        assert exercise.minutes > 0 and exercise.difficulty in (1, 2, 3) and len(exercise.aims) > 15
        assert sum(exercise.checks.values()) > 0
        assert len([m for m in mutants(name) if m.answer == exercise.name]) >= 3, exercise.name
    assert sum(exercise.minutes for exercise in found) <= 60


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_checks_return_nothing_and_write_nothing_to_stderr(name):
    """A number as a cell's last value would be partial credit, and anything on stderr no credit, for nbgrader."""
    for cell in notebook(name).cells:
        if cell.metadata["nbgrader"]["grade"]:
            last = [line for line in cell.source.splitlines() if not line.startswith("#")][-1]
            assert re.match(r"(print\(|assert |for |\s|\)|})", last), last
            assert "stderr" not in cell.source and "warn" not in cell.source


def test_borrowing_is_seen_however_it_is_spelt():
    import adamix_lab.core.routing as routing
    from adamix_lab.core.objective import reference_kl

    def by_name(a, b):
        return reference_kl(a, b)

    def by_module():
        return routing.generator_for(0)

    def inside():
        from adamix_lab.analysis.statistics import wilson

        return wilson(0.5, 10)

    def by_string():
        import importlib

        return importlib.import_module("adamix_lab.training.evaluation")

    def honest(x):
        """Not adamix_lab's."""
        return [value + 1 for value in x]

    space = {"reference_kl": reference_kl}
    exec("def helper(a, b):\n    return reference_kl(a, b)\ndef through(a, b):\n    return helper(a, b)", space)
    exec("import adamix_lab.core.routing as r\ndef aliased():\n    return r.generator_for(0)", space)
    for function in (by_name, by_module, inside, by_string, space["through"], space["aliased"], reference_kl):
        with pytest.raises(AssertionError, match="write it yourself"):
            refuse_library(function)
    refuse_library(honest)


def test_names_on_a_function_and_patches_of_inspect_hide_nothing(monkeypatch):
    from adamix_lab.core.objective import reference_kl

    def enclosed(a, b):
        return reference_kl(a, b)

    def marked(a, b):
        return enclosed(a, b)

    class Kind:
        method = marked

    part = functools.partial(marked)
    for each in (marked, enclosed, part):
        each.__func__ = each.__wrapped__ = len
    marked.func = enclosed.func = len
    monkeypatch.setattr(inspect, "getclosurevars", lambda function: inspect.ClosureVars({}, {}, {}, set()))
    itself = (reference_kl, functools.partial(reference_kl), functools.cache(reference_kl))
    for function in (enclosed, marked, part, Kind().method, functools.partial(Kind().method), *itself):
        with pytest.raises(AssertionError, match="write it yourself"):
            refuse_library(function)


def test_the_sources_lie_outside_of_the_package():
    import adamix_lab

    assert adamix_lab.__path__[0] not in str(sources_folder())
