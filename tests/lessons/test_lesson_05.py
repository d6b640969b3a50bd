"""Lesson 05: the segment in one dimension, scans of real experts, the student's own AdaMix, the checks."""

import close
import pytest
import tiny
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from adamix_lab.analysis.landscape import evaluate_points
from adamix_lab.analysis.points import experts_of, line
from adamix_lab.lessons import landscape
from adamix_lab.lessons.checks.exercises import check_barrier
from adamix_lab.lessons.landscape import PLACES, barrier, segment, segment_explorer
from adamix_lab.lessons.world import outputs

ORDERS = list(landscape.ORDERS)
TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()


def mixture(*_, **__):
    return tiny.shake(tiny_task.mixture(share=None, tied=True, experts=4, blocks=(-2, -1))).eval(), TOKENIZER


# -- one dimension ------------------------------------------------------------------------------------------


def test_a_barrier_is_above_the_chord_and_never_below_zero():
    t = torch.tensor([0.0, 0.1, 0.8, 1.0])
    close.assert_close(barrier(t, torch.tensor([0.2, 0.5, 1.1, 1.2])), 0.2, close.ROUNDED, scale=1.2)
    assert barrier(t, torch.tensor([0.2, 0.1, 0.1, 1.2])) == 0


def test_a_segment_begins_and_ends_with_its_experts():
    state = segment(1.0, 0.5, ORDERS[0])
    close.assert_close(state.ends, state.curves.experts[:2])
    close.assert_close(state.here, state.ends[1])
    x, y = state.curves.rows
    routes = state.curves.routes[:2]
    alone = outputs(state.curves.world, state.curves.weights, x.expand(2, -1), routes)
    close.assert_close(state.losses[[0, -1]], (alone - y).square().mean(-1))


def test_another_order_of_units_is_the_same_curve_with_a_wall_and_alignment_takes_it_away():
    near = {order: segment(0.5, 0.0, order) for order in ORDERS}
    for state in near.values():
        close.assert_close(state.ends[0], near[ORDERS[0]].ends[0])
    close.assert_close(near[ORDERS[1]].ends[1], near[ORDERS[0]].ends[1])  # permuted
    close.assert_close(near[ORDERS[3]].ends[1], near[ORDERS[3]].ends[0])  # a copy
    height = {order: barrier(PLACES, state.losses) for order, state in near.items()}
    assert height[ORDERS[0]] < 0.01 and height[ORDERS[2]] < 0.01
    assert min(height[ORDERS[1]], height[ORDERS[3]]) > 0.1


def test_the_segment_explorer_is_driven_to_its_goal():
    widget = segment_explorer()
    assert widget.last_error is None and "barrier above the chord is 0.00" in widget.text
    for button, over in (("permute", True), ("align", False), ("far starts", True), ("near starts", False)):
        widget.buttons[button].click()
        height = float(widget.text.split("chord is ")[1].rstrip("."))
        assert (height > 0.1) == over, button
    before = widget.picture.alt
    widget.set(t=0.5)
    assert widget.last_error is None and "t = 0.50" in widget.text and widget.picture.alt != before
    with pytest.raises(ValueError, match=r"distance of the starts = 2: expected a number from 0 to 1"):
        widget.set(near=2)
    with pytest.raises(ValueError, match="order of units = 'upside down': expected one of as trained"):
        widget.set(order="upside down")


# -- real weights -------------------------------------------------------------------------------------------


def test_a_scan_is_the_library_s_line_after_the_change(monkeypatch):
    monkeypatch.setattr("adamix_lab.lessons.answers.load_twin", mixture)
    monkeypatch.setattr(landscape, "load_task", lambda name, part: TASK)
    found = landscape.scan("apart", steps=3, rows=8)
    model = mixture()[0]
    spread = TASK.evaluation[:: len(TASK.evaluation) // 8][:8]
    batches = landscape.fresh_batches(TOKENIZER, 8)
    close.assert_close(found.values(), evaluate_points(model, line(experts_of(model, 2), 3), batches).values())
    assert sum(len(batch["labels"]) for batch in batches) == len(spread)
    copies = landscape.scan("permuted copies", steps=3, rows=8)
    close.assert_close(copies.values()[0], copies.values()[-1])  # one function
    assert abs(float(copies.values()[1] - copies.values()[0])) > 1e-4  # and another one between
    with pytest.raises(ValueError, match=r"set of experts 'apartt' is not known.*'apart'"):
        landscape.scan("apartt")


def test_the_residual_is_what_the_expansion_leaves(monkeypatch):
    monkeypatch.setattr(landscape, "load_twin", mixture)
    monkeypatch.setattr(landscape, "load_task", lambda name, part: TASK)
    row = landscape.gaps({"one": "adamix"}, rows=4).loc["one"]
    close.assert_close(row["measured"], row["merged"] - row["ensemble"], close.DOUBLE, scale=row["merged"])
    close.assert_close(row["residual"], row["measured"] - row["estimate"], close.DOUBLE, scale=row["merged"])


def test_a_missing_landscape_is_told_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr(landscape, "data_root", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`adamix-lab landscape adamix --kind triangle.*` makes it"):
        landscape.stored("triangle", ["adamix"])


def test_the_program_has_a_wall_between_far_starts_alone():
    layer, step, scan = (landscape.mine(stage) for stage in ("Layer", "step", "line"))
    for start, wall in ((1, False), (25, True)):
        losses = torch.tensor(scan(*landscape.small_adamix(layer, step, start), 0, 1))
        assert (barrier(torch.linspace(0, 1, len(losses)), losses) > 0.2) == wall


# -- checks -------------------------------------------------------------------------------------------------


def right_barrier(t, losses):
    return (losses - (1 - t) * losses[0] - t * losses[-1]).max().clamp(min=0)


def test_a_right_answer_passes_with_one_line(capsys):
    check_barrier(right_barrier)
    check_barrier(lambda t, x: (x - (1 - t) * x[0] - t * x[-1]).max() - 0.0 * t[0])  # right but for rounding
    assert capsys.readouterr().out == "check_barrier: right.\n" * 2


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (lambda t, x: x.max() - x.min(), "above the lowest point"),
        (lambda t, x: (x.max() - x[0]).clamp(min=0), "above the first model"),
        (lambda t, x: (x.max() - x[[0, -1]].min()).clamp(min=0), "better end"),
        (lambda t, x: (x.max() - x[[0, -1]].max()).clamp(min=0), "the worse end"),
        (lambda t, x: (x - (1 - t) * x[0] - t * x[-1]).abs().max(), "without their sign"),
        (lambda t, x: right_barrier(torch.linspace(0, 1, len(t)), x.float()), "places are not evenly spaced"),
        (lambda t, x: x, "one number"),
    ],
)
def test_wrong_barriers_are_told_their_cause(wrong, cause):
    with pytest.raises(AssertionError, match=cause):
        check_barrier(wrong)
