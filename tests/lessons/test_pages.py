"""The site asks nothing of the network: no script, no resource from elsewhere; links lead to its own pages."""

import importlib
import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("nbconvert", reason="the notebooks extra is not installed")


@pytest.fixture(scope="module")
def pages():
    return importlib.import_module("pages")


@pytest.fixture(scope="module")
def site(pages, tmp_path_factory):
    return pages.build(tmp_path_factory.mktemp("site"))


class Scan(HTMLParser):
    """Scripts, what a browser would fetch, links, and pictures without words."""

    def __init__(self):
        super().__init__()
        self.fetched, self.scripts, self.links, self.mute = [], 0, [], 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.scripts += tag == "script"
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link":
            self.fetched.append(given["href"])
        self.fetched += [given[name] for name in ("src", "srcset", "poster", "data") if given.get(name) and tag != "a"]
        self.mute += tag == "img" and len(given.get("alt") or "") < 40


def scanned(path):
    scan = Scan()
    scan.feed(path.read_text("utf-8"))
    return scan


def test_nothing_is_fetched_from_elsewhere(site):
    assert site[0].name == "index.html" and len(site) >= 4
    for path in site:
        scan = scanned(path)
        assert not [url for url in scan.fetched if not url.startswith(("data:", "site.css"))], path.name
        assert scan.scripts == 0 and scan.mute == 0, path.name
    css = (site[0].parent / "site.css").read_text("utf-8")
    assert "url(" not in css and "@import" not in css and "prefers-color-scheme: dark" in css


def test_links_lead_somewhere(site):
    for path in site:
        for link in scanned(path).links:
            there = (path.parent / link.split("#")[0]).resolve() in site
            assert link.startswith(("http", "#", "mailto:")) or there, (path.name, link)


def contrast(one, two):
    def light(colour):
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(one), light(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_links_are_legible_in_light_and_dark(pages):
    for theme in re.findall(r":root \{([^}]*)\}", pages.STYLE):
        colour = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for ground in ("back", "soft"):
            assert contrast(colour["text"], colour[ground]) >= 7
            assert contrast(colour["link"], colour[ground]) >= 4.5


def test_tex_is_refused_with_words(pages, tmp_path):
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A\n\n$\\alpha + 1$")])
    nbformat.write(notebook, tmp_path / "00_x.ipynb")
    with pytest.raises(ValueError, match="write it in Unicode"):
        pages.lesson(tmp_path / "00_x.ipynb")


def test_a_control_becomes_words(pages, tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell("slider")
    cell.outputs = [nbformat.v4.new_output("display_data", {pages.WIDGET: {"model_id": "1"}, "text/plain": "Box()"})]
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A"), cell]), tmp_path / "00_x.ipynb"
    )
    title, body = pages.lesson(tmp_path / "00_x.ipynb")
    assert title == "A" and "a control stands here" in body and "<script" not in body
