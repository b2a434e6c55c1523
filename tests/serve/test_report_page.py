"""The report in a browser without a screen: long names of a grid's points, and a run of one step."""

from collections.abc import Callable, Iterator

import pytest
from report_tree import Tree, read, sample, steps
from served import need_serving

from makelm import report

need_serving()
Page = pytest.importorskip("playwright.sync_api").Page

LONG = "rates_with_an_extremely_long_name_that_nobody_would_ever_choose_but_a_grid_makes-matrices="
NAMES = [f"{LONG}{rate}" for rate in ("0.01", "0.03")] + ["one"]


@pytest.fixture
def visit(browser, tmp_path) -> Iterator[Callable[[int], Page]]:
    """Opens a report of two runs with long names and one of one step. Afterwards its console must be empty."""
    tree, opened, said = Tree(tmp_path / "results"), [], []
    tree.data()
    for number, name in enumerate(NAMES):
        tree.run(name, 1e-3, steps(1 if name == "one" else 20), [sample()], 1.5 + number / 10)
    path = tmp_path / "report.html"
    path.write_text(report.page(read(tree.results, *NAMES), "today"), encoding="utf-8")

    def visit(width: int) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        opened.append(page)
        return page

    yield visit
    for page in opened:
        page.close()
    assert said == []


@pytest.mark.parametrize("width", [390, 1280, 2200])
def test_long_names_leave_room_for_bars_and_the_page_as_wide_as_the_screen(visit, width):
    page = visit(width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    bars = page.evaluate("[...document.querySelectorAll('.track')].map((bar) => bar.getBoundingClientRect().width)")
    assert min(bars) > min(width - 150, 400)


@pytest.mark.parametrize("width", [390, 1280])
def test_what_is_hovered_shows_the_end_of_a_long_name(visit, width):
    page = visit(width)
    page.locator("#chart svg").hover(position={"x": width / 2, "y": 60})
    # the end of a text is in sight where its right edge is within what cuts it
    ends = """[...document.querySelectorAll('#chart .cut')].map((cut) => [
        cut.firstChild.getBoundingClientRect(), cut.getBoundingClientRect()
    ]).map(([text, cut]) => [text.right <= cut.right + 1, text.left < cut.left])"""
    assert page.evaluate(ends) == [[True, True], [True, True]]


def test_a_run_of_one_step_is_a_point_and_its_marker_is_whole(visit):
    page = visit(1280)
    assert page.locator("#chart .alone").count() == 1
    left = "document.querySelector('#inside rect').getBBox().x"
    marker = "Math.min(...[...document.querySelectorAll('#chart path.point')].map((mark) => mark.getBBox().x))"
    assert page.evaluate(left) <= page.evaluate(marker)
