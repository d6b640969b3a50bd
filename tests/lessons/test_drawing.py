"""The drawn block: what its alt text says of the route, and what lies on the picture."""

import pytest
from seen import all_inside

from adamix_lab.core.errors import LabError
from adamix_lab.lessons.drawing import LIT, draw_block


def texts(picture):
    return [text.get_text() for text in picture.figure.axes[0].texts]


def lit(picture):
    return [text.get_text() for text in picture.figure.axes[0].texts if text.get_fontweight() == "bold"]


@pytest.mark.parametrize("expert", range(4))
def test_the_route_is_lit(expert):
    picture = draw_block(route=(expert, 0))
    assert lit(picture) == [f"down {expert}", "up\n(shared)"] and all_inside(picture.figure)
    assert f"takes down {expert}, then the up projection" in picture.alt and "a mixture of 4 adapters:" in picture.alt
    assert sum(text.startswith(("down ", "up ")) for text in texts(picture)) == 4
    thick = [line for line in picture.figure.axes[0].lines if line.get_color() == LIT]
    assert len(thick) == 5  # from the frozen layer, into and out of each side


def test_an_expert_that_is_not_there_is_refused():
    with pytest.raises(LabError, match="expert of the down side = 4: expected a whole number from 0 to 3"):
        draw_block(route=(4, 0))
    with pytest.raises(LabError, match="expert of the up side = 1: expected a whole number from 0 to 0"):
        draw_block(route=(2, 1))
