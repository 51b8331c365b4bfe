"""Nothing jumps while data come in: the layout shift, as browsers measure it, stays below what they call good."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from engine.contract.files import append_json
from engine.contract.rundir import RunDir
from tests.browser.conftest import Studio
from tests.fake_runs import fake_run, metrics_row

pytestmark = pytest.mark.browser
GOOD = 0.1
"""https://web.dev/articles/cls: the share of the page that moved, times how far, of all jumps that nobody asked for."""
WATCH = """window.shifted = [];
const named = ({node}) => node && `${node.nodeName}.${node.className}#${node.id}`;
const keep = (jump) => jump.hadRecentInput || window.shifted.push([jump.value, jump.sources.map(named).join(' ')]);
new PerformanceObserver((list) => list.getEntries().forEach(keep)).observe({type: 'layout-shift', buffered: true});"""


def write(run: RunDir, first: int, last: int) -> None:
    """Go on with a run: figures of every kind, and an evaluation that shows a change to the base model."""
    for step in range(first, last + 1):
        more = {"perf/tokens_per_second": 1000.0, "optim/learning_rate": 1e-4, "perf/memory_bytes": 3 * 2**30}
        append_json(run.metrics_file, metrics_row(step) | more)
    losses = {"eval/loss": 4.0 - last / 10, "task/sql/eval_loss": 3.0, "task/bug-fix/eval_loss": 6.6}
    append_json(run.metrics_file, {"step": last, **losses})


def watch_a_run(page: Page, studio: Studio) -> None:
    run = fake_run(studio.home / "new", "running", steps=0)
    run.metrics_file.write_text("")
    run = RunDir(run.path.rename(studio.home / "runs" / f"20260105-jumps-{page.viewport_size['width']}"))  # type: ignore[index]
    try:
        page.goto(f"{studio.url}/run?id={run.id}")
        expect(page.locator("#chart-plot .empty")).to_be_visible()
        write(run, 1, 3)
        expect(page.locator("#chart-plot canvas")).to_be_visible()
        write(run, 4, 9)
        expect(page.locator("#run .kpis")).to_contain_text("% vs base")
    finally:
        shutil.rmtree(run.path)


def watch_home(page: Page, studio: Studio) -> None:
    page.goto(studio.url)
    expect(page.locator("#home .preset").first).to_be_visible()


def watch_a_form(page: Page, studio: Studio) -> None:
    page.goto(f"{studio.url}/new?preset=starter")
    expect(page.locator("#new-start")).to_be_enabled()


@pytest.mark.parametrize("watched", (watch_a_run, watch_home, watch_a_form))
@pytest.mark.parametrize("width", (1440, 390))
def test_a_page_does_not_jump_while_data_come_in(
    page: Page, studio: Studio, watched: Callable[[Page, Studio], None], width: int
):
    page.add_init_script(WATCH)
    page.set_viewport_size({"width": width, "height": 900})
    watched(page, studio)
    shifted = page.evaluate("window.shifted")
    assert sum(value for value, _ in shifted) < GOOD, shifted
