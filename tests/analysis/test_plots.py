"""Pictures carry their alt text, and colours keep their contrast."""

import tiny  # noqa: F401  (sets nothing; keeps the tests' folder on the path)

from adamix_lab.analysis.plots import STYLES, Picture, new_figure, save_figure


def test_the_alt_text_lies_beside_the_picture(tmp_path):
    path = save_figure(new_figure()[0], tmp_path / "x.png", "Nothing yet.")
    assert path.read_bytes().startswith(b"\x89PNG") and (tmp_path / "x.txt").read_text() == "Nothing yet.\n"


def test_a_picture_is_read_out_in_notebooks():
    data, metadata = Picture(new_figure()[0], 'Accuracy of "single"')._repr_mimebundle_()
    assert 'alt="Accuracy of &quot;single&quot;"' in data["text/html"]
    assert metadata["image/png"]["alt"] == data["text/plain"] == 'Accuracy of "single"'


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

    figure, ax = new_figure()
    ax.plot([1, 2])
    assert PNGFormatter()(figure).startswith(b"\x89PNG")
    with matplotlib.rc_context({"figure.facecolor": "#102030"}):
        assert to_hex(new_figure()[0].get_facecolor()) == "#102030"
