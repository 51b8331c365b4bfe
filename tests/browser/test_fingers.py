"""A phone held in a hand: what is pressed is large enough, and charts are read and zoomed by fingers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Studio
from tests.browser.test_pages import PLACES
from tests.fake_runs import STATES, fake_run, metrics_row

pytestmark = pytest.mark.browser
LEAST_PX = 40
WALKED = (
    "home",
    "datasets",
    "new",
    "runs",
    "compare",
    "chat",
    "settings",
    "run-running",
    "run-failed",
    "tab-checkpoints",
)
TOO_SMALL = """(least) => {
  const pressed = ':is(button, a.button, a.ibtn, a.link, select, summary, input)';
  return [...document.querySelectorAll(`.st ${pressed}, #studio-header :is(button, nav a)`)].filter((node) => {
    if (!node.checkVisibility() || node.closest('.gradio-container .upload-container')) return false;
    const box = (node.type === 'checkbox' && node.closest('label') || node).getBoundingClientRect();
    return box.height < least - 0.5 && box.width > 0;
  }).map((node) => `${node.tagName}.${node.className} ${node.textContent.slice(0, 20)} ${node.offsetHeight}`); }"""


@pytest.fixture(scope="module")
def states(studio: Studio) -> Iterator[None]:
    runs = [fake_run(studio.home / "runs", state, steps=40) for state in STATES]
    rows = [json.dumps(metrics_row(step)) + "\n" for step in range(1, 401)]
    long = fake_run(studio.home / "fingers", "running", steps=2)
    long.metrics_file.write_text("".join(rows))
    long.path.rename(studio.home / "runs" / "20260104-fingers")
    yield
    for run in runs:
        shutil.rmtree(run.path)
    shutil.rmtree(studio.home / "runs" / "20260104-fingers")


@pytest.fixture
def phone(browser: Browser, studio: Studio, states: None) -> Iterator[Page]:
    page = browser.new_page(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, locale="en-US", reduced_motion="reduce"
    )
    page.set_default_timeout(20_000)
    yield page
    page.close()


@pytest.mark.parametrize("place", WALKED)
def test_what_is_pressed_is_large_enough_for_a_finger(phone: Page, studio: Studio, place: str):
    path, ready = PLACES[place]
    phone.goto(studio.url + path)
    expect(phone.locator(ready).first).to_be_visible()
    assert phone.evaluate(TOO_SMALL, LEAST_PX) == []
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


class Fingers:
    """Sends what a browser hears of fingers: their places, in px of the page's view."""

    def __init__(self, page: Page) -> None:
        self.session = page.context.new_cdp_session(page)

    def __call__(self, kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_one_finger_reads_a_chart_and_two_zoom_it(phone: Page, studio: Studio):
    phone.goto(f"{studio.url}/run?id=20260104-fingers")
    plot, tip, reset = phone.locator("#chart-plot .u-over"), phone.locator(".st-tip"), phone.locator("#chart-reset")
    expect(plot).to_be_visible()
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box
    middle, touch = box["y"] + 150, Fingers(phone)

    def at(share: float) -> tuple[float, float]:
        return box["x"] + share * box["width"], middle

    touch("touchStart", at(0.5))
    touch("touchMove", at(0.75))
    expect(tip).to_contain_text(re.compile(r"Step (29|30|31)\d"))
    touch("touchEnd")
    expect(tip).to_be_visible()  # what was read stays when the finger is lifted
    expect(reset).to_be_hidden()

    touch("touchStart", at(0.4), at(0.6))
    touch("touchMove", at(0.1), at(0.9))  # four times: of 400 steps the hundred around the middle are left
    touch("touchEnd")
    expect(reset).to_be_visible()
    box = plot.bounding_box()  # the button above has moved it
    assert box
    middle = box["y"] + 150
    for share, step in ((0.02, "15"), (0.98, "24")):
        phone.touchscreen.tap(*at(share))
        expect(tip).to_contain_text(re.compile(rf"Step {step}\d"))
    reset.tap()
    expect(reset).to_be_hidden()
