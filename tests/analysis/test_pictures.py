"""Pictures of routes and uncertainty: what is drawn is what the table says, and the alt text tells it."""

import pandas as pd
import pytest
import torch

from adamix_lab.analysis import plots
from adamix_lab.analysis.calibration import reliability as bins
from adamix_lab.analysis.plots import STYLES
from adamix_lab.analysis.posterior import Samples
from adamix_lab.analysis.posterior import convergence as converge
from adamix_lab.core.routing import generator_for


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_convergence():
    generator = generator_for(0)
    every = Samples(torch.randn(10, 16, 2, generator=generator), torch.zeros(10).long(), exact=True)
    merged = Samples(every.logits.mean(1, keepdim=True), every.labels)
    table = converge(every, merged, sizes=(1, 4, 16), draws=20)
    picture = plots.plot_convergence(table, "tiny, M = 2")
    left, right = picture.figure.axes
    drawn = lines(left)
    assert list(drawn["one route / sqrt(T)"].get_ydata()) == pytest.approx([table["error"][0] / t for t in (1, 2, 4)])
    assert (left.get_xscale(), left.get_yscale(), right.get_xscale()) == ("log", "log", "log")
    assert f"T = 4 {table['error'][1]:.4f}" in picture.alt and picture.alt.startswith("tiny, M = 2. ")


def test_calibration():
    log_p = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2]]).log()
    table = bins(log_p, torch.tensor([0, 1, 1, 0]), 5)
    picture = plots.plot_reliability(pd.concat([table.assign(method=name) for name in ("merged", "exact marginal")]))
    assert [ax.get_title() for ax in picture.figure.axes] == ["merged", "exact marginal"]
    assert "merged +2.5 points" in picture.alt  # 3 of 4 right at a mean confidence of 0.725


def test_one_colour_and_marker_a_method():
    names = [
        "merged",
        "random route, one",
        "routes, 16 drawn",
        "exact marginal",
        "dropout, 16 samples",
        "single adapter",
        "apart, 4",
    ]
    styles = [plots.style_of(name) for name in names]
    assert len(set(styles)) == len(names) and styles[0] == STYLES["merged"] and styles[-1] == STYLES["apart"]
