"""The site opens from disk in Chromium without network: every page, every picture, in light and dark."""

import importlib

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
  text: getComputedStyle(document.querySelector('main p')).color,
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return importlib.import_module("pages").build(tmp_path_factory.mktemp("a site, größer"))


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
                    assert seen["heading"] and not seen["broken"] and not seen["wide"], (path.name, seen)
                    dark = scheme == "dark" and path.parent.name != "print"  # hand-outs look as paper does
                    assert (light(seen["back"]) < light(seen["text"])) == dark, (path, seen)
                assert troubles == lab_server.Troubles()


def test_links_lead_from_the_contents_to_each_page(site):
    with lab_server.chromium() as browser, lab_server.page_of(browser, offline=True) as (page, troubles):
        page.goto(site[0].as_uri())
        links = page.locator("main a").evaluate_all("links => links.map(link => link.href)")
        assert {link.rsplit("/", 1)[1] for link in links} == {path.name for path in site[1:]}
        page.locator("main a").first.click()
        page.wait_for_url("**/00_tour.html")
        assert troubles == lab_server.Troubles()
