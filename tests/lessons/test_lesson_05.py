"""Lesson 05: losses between experts against plain recomputation, the viewer driven, the checks, what is shipped."""

import itertools
import json
import statistics

import close
import pytest
import tiny
import tiny_task
import torch
from makers import load_maker
from tiny_task import one_thread  # noqa: F401

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")


from adamix_lab.analysis.landscape import evaluate_points, save_landscape, task_batches
from adamix_lab.analysis.points import dot, experts_of
from adamix_lab.analysis.study import points_of_kind
from adamix_lab.core.merging import weighted
from adamix_lab.lessons import landscape
from adamix_lab.lessons.checks.merging import check_barrier, check_plane
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.landscape import (
    Faces,
    barrier,
    draw_viewed,
    edge,
    face,
    highest_pair,
    landscape_viewer,
    load_faces,
    viewed,
)
from adamix_lab.tasks.tasks import data_root

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()
ROWS = 20
maker, effects = load_maker("lessons"), load_maker("results/effects")


def mixture():
    return tiny.shake(tiny_task.mixture(share=None, tied=True, experts=4, blocks=(-2, -1))).eval()


@pytest.fixture(scope="module")
def measured():
    return maker.measure_faces(mixture(), TASK, TOKENIZER, 0, ROWS)


def made_up(twin, seed=0, rows=16):
    """A hill over the tetrahedron, higher the longer the twin's name is, other weights for other seeds."""
    whole = [w for w in itertools.product(range(7), repeat=4) if sum(w) == 6 and 0 in w]
    weights = torch.cat([torch.tensor(whole) / 6, torch.full((1, 4), 0.25)])
    alone = torch.tensor([0.1, 0.2, 0.05, 0.12]) + 0.01 * seed
    hill = 0.1 * len(twin) * (1 - weights.square().sum(1)) * (1 + 0.1 * weights[:, 1])
    noise = torch.randn(rows, 1, generator=torch.Generator().manual_seed(seed)) * 0.01
    return Faces(weights, weights @ alone + hill + noise, (alone.repeat_interleave(2) + noise), {})


# -- what is measured ---------------------------------------------------------------------------------------


