"""The drawn block: what its alt text says of the route, and what lies on the picture."""

import pytest
from seen import all_inside

from adamix_lab.core.errors import LabError
from adamix_lab.lessons.drawing import LIT, draw_block


def texts(picture):
    return [text.get_text() for text in picture.figure.axes[0].texts]


def lit(picture):
    return [text.get_text() for text in picture.figure.axes[0].texts if text.get_fontweight() == "bold"]


@pytest.mark.parametrize(
    ("settings", "bold", "told"),
    [
        ({}, ["down 2", "up\n(shared)"], "takes down 2, then the up projection"),
        ({"route": (0, 3), "shared": "down"}, ["down\n(shared)", "up 3"], "takes the down projection, then up 3"),
        ({"route": (7, 1), "experts": 8, "shared": None}, ["down 7", "up 1"], "no projection is shared"),
        ({"route": (0, 0), "experts": 1}, ["down\n(shared)", "up\n(shared)"], "a mixture of 1 adapter:"),
    ],
)
def test_the_route_is_lit(settings, bold, told):
    picture = draw_block(**settings)
    assert lit(picture) == bold and told in picture.alt and all_inside(picture.figure)
    experts = settings.get("experts", 4)
    sides = 2 if "shared" in settings and settings["shared"] is None else 1
    assert sum(text.startswith(("down ", "up ")) for text in texts(picture)) == (0 if experts == 1 else experts * sides)
    thick = [line for line in picture.figure.axes[0].lines if line.get_color() == LIT]
    assert len(thick) == 5  # from the frozen layer, into and out of each side


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"route": (4, 0)}, "expert of the down side = 4: expected a whole number from 0 to 3"),
        ({"route": (2, 1)}, "expert of the up side = 1: expected a whole number from 0 to 0"),
        ({"experts": 9}, "experts = 9: expected a whole number from 1 to 8"),
        ({"shared": "upp"}, "Side to share 'upp' is not known"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings, told):
    with pytest.raises(LabError, match=told):
        draw_block(**settings)
