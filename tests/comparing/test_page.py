"""The page in a real browser: Chromium, headless, on a file from disk."""

import re
from pathlib import Path

import pytest

from rlbench.comparing.command import write
from rlbench.comparing.curves import AXES
from rlbench.comparing.groups import comparisons
from rlbench.comparing.pairwise import judge
from rlbench.comparing.report import Part, Report
from rlbench.comparing.runs import Skipped

from . import made

FIGURES = 8
HOSTILE = "</script><img src=http://127.0.0.1:9/x.png>"


@pytest.fixture(scope="session")
def report() -> Report:
    """Two algorithms on two tasks, one of which has settings of two sizes and a name that is no HTML."""
    last = {"first": 0.9, "second": 0.5, HOSTILE: 0.4}
    runs = [
        made.run(seed, {0: 0.1, 5: 0.3, 10: end + seed / 100}, algo=algo, task=task)
        for task in ("adding", "taking away") for algo, end in last.items() for seed in range(4)
    ]  # fmt: skip
    runs += [made.run(0, algo="first", a_key_with_quite_a_long_name_as_they_are="and a long value, 1234567890")]
    asked, _ = comparisons(runs)
    parts = [Part(comparison, judge(comparison, AXES["rollouts"])) for comparison in asked]
    return Report(["nowhere"], parts, [Skipped(Path("nowhere/else"), "no summary.json")], [])


@pytest.fixture(scope="session")
def file(report, tmp_path_factory) -> Path:
    return write(report, tmp_path_factory.mktemp("page"), ["html"])[0]


@pytest.fixture
def opened(browser, file):
    """Opens the page at a width and in a scheme, and waits until it is drawn; notes what it says and asks for."""
    pages = []

    def open_(width: int = 1200, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-drawn]", timeout=30_000)
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()


def test_it_draws_without_an_error_and_without_the_network(opened, file):
    page = opened()
    page.wait_for_load_state("networkidle")
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.locator("figure svg").count() == 2 * FIGURES


def test_every_figure_has_axes_with_names_and_units(opened):
    page = opened()
    for figure in page.locator("figure").all():
        names = figure.locator(".role-axis-title text").all_text_contents()
        assert len(names) == 2, figure.text_content()
        for name in names:
            assert name == "algorithm" or re.fullmatch(r"[\w ,-]{5,} \([\w% ]+\)", name), name
        assert figure.locator(".role-legend text").count(), "and says which colour is what"


def test_it_is_readable_on_400_pixels(opened):
    page = opened(width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for figure in page.locator("figure svg").all():
        shown = figure.evaluate(
            "svg => [svg, ...svg.querySelectorAll('text')].map(it => [it.getBoundingClientRect(), it])"
            ".map(([box, it]) => [box.left, box.right, parseFloat(getComputedStyle(it).fontSize)])"
        )
        first, last, _ = shown[0]  # of the drawing, which cuts off what lies outside
        assert first >= 0 and last <= 400
        assert all(left >= first and right <= last and size >= 11 for left, right, size in shown if right), shown


def luminance(colour: str) -> float:
    """Relative luminance, of WCAG 2.2."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_either_scheme(opened, scheme):
    """At least 4.5 to 1, as WCAG 2.2 asks of text (1.4.3); in dark mode the paper is the dark one."""
    page = opened(scheme=scheme)
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.1) == (scheme == "dark")
    everything = page.evaluate(
        "() => [...document.querySelectorAll('figure svg text')].map(t => getComputedStyle(t).fill)"
        ".concat([...document.querySelectorAll('p, td, th, li, pre, h2')].map(t => getComputedStyle(t).color))"
    )
    assert len(everything) > 100
    for ink in set(everything):
        light, dark = sorted((luminance(ink), paper), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, ink


def test_a_scheme_that_changes_draws_anew(opened):
    page = opened(scheme="light")
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("body[data-drawn=dark]")
    ink = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert luminance(ink) > 0.5 and page.said == []


def test_it_says_what_was_found(opened):
    text = opened().locator("body").inner_text()
    for words in (
        "untuned",
        "no winner",
        "TFLOPs",
        "what differs in the configs",
        "rlbench -m algo=first seed=0,1,2,3",
    ):
        assert words in text
    assert "no summary.json" in text and HOSTILE in text, "names are shown, not obeyed"
