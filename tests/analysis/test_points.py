"""Points of adapter space: what they hold, and lines, planes and simplices of them."""

import close
import pytest
import tiny
import torch

from adamix_lab.analysis import points as p
from adamix_lab.core.adaptations import Bottleneck, LoRA


def model(**more):
    settings = {"experts": 4, "share": "up", "blocks": (-2, -1)} | more
    return tiny.mixed(tiny.bert(), Bottleneck(4), **settings)


def vertices(mixture, number=3, **more):
    return {f"expert {n}": p.point_of(mixture, mixture.space.fixed(n), **more) for n in range(number)}


def flat(point):
    return torch.cat([weight.double().flatten() for weight in point.values()])


def at(points, n):
    return {name: weight[0] for name, weight in points.weights(n, n + 1).items()}


def test_a_point_holds_the_effective_weights_and_the_head():
    mixture = model()
    point = p.point_of(mixture)
    for path, layer in mixture.sites.items():
        assert torch.equal(point[f"experts.{path}.down"], layer.experts["down"].mean(0))
        assert torch.equal(point[f"experts.{path}.up"], layer.experts["up"][0])
    assert torch.equal(point["head.classifier.weight"], mixture.model.classifier.weight)
    assert not any(name.startswith("head.") for name in p.point_of(mixture, head=False))
    soup = p.point_of(mixture, mixture.space.barycentre())
    close.assert_close(flat(soup), flat(point), close.ROUNDED)
    assert all(not weight.requires_grad for weight in point.values())


def test_a_line_reaches_both_ends_bit_for_bit_and_goes_beyond():
    ends = vertices(model(), 2)
    line = p.line(ends, 5)
    first, second = ends.values()
    for n, end in ((0, first), (4, second), (5, first), (6, second)):
        assert all(torch.equal(at(line, n)[name], end[name]) for name in end)
    middle = {name: (first[name] + second[name]) / 2 for name in first}
    close.assert_close(flat(at(line, 2)), flat(middle), close.ROUNDED)
    assert p.line(ends, 5, beyond=0.5).axes["t"][:5].tolist() == [-0.5, 0, 0.5, 1, 1.5]


def test_a_plane_passes_through_its_points_and_measures_in_distances_between_weights():
    corners = vertices(model())
    plane = p.plane(corners, 4, margin=0.3)
    assert len(plane) == 16 and plane.marks == tuple(corners)
    for n, corner in enumerate(corners.values()):
        assert all(torch.equal(at(plane, 16 + n)[name], corner[name]) for name in corner)
    for a, b in ((0, 15), (3, 9), (2, 17)):
        coordinates = torch.stack([plane.axes["x"], plane.axes["y"]], -1)
        there = float((flat(at(plane, a)) - flat(at(plane, b))).norm())
        close.assert_close(there, float((coordinates[a] - coordinates[b]).norm()))


def test_filters_keep_their_norm_and_random_planes_their_seed():
    mixture = model()
    origin = p.point_of(mixture)
    direction = p.filter_normalised(origin, torch.Generator().manual_seed(0))
    for name, weight in origin.items():
        close.assert_close(direction[name].norm(dim=-1), weight.norm(dim=-1))
    planes = [p.random_plane({"merged": origin}, torch.Generator().manual_seed(seed), 3) for seed in (1, 1, 2)]
    assert torch.equal(flat(planes[0].anchors), flat(planes[1].anchors))
    assert not torch.equal(flat(planes[0].anchors), flat(planes[2].anchors))
    assert all(torch.equal(at(planes[0], 4)[name], origin[name]) for name in origin)


def test_a_simplex_holds_every_mixture_once_and_its_mean():
    corners = vertices(model(), 3)
    triangle = p.simplex(corners, 10)
    assert len(triangle) == 66 == len(torch.unique(triangle.coefficients[:66], dim=0))
    close.assert_close(triangle.coefficients.sum(-1), torch.ones(70), close.DOUBLE)
    mean = torch.stack([flat(corner) for corner in corners.values()]).mean(0)
    close.assert_close(flat(at(triangle, 69)), mean, close.ROUNDED)


def test_three_points_on_one_line_are_refused():
    ends = vertices(model(), 2)
    first, second = ends.values()
    for share in (0.5, 2.0, 0.0):
        third = {name: torch.lerp(first[name], second[name], share) for name in first}
        with pytest.raises(ValueError, match=r"lie on one line.*line\(\)"):
            p.plane({**ends, "third": third})
    with pytest.raises(ValueError, match=r"a and b are the same point"):
        p.line({"a": first, "b": dict(first)})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (dict(blocks=(-1,)), r"is \[.*\] and missing"),
        (dict(size=5), r"\[4, 16\] and \[5, 16\]"),
    ],
)
def test_points_of_different_models_are_refused_by_name(other, told):
    size = other.pop("size", 4)
    another = tiny.mixed(tiny.bert(), Bottleneck(size), **({"experts": 4, "share": "up", "blocks": (-2, -1)} | other))
    corners = {**vertices(model(), 2), "stranger": p.point_of(another)}
    with pytest.raises(ValueError, match=rf"expert 0 and stranger are points of different models: .*{told}"):
        p.plane(corners)


def test_nan_weights_are_refused_by_name():
    corners = vertices(model())
    corners["expert 2"]["head.classifier.bias"][0] = torch.nan
    with pytest.raises(ValueError, match=r"expert 2 holds NaN or infinite weights in head.classifier.bias"):
        p.simplex(corners)


@pytest.mark.parametrize("make", [p.line, p.plane, p.simplex])
def test_wrong_numbers_of_points_and_steps_are_named(make):
    with pytest.raises(ValueError, match=r"was given 1 points: expected"):
        make(vertices(model(), 1))
    number = {p.line: 2, p.plane: 3, p.simplex: 3}[make]
    with pytest.raises(ValueError, match=r"steps = 0"):
        make(vertices(model(), number), 0)


def test_lora_points():
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=2, share="B")
    corners = {f"e{n}": p.point_of(mixture, mixture.space.fixed(n), head=False) for n in range(2)}
    assert p.line(corners, 3).weights(0, 3).keys() == corners["e0"].keys()


def test_a_head_that_lies_inside_the_base_moves_with_the_points(tmp_path):
    """A pooler that the files lacked trains along, and its path has several parts."""
    tiny.bert(cls="BertForMaskedLM").save_pretrained(tmp_path)
    base = type(tiny.bert()).from_pretrained(tmp_path, num_labels=tiny.LABELS)
    mixture, batch = tiny.mixed(base, Bottleneck(4), experts=2).eval(), tiny.batch()
    assert "bert.pooler" in mixture.head_paths
    here = p.point_of(mixture)
    there = {name: weight + 0.3 * ("pooler" in name) for name, weight in here.items()}
    with torch.no_grad():
        found = p.logits_at(mixture, batch, p.stack_points([here, there]))
        close.assert_close(found[0], mixture(**batch).logits)
        for name, parameter in mixture.head_parameters():
            parameter.copy_(there[f"head.{name}"])
        close.assert_close(found[1], mixture(**batch).logits)
    assert not close.is_close(found[0], found[1])
