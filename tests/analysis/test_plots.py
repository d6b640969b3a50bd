"""Pictures carry their alt text, and colours keep their contrast."""

import tiny  # noqa: F401  (sets nothing; keeps the tests' folder on the path)

from adamix_lab.analysis.plots import STYLES, Bar, Picture, compare, new_figure, save_figure


def bars():
    return [Bar("AdaMix, merged", 0.9, 0.88, 0.92, "merged"), Bar("a single adapter", 0.91, 0.89, 0.93, "single")]


def test_the_alt_text_tells_every_number(tmp_path):
    figure, ax = new_figure()
    alt = compare(bars(), ax)
    assert "AdaMix, merged 90.0 % (88.0 to 92.0)" in alt and "a single adapter 91.0 %" in alt
    path = save_figure(figure, tmp_path / "x.png", alt)
    assert path.read_bytes().startswith(b"\x89PNG") and (tmp_path / "x.txt").read_text().strip() == alt


def test_a_picture_is_read_out_in_notebooks():
    figure, ax = new_figure()
    data, metadata = Picture(figure, compare(bars(), ax))._repr_mimebundle_()
    assert 'alt="Accuracy with 95' in data["text/html"] and data["text/plain"].startswith("Accuracy")
    assert metadata["image/png"]["alt"] == data["text/plain"]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_method_has_a_marker_of_its_own_and_enough_contrast_on_white():
    assert len({marker for _, marker in STYLES.values()}) == len(STYLES)
    for name, (colour, _) in STYLES.items():
        assert 1.05 / (luminance(colour) + 0.05) >= 3, name


def test_a_figure_is_shown_as_a_cells_last_value_and_obeys_the_style():
    import matplotlib
    from IPython.core.formatters import PNGFormatter
    from matplotlib.colors import to_hex

    from adamix_lab.analysis.plots import new_figure

    figure, ax = new_figure()
    ax.plot([1, 2])
    assert PNGFormatter()(figure).startswith(b"\x89PNG")
    with matplotlib.rc_context({"figure.facecolor": "#102030"}):
        assert to_hex(new_figure()[0].get_facecolor()) == "#102030"
