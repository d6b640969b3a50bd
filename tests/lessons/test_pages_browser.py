"""The site opens from disk in Chromium without network: every page, every picture, in light and dark."""

import importlib.util
from pathlib import Path

import lab_server
import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(lab_server.missing() is not None, reason=str(lab_server.missing())),
    pytest.mark.timeout(900),
]

LOOK = """() => ({
  broken: [...document.images].filter(image => !image.complete || !image.naturalWidth).length,
  wide: document.documentElement.scrollWidth > innerWidth,
  heading: document.querySelector('h1')?.innerText ?? '',
  back: getComputedStyle(document.body).backgroundColor,
  text: getComputedStyle(document.querySelector('main p, article p, article') ?? document.body).color,
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("docs_build", Path(__file__).parents[2] / "docs" / "build.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return pages.build(tmp_path_factory.mktemp("a site, größer") / "site")


def light(colour):
    """How bright a CSS colour `rgb(r, g, b)` is, 0 to 255."""
    return sum(map(int, colour[colour.index("(") + 1 : -1].split(","))) / 3


def test_every_page_opens_from_disk_without_network(site):
    with lab_server.chromium() as browser:
        for scheme in ("light", "dark"):
            with lab_server.page_of(browser, offline=True, color_scheme=scheme) as (page, troubles):
                for path in site:
                    page.goto(path.as_uri())
                    seen = page.evaluate(LOOK)
                    assert (
                        (seen["heading"] or path.name == "search.html") and not seen["broken"] and not seen["wide"]
                    ), (path.name, seen)
                    dark = scheme == "dark" and path.parent.name != "print"  # hand-outs look as paper does
                    assert (light(seen["back"]) < light(seen["text"])) == dark, (path, seen)
                assert troubles == lab_server.Troubles()


def test_links_lead_from_the_contents_to_each_page(site):
    with lab_server.chromium() as browser, lab_server.page_of(browser, offline=True) as (page, troubles):
        reached = set()
        for start in (site[0], site[0].parent / "print.html"):
            page.goto(start.as_uri())
            reached |= set(page.locator("a").evaluate_all("links => links.map(link => link.href.split('#')[0])"))
        assert {path.as_uri() for path in site if path.name not in ("genindex.html", "search.html")} <= {
            *reached,
            site[0].as_uri(),
        }
        page.goto(site[0].as_uri())
        page.locator("article a[href$='00_tour.html']").first.click()
        page.wait_for_url("**/00_tour.html")
        assert troubles == lab_server.Troubles()


def test_the_search_answers_without_network(site):
    with lab_server.chromium() as browser, lab_server.page_of(browser, offline=True) as (page, troubles):
        page.goto((site[0].parent / "search.html").as_uri() + "?q=consistency")
        page.wait_for_selector("#search-results li a")
        assert troubles == lab_server.Troubles()
