"""Pictures of landscapes and estimates: every kind draws, and the alt text tells the numbers."""

import close
import pytest
import torch

from adamix_lab.analysis import plots
from adamix_lab.analysis.landscape import METRICS, empty_landscape, plane_coordinates
from adamix_lab.analysis.plots import save_figure
from adamix_lab.analysis.points import line, plane, random_plane, simplex


def ends(number):
    generator = torch.Generator().manual_seed(0)
    return {f"expert {n}": {"experts.site.up": torch.randn(4, 3, generator=generator)} for n in range(number)}


def landscape(points, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(len(METRICS), len(points.coefficients), generator=generator, dtype=torch.float64)
    return empty_landscape(points, 1, {}).add_batch(10 * values, 10)


KINDS = {
    "line": lambda: line(ends(2), 5, beyond=0.25),
    "plane": lambda: plane(ends(3), 4),
    "random": lambda: random_plane(ends(1), torch.Generator(), 4),
    "triangle": lambda: simplex(ends(3), 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_and_read_out(kind, tmp_path):
    both = {"adamix": landscape(KINDS[kind]()), "apart": landscape(KINDS[kind](), 1)}
    picture = plots.plot_landscapes(both, "accuracy" if kind == "triangle" else "loss")
    path = save_figure(picture.figure, tmp_path / "x.png", picture.alt)
    assert path.read_bytes().startswith(b"\x89PNG") and len(picture.figure.axes) == (1 if kind == "line" else 3)
    if kind != "line":  # a mark beyond the colours would stand at their end, beside another number
        low, high = (bar := picture.figure.axes[-1]).get_ylim()
        assert len(bar.get_yticks()) and all(low <= tick <= high for tick in bar.get_yticks())
    for name, found in both.items():
        mark = found.marks[0]
        assert (
            name in picture.alt and f"{found.at(mark, 'accuracy' if kind == 'triangle' else 'loss'):.3f}" in picture.alt
        )


def test_kinds_are_not_mixed():
    with pytest.raises(ValueError, match=r"kinds \['line', 'plane'\]"):
        plots.plot_landscapes({"a": landscape(KINDS["line"]()), "b": landscape(KINDS["plane"]())})
    with pytest.raises(ValueError, match=r"Landscapes of kinds \[\]"):
        plots.plot_landscapes({})


def test_corners_of_a_triangle_are_equally_far_apart():
    found = landscape(simplex(ends(3), 2))
    x, y = plane_coordinates(found)
    corners = torch.stack([x, y], -1)[-4:-1]
    close.assert_close(torch.pdist(corners), [1, 1, 1], close.DOUBLE)