def test_losses_are_what_the_model_says_at_each_point_row_by_row(measured):
    model = mixture()
    rows = TASK.evaluation[:ROWS]
    batch = TOKENIZER([row["sentence"] for row in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([row["label"] for row in rows])
    for group in ((2,), (0, 1), (1, 2, 3), (0, 1, 2, 3)):
        point = weighted(model.space, [1 / len(group) if n in group else 0 for n in range(4)])
        with torch.no_grad():
            log_p = model(selection=point, **batch).logits.log_softmax(-1)
        close.assert_close(measured.at(group), -log_p.gather(1, labels[:, None])[:, 0])


def test_the_surface_is_that_of_evaluated_simplices(measured):
    model = mixture()
    points = points_of_kind("triangle", model, 6)
    found = evaluate_points(model, points, task_batches(TASK, TOKENIZER, ROWS))
    weights, losses = face(measured, (0, 1, 2))
    assert len(weights) == 28
    close.assert_close(weights.sum(1), torch.ones(28), close.ROUNDED)
    for where, loss in zip(found.coefficients[:28].float(), found.values("loss"), strict=True):
        close.assert_close(float(losses[(weights - where).abs().amax(1).argmin()]), float(loss))
    ends = points_of_kind("line", model, 7)
    t, along = edge(measured, 0, 1)
    assert len(ends.marks) == 2
    close.assert_close(t, torch.linspace(0, 1, 7), close.ROUNDED)
    close.assert_close(float(along[0]), found.at("expert 0"))
    close.assert_close(float(along[-1]), found.at("expert 1"))
    backwards = edge(measured, 1, 0)[1]
    close.assert_close(barrier(t, along), barrier(t, backwards), scale=float(along.max()))


def test_a_barrier_is_above_the_chord_and_never_below_zero():
    t = torch.tensor([0.0, 0.1, 0.8, 1.0])
    close.assert_close(barrier(t, torch.tensor([0.2, 0.5, 1.1, 1.2])), 0.2, close.ROUNDED, scale=1.2)
    assert barrier(t, torch.tensor([0.2, 0.1, 0.1, 1.2])) == 0


def test_heights_and_rises_start_from_the_experts_they_are_of():
    found = made_up("apart")
    two = found.height(2)
    assert two.shape == (16, 6) and found.height(3).shape == (16, 4) and found.height(4).shape == (16, 1)
    by_hand = found.at((1, 3)) - (found.at((1,)) + found.at((3,))) / 2
    scale = float(found.losses.max())
    close.assert_close(two[:, 4], by_hand, close.ROUNDED, scale)
    assert bool((found.height(4).mean() > two.mean()).all())
    assert found.toward_rise().shape == (16, 12) and found.random_rise().shape == (16, 8)
    close.assert_close(found.toward_rise()[:, 0], found.at((0, 1)) - found.at((0,)), close.ROUNDED, scale)
    close.assert_close(found.random_rise()[:, 2], found.random[:, 2] - found.at((1,)), close.ROUNDED, scale)


def test_random_points_lie_as_far_away_as_the_middles_and_leave_the_head():
    experts = list(experts_of(mixture(), 4).values())
    points = maker.random_points(experts, 3, 2)
    assert len(points) == 8
    for n, point in enumerate(points):
        start = experts[n // 2]
        step = {name: point[name] - start[name] for name in start}
        wanted = statistics.fmean(maker.half_way(start, other) for other in experts if other is not start)
        close.assert_close(dot(step, step) ** 0.5, wanted)
        assert all(float(step[name].abs().max()) == 0 for name in step if name.startswith("head."))
    again = maker.random_points(experts, 3, 2)
    assert all(torch.equal(points[5][name], again[5][name]) for name in points[5])
    stays = maker.moved(experts[0], experts[1], 0.0)
    assert all(torch.equal(stays[name], experts[0][name]) for name in stays)


def test_faces_are_kept_read_again_and_missing_ones_told(tmp_path, monkeypatch, measured):
    said = []
    monkeypatch.setattr(maker, "load_twin", lambda twin, seed: (mixture(), TOKENIZER))
    monkeypatch.setattr(maker, "load_task", lambda name: TASK)
    for _ in range(2):
        maker.make("landscapes", tmp_path, ["adamix"], [0], ROWS, said.append)
    assert said[0].startswith("adamix, seed 0: 75 points, 20 rows") and "already there" in said[1]
    again = load_faces("adamix", 0, tmp_path)
    close.assert_close(again.losses, measured.losses, close.STORED)
    assert torch.equal(again.weights, measured.weights)
    assert again.notes["seed"] == 0 and again.notes["versions"]["torch"]
    with pytest.raises(FileNotFoundError, match=r"data/lessons/make.py landscapes"):
        load_faces("apart", 1, tmp_path)
    with pytest.raises(ValueError, match=r"Twin 'adamx' is not known.*'adamix'"):
        load_faces("adamx", 0, tmp_path)


# -- the viewer ---------------------------------------------------------------------------------------------


def test_the_landscape_viewer_is_driven(monkeypatch):
    monkeypatch.setattr(landscape, "load_faces", made_up)
    monkeypatch.setattr(landscape, "viewed", lambda **state: viewed(**state, read=made_up))
    monkeypatch.setattr(landscape, "highest_pair", lambda twin, seed: highest_pair(twin, seed, made_up))
    monkeypatch.setattr(landscape, "scale_of", lambda *seeds: (0.0, 1.0, 2.0))
    monkeypatch.setattr(landscape, "seeds_there", lambda: (0, 1, 2))
    widget = landscape_viewer()
    assert widget.last_error is None and "from expert 0 (0) to expert 1 (1), 16 rows" in widget.text
    before = widget.picture.alt
    widget.press("Show me")
    assert widget.last_error is None and widget.picture.alt != before and "Over 0.15" in widget.text
    for other, pair, seed in (("unshared-tied", "2 - 3", 2), ("no-consistency", "0 - 3", 1)):
        widget.set(other=other, pair=pair, seed=seed)
        t, along = edge(made_up(other, seed), *landscape.PAIRS[pair])
        assert f"{other} {barrier(t, along):.3f} at" in widget.text and f"seed {seed}" in widget.picture.alt
    with pytest.raises(ValueError, match=r"segment between experts = '3 - 4': expected one of 0 - 1"):
        widget.set(pair="3 - 4")


def test_one_colour_scale_for_both_triangles_and_for_every_state():
    scale = landscape.scale_of(0, 1, read=made_up)
    everything = torch.cat([made_up(twin, seed).losses.mean(0) for twin in landscape.TWINS for seed in (0, 1)])
    low, high, highest = scale
    assert (low, highest) == pytest.approx((float(everything.min()), float(everything.max())))
    assert float((everything <= high).float().mean()) == pytest.approx(0.98, abs=0.01)
    limits = set()
    for pair, seed in (("0 - 1", 0), ("1 - 3", 1)):
        figure = draw_viewed(viewed("apart", pair, seed, scale, made_up)).picture.figure
        maps = [ax.collections[0] for ax in figure.axes[:2]]
        limits |= {drawn.get_clim() for drawn in maps}
    assert len(limits) == 1 and limits.pop() == pytest.approx((low, high))


def test_what_is_missing_is_told_where_the_learner_looks(monkeypatch, tmp_path):
    monkeypatch.setattr(landscape, "place_of", lambda twin, seed, *_: tmp_path / "none")
    monkeypatch.setattr(landscape, "load_faces", lambda twin, seed: load_faces(twin, seed, tmp_path))
    with pytest.raises(FileNotFoundError, match=r"data/lessons/make.py landscapes"):
        landscape_viewer()
    with pytest.raises(FileNotFoundError, match=r"`adamix-lab landscape adamix --kind plane.*` makes it"):
        landscape.shipped_plane("adamix", tmp_path)


# -- planes -------------------------------------------------------------------------------------------------


def test_a_plane_from_a_gpu_is_shown_where_there_is_one(tmp_path):
    model = mixture()
    plane = evaluate_points(model, points_of_kind("plane", model, 3), task_batches(TASK, TOKENIZER, 8))
    save_landscape(plane, tmp_path / "plane-adamix.safetensors")
    told = landscape.shipped_plane("adamix", tmp_path).origin
    assert f"3 x 3 points, 8 rows; device: cpu: 1 threads; date: {plane.notes['date']}" in told
    assert (
        f"No plane from a GPU is stored (in {tmp_path.name}/gpu): none has been measured" in told
        and "--points 51" in told
    )
    plane.notes["versions"]["device"] = "cuda: a card"
    save_landscape(plane, tmp_path / "gpu" / "plane-adamix.safetensors")
    told = landscape.shipped_plane("adamix", tmp_path).origin
    assert "device: cuda: a card" in told and "none has been measured" not in told
    del plane.notes["date"]
    assert landscape.COMMITTED in landscape.origin_of(plane, "c")


def test_heights_are_drawn_from_the_table_with_the_prediction():
    rows = [
        {"effect": f"{twin}: {name} above their mean loss", "by_seed": f"0.{size} 0.2 0.3"}
        for twin in landscape.TWINS
        for size, name in landscape.NAMES.items()
    ]
    found = landscape.heights(rows)
    assert found["apart"][4] == [0.4, 0.2, 0.3]
    assert "You predicted 0.5 nats" in landscape.draw_heights(found, 0.5).alt
    assert "No prediction was entered" in landscape.draw_heights(found).alt and "±" in landscape.draw_heights(found).alt


def test_effects_are_measured_of_every_twin_and_pairs_are_chosen_on_other_rows(monkeypatch):
    monkeypatch.setattr(effects, "load_faces", made_up)
    measures = effects.measures_of("05")
    assert all(each.function(0).dim() == 1 for each in measures.values())
    found = made_up("apart")
    lowest = effects.chosen_pair(found, highest=False)
    assert len(lowest) == 8
    assert torch.equal(lowest, found.height(2)[1::2, int(found.height(2)[::2].mean(0).argmin())])


def test_the_committed_table_is_of_the_committed_losses():
    names = {row["effect"]: row for row in effects_table("05").rows}
    measures = effects.measures_of("05")
    assert names.keys() == measures.keys()
    for effect in (
        "adamix: the middle of two above their mean loss",
        "apart: the middle of all four above that of two",
    ):
        assert float(names[effect]["by_seed"].split()[1]) == pytest.approx(
            float(measures[effect][1](1).mean()), abs=1e-4
        )


def test_the_committed_losses_agree_with_the_shipped_triangles():
    text = (data_root() / "results" / "landscape" / "triangle-loss.txt").read_text(encoding="utf-8")
    for twin in ("adamix", "unshared-tied", "apart"):
        stored = load_faces(twin, 0)
        told = text.split(f"{twin}: ")[1]
        assert len(stored.losses) == 256
        assert f"expert 0 {float(stored.at((0,)).mean()):.3f}"[:-1] in told
        assert f"mean {float(stored.at((0, 1, 2)).mean()):.3f}"[:-1] in told
    json.dumps(load_faces("adamix", 0).notes)


# -- checks -------------------------------------------------------------------------------------------------


def right_barrier(t, losses):
    return (losses - (1 - t) * losses[0] - t * losses[-1]).max().clamp(min=0)


def right_plane(a, b, c):
    to_b, to_c = b - a, c - a
    width = float(to_b.norm())
    along = float(to_b @ to_c) / width if width else 0.0
    height = float((to_c - along * to_b / (width or 1)).norm())
    if not width or height < 1e-6 * max(width, float(to_c.norm())):
        raise ValueError("on one line")
    return width, along, height


def never_refuses(a, b, c):
    to_b, to_c = b - a, c - a
    width = to_b.norm()
    along = to_b @ to_c / width
    return width, along, (to_c - along * to_b / width).norm()


def test_right_answers_pass_with_one_line(capsys):
    check_barrier(right_barrier)
    check_plane(right_plane)
    assert capsys.readouterr().out == "check_barrier: right.\ncheck_plane: right.\n"


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (lambda t, x: x.max() - x.min(), "above the lowest point"),
        (lambda t, x: (x.max() - x[0]).clamp(min=0), "above the first model"),
        (lambda t, x: (x.max() - x[[0, -1]].min()).clamp(min=0), "better end"),
        (lambda t, x: (x.max() - x[[0, -1]].max()).clamp(min=0), "the worse end"),
        (lambda t, x: (x - (1 - t) * x[0] - t * x[-1]).max() - 0.0 * t[0], ""),
        (lambda t, x: (x - (1 - t) * x[0] - t * x[-1]).abs().max(), "without their sign"),
        (lambda t, x: right_barrier(torch.linspace(0, 1, len(t)), x.float()), "places are not evenly spaced"),
        (lambda t, x: x, "one number"),
    ],
)
def test_wrong_barriers_are_told_their_cause(wrong, cause):
    if not cause:  # right but for rounding
        check_barrier(wrong)
        return
    with pytest.raises(AssertionError, match=cause):
        check_barrier(wrong)


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (never_refuses, "a ValueError"),
        (lambda a, b, c: ((b - a).norm(), (b - a) @ (c - a), (c - a).norm()), "divide by the width"),
        (lambda a, b, c: (b.norm(), 0, 0), "subtract a"),
        (lambda a, b, c: (*right_plane(a, b, c)[:2], (c - a).norm()), "take away what lies along"),
        (lambda a, b, c: (1.0, 2.0), "three numbers"),
        (lambda a, b, c: right_plane(a, b, c) if (b - a).norm() > 0 else 1 / 0, "Look before dividing"),
    ],
)
def test_wrong_planes_are_told_their_cause(wrong, cause):
    with pytest.raises(AssertionError, match=cause):
        check_plane(wrong)
