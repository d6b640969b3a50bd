"""Lesson 05: barriers above the chord, and the plane through three points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.numerics import REORDERED
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, compare, number, passed, several, wrong

# places t, losses, the barrier; the second tells by its number what was measured from
LINES = (
    ((0.0, 0.5, 1.0), (0.4, 0.9, 0.4), 0.5),
    ((0.0, 0.25, 0.5, 0.75, 1.0), (0.3, 0.1, 0.9, 0.4, 0.5), 0.5),
    ((0.0, 0.25, 0.5, 0.75, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0), 0.0),
    ((0.0, 0.25, 0.5, 0.75, 1.0), (1.0, 0.1, 0.05, 0.1, 0.2), 0.0),
    ((0.0, 0.1, 0.8, 1.0), (0.2, 0.5, 1.1, 1.2), 0.2),
)


def check_barrier(barrier: Callable[[Tensor, Tensor], Any]) -> None:
    """Checks `barrier(t, losses)`: the greatest height above the chord, at least 0.

    Places t `[N]` run from 0 to 1; losses `[N]` in nats were measured there.
    """
    for places, values, expected in LINES:
        t, losses = torch.tensor(places, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
        came = number(call(barrier, t.clone(), losses.clone()), "The barrier")
        steps = torch.linspace(0, 1, len(t), dtype=torch.float64)
        chord, by_number = ((1 - s) * losses[0] + s * losses[-1] for s in (t, steps))
        first, last, top = float(losses[0]), float(losses[-1]), float(losses.max())
        compare(
            f"The barrier of losses {list(values)} at {list(places)}",
            expected,
            came,
            {
                "That is the height above the lowest point; a slope or a valley is no barrier. Measure from the chord.":
                    top - float(losses.min()),
                "That is the height above the first model, the better end: a climb to a worse one is no barrier.":
                    top - first,
                "That is the height above the last model, the worse end: the chord lies below it before.": top - last,
                "The chord runs from one end's loss to the other's; here it was level, at their mean.":
                    top - (first + last) / 2,
                "The chord was drawn by number of point: the places are not evenly spaced, use t.":
                    max(0.0, float((losses - by_number).max())),
                "Distances from the chord were taken without their sign: below it there is no barrier.":
                    float((losses - chord).abs().max()),
                "That is a mean height: a barrier is the greatest.": float((losses - chord).mean()),
            },
        )  # fmt: skip
    passed("check_barrier")


def check_plane(plane: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
    """Checks `plane(a, b, c)`: (width, along, height) of three vectors `[P]`; ValueError where they lie on one line.

    a is at (0, 0), b at (width, 0), c at (along, height), in units of distance between weights.
    """
    generator = generator_for(4)
    any_three = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    right_angle = torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [0.5, 3.0, 1.0]], dtype=torch.float64)
    for a, b, c in (right_angle, any_three):
        came = call(plane, a.clone(), b.clone(), c.clone())
        parts = several(came.tolist() if isinstance(came, Tensor) else came, 3, "three numbers, (width, along, height)")
        width, along, height = (number(part, "A coordinate") for part in parts)
        to_b, to_c = b - a, c - a
        length, inner = float(to_b.norm()), float(to_b @ to_c)
        compare("The width, the distance from a to b", length, width, {
            "That is the distance between the origin and b: subtract a.": float(b.norm()),
            "That is the squared distance: take the root.": length**2,
        })  # fmt: skip
        compare("How far c lies along the way to b", inner / length, along, {
            "The way to b was not made one long: divide by the width.": inner,
            "That is a share of the width, not a distance: divide by the width once.": inner / length**2,
        })  # fmt: skip
        above = float((to_c.norm() ** 2 - (inner / length) ** 2).sqrt())
        compare("The height of c", above, height, {
            "That is the distance from a to c: take away what lies along the way to b.": float(to_c.norm()),
            "c lies above the way to b: the height is positive.": -above,
        })  # fmt: skip
    a, b = any_three[0], any_three[1]
    _refused(plane, "c = a + 2 (b - a)", (a, b, a + 2 * (b - a)))
    _refused(plane, "c = a", (a, b, a))
    _refused(plane, "b = a", (a, a, b))
    passed("check_plane")


def _refused(plane: Callable[..., Any], name: str, three: tuple[Tensor, Tensor, Tensor]) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            came = plane(*(point.clone() for point in three))
    except ValueError:
        return
    except Exception as error:
        wrong(f"Points on one line ({name})", "a ValueError", type(error).__name__,
              "Look before dividing: which length is 0?")  # fmt: skip
    height = float(torch.as_tensor(came, dtype=torch.float64).flatten()[-1])
    exact = abs(height) <= REORDERED[torch.float64] * max(float(point.norm()) for point in three)
    wrong(
        f"Points on one line ({name})", "a ValueError", f"a plane of height {height:.2g}",
        "They span no plane: what comes is rounding. Compare the height with the other lengths, as it is hardly 0."
        if not exact else "They span no plane: refuse a height that is 0, up to rounding.",
    )  # fmt: skip
