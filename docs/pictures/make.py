"""The documentation's pictures of widgets, each as its "Show me" leaves it: `python docs/pictures/make.py`.

It prints their alt texts, to which those in `docs/learn.md` are to be compared.
"""

from pathlib import Path

from adamix_lab import load_twin
from adamix_lab.analysis.plots import png_of
from adamix_lab.lessons import consistency, merging, routing, tour

WIDGETS = {
    "stops": tour.stop_explorer(),
    "routes": routing.route_explorer(*load_twin("adamix", 20, data="noisy"), ("subjective", "objective")),
    "triangle": merging.mixing_triangle(merging.ground_of("apart")),
    "dial": consistency.consistency_dial(),
}

for name, widget in WIDGETS.items():
    widget.buttons["Show me"].click()
    (Path(__file__).parent / f"{name}.png").write_bytes(png_of(widget.picture.figure))
    print(f"{name}.png: {widget.picture.alt}")
