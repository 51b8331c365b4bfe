"""Every page in every state, light and dark, from a phone to a wide screen: nothing scrolls sideways, no table is cut
off where there is room, no errors, nothing serious by axe.

`MFT_STUDIO_SCREENSHOTS=folder` keeps a picture of each.  axe-core is vendored in `vendor/` (MPL-2.0).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Studio, serious_findings
from tests.fake_runs import STATES, fake_run

pytestmark = pytest.mark.browser

THEME = """(dark) => [document.documentElement, document.body].forEach((node) => node.classList.toggle('dark', dark))"""
WIDTHS = (1440, 390, 768, 2560)
AXE_WIDTHS = (1440, 390)
CUT_OFF = """() => [...document.querySelectorAll('main .scroll, main .preview-scroll, main .seg')]
  .filter((node) => node.checkVisibility() && node.scrollWidth > node.clientWidth + 1)
  .map((node) => node.getAttribute('aria-label') || node.className)"""
"""Tables and choices whose end is out of sight; on a phone some are wide by nature: a column per model or run."""
WIDE_BY_NATURE = (
    "Results",
    "Settings",
    "Held-out loss of every task",
    "Published results",
    "The mixture in numbers",
)
SETTLE_MS = 350
"""For charts that follow the width, and colours that fade."""
PLACES = {
    "home": ("/", "#home .island > *"),
    "datasets": ("/datasets", "#datasets-table .island > *"),
    "new": ("/new?preset=starter", "#new-start:enabled"),
    "runs": ("/runs", "#runs table"),
    "compare": ("/compare?runs=20260101-finished,20260101-failed", "#compare canvas"),
    "compare-empty": ("/compare", "#compare .empty"),
    "chat": ("/chat", "#chat-send:enabled"),
    "export": ("/export", "main .island > *"),
    "evaluate": ("/evaluate", "main .island > *"),
    "settings": ("/settings", "main .island > *"),
    "run-missing": ("/run?id=nothing", "#run .empty"),
    **{f"run-{state}": (f"/run?id=20260101-{state}", "#run-state") for state in STATES},
    **{
        f"tab-{tab}": (f"/run?id=20260101-finished&tab={tab}", f"#panel-{tab}")
        for tab in ("balance", "samples", "log", "config", "checkpoints")
    },
}


@pytest.fixture(scope="module")
def all_states(studio: Studio) -> Iterator[None]:
    runs = [fake_run(studio.home / "runs", state, steps=40) for state in STATES]
    yield
    for run in runs:
        run.path.rename(studio.home / run.id)  # no longer among the runs of the tests that follow


@pytest.mark.parametrize("place", PLACES)
def test_a_page_is_sound_in_light_and_dark_wide_and_narrow(page: Page, studio: Studio, all_states: None, place: str):
    path, ready = PLACES[place]
    page.goto(studio.url + path)
    expect(page.locator(ready).first).to_be_visible()
    kept = os.environ.get("MFT_STUDIO_SCREENSHOTS")
    problems = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for dark in (False, True) if width in AXE_WIDTHS else (False,):
            page.evaluate(THEME, dark)
            page.wait_for_timeout(SETTLE_MS)
            where = f"{place}-{width}-{'dark' if dark else 'light'}"
            if page.evaluate("document.documentElement.scrollWidth") > width:
                problems.append(f"{where}: scrolls sideways")
            cut_off = [what for what in page.evaluate(CUT_OFF) if width > 390 or what not in WIDE_BY_NATURE]
            problems += [f"{where}: {what} is cut off" for what in cut_off]
            if width in AXE_WIDTHS and (width == 1440 or not dark):  # colours do not depend on the width
                problems += [f"{where}: {found}" for found in serious_findings(page)]
            if kept:
                Path(kept).mkdir(parents=True, exist_ok=True)
                page.screenshot(path=Path(kept) / f"{where}.png", full_page=True)
    assert problems == [], "\n".join(problems)
