"""The site asks nothing of the network, its links lead somewhere, and every public name is described."""

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import adamix_lab

pytest.importorskip("myst_nb", reason="the dev extra is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(pages, tmp_path_factory):
    return pages.build(tmp_path_factory.mktemp("pages") / "site")  # a warning of Sphinx's is an error


class Scan(HTMLParser):
    """What a browser would fetch, links, names to jump to, and pictures without words."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.links, self.names, self.mute = [], [], set(), 0
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") != "next":
            self.fetched.append(given["href"])
        self.fetched += [given[name] for name in ("src", "srcset", "poster", "data") if given.get(name) and tag != "a"]
        self.mute += tag == "img" and len(given.get("alt") or "") < 40


@pytest.fixture(scope="module")
def scans(site):
    return {path: Scan(path) for path in site}


def test_nothing_is_fetched_from_elsewhere(site, scans):
    assert site[0].name == "index.html" and len(site) >= 40
    for path, scan in scans.items():
        assert not [url for url in scan.fetched if re.match(r"(https?:)?//", url)], path
        assert scan.mute == 0, path
    for css in site[0].parent.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\W*(https?:)?//", css.read_text("utf-8")), css


def test_links_lead_somewhere(scans):
    for path, scan in scans.items():
        for link in scan.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            there = (path.parent / target).resolve() if target else path
            assert there.exists(), (path, link)
            assert not anchor or there not in scans or anchor in scans[there].names, (path, link)


def test_every_public_name_is_described(pages, scans):
    assert " ".join(pages.API.values()).split() == adamix_lab.__all__
    (page,) = (path for path in scans if path.name == "api.html")
    assert {f"adamix_lab.{name}" for name in adamix_lab.__all__} <= scans[page].names


def test_lessons_guides_and_cards_are_all_there(site):
    there = {path.relative_to(site[0].parent).with_suffix("").as_posix() for path in site}
    lessons = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    cards = {path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob("data/*/README.md")}
    assert lessons | cards | {"docs/learn", "docs/teach", "docs/research", "docs/use", "docs/teaching/day"} <= there
    assert {f"print/{Path(name).name}" for name in lessons} <= there


@pytest.mark.parametrize(
    ("source", "drawn"),
    [
        ("$\\alpha + 1$", ["<mi>α</mi>", "<mn>1</mn>"]),
        ("$\\tfrac12 (p - q)$", ["<mn>1</mn><mn>2</mn></mfrac>"]),
        ("$$x \\leftarrow x + f(x A_i) B$$", ['display="block"', "<msub><mi>A</mi><mi>i</mi></msub>"]),
        ("`$\\alpha$` costs $5", ["`$\\alpha$` costs $5"]),
    ],
)
def test_tex_becomes_mathml_that_needs_no_script(pages, tmp_path, source, drawn):
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# A\n\n{source}")])
    nbformat.write(notebook, tmp_path / "00_x.ipynb")
    (cell,) = pages.lesson(tmp_path / "00_x.ipynb").cells
    assert all(part in cell.source for part in drawn), cell.source


def test_tex_that_cannot_be_read_is_refused_with_words(pages, tmp_path):
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("$\\nosuchthing{1}$")])
    nbformat.write(notebook, tmp_path / "00_x.ipynb")
    with pytest.raises(ValueError, match=r"cannot be drawn.*nosuchthing"):
        pages.lesson(tmp_path / "00_x.ipynb")


def test_a_control_becomes_words(pages, tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell("slider")
    cell.outputs = [nbformat.v4.new_output("display_data", {pages.WIDGET: {"model_id": "1"}, "text/plain": "Box()"})]
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A"), cell]), tmp_path / "00_x.ipynb"
    )
    still = pages.lesson(tmp_path / "00_x.ipynb")
    assert "a control stands here" in still.cells[1].outputs[0].data["text/markdown"]


def test_links_out_of_the_pages_keep_their_words_alone(pages):
    kept = {ROOT / "docs" / "use.md"}
    text = "[use](use.md#installing), [code](../bootstrap.py), [web](https://example.org), ![a picture](../x.png)"
    assert pages.linked(text, ROOT / "docs", kept) == ("[use](use.md#installing), code, [web](https://example.org), ")


def test_no_placeholder_of_an_address_is_left():
    for pattern in ("*.md", "docs/**/*.md", "adamix_lab/**/*.py", "*.toml", "*.cff", "notebooks/*.ipynb"):
        for path in ROOT.glob(pattern):
            assert "OWNER" not in path.read_text("utf-8"), path
