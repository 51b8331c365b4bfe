"""How soon the studio's pages answer: the first page after a start, and clicks on pages that are otherwise idle.

    python benchmarks/pages.py [--clicks 20]

Starts a studio on a data root of made-up runs and opens it in a fresh headless Chromium.  The first page counts from
the moment the port answers until a click on it has been drawn.  A click counts from the event until two frames after
its effect stands on the page, the server's answer included.  Other work on the machine counts too: its load is told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from playwright.sync_api import Page, sync_playwright  # noqa: E402

from benchmarks.load import start_studio  # noqa: E402
from tests.fake_runs import fake_run  # noqa: E402

PAUSE_MS = 120
"""Between clicks, so that each finds an idle page."""
CLICKS = {
    "light and dark": ("/", "#studio-theme", "document.documentElement.classList.contains('dark')"),
    "a tab of a run": (
        "/run?id=20260101-finished",
        "[role=tab][aria-selected=false]",
        "document.querySelector('[role=tab][aria-selected=true]').id",
    ),
    "steps or tokens of a chart": (
        "/run?id=20260101-finished&tab=curves",
        "[aria-label='Horizontal axis'] [aria-pressed=false]",
        "document.querySelector(\"[aria-label='Horizontal axis'] [aria-pressed=true]\").textContent",
    ),
    "order of the runs": ("/runs", "button.sort", "document.querySelector('#runs thead').textContent"),
    "a task of a new run (server)": (
        "/new",
        "[data-name=text-to-code] input[type=checkbox]",
        "document.querySelectorAll('#new-mix tr').length",
    ),
    "a method of a new run (server)": (
        "/new?preset=starter",
        "#field-method label:not(:has(:checked)) input",
        "document.querySelector('#new-yaml').textContent",
    ),
    "detail of a task (server)": (
        "/datasets",
        "#datasets-table tr:not([aria-selected=true]) button.link",
        "document.querySelector('#datasets-detail').textContent",
    ),
}
"""Page, what is clicked, and what is different once the click has had its effect."""
CLICK = """async ([selector, expression]) => {
  const state = () => new Function(`return ${expression}`)(), before = state(), begin = performance.now();
  document.querySelector(selector).click();
  while (state() === before) {
    if (performance.now() - begin > 10000) throw new Error(`nothing came of a click on ${selector}`);
    await new Promise(requestAnimationFrame);
  }
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - begin;
}"""


def first_page(page: Page, url: str) -> float:
    """Return the seconds until the Home page has answered a click."""
    begin = time.monotonic()
    page.goto(url, wait_until="commit")
    page.locator("#home a").first.wait_for()
    page.evaluate(CLICK, list(CLICKS["light and dark"][1:]))
    return time.monotonic() - begin


def clicks(page: Page, url: str, name: str, number: int) -> list[float]:
    """Return the milliseconds of every click of a kind, the first one left out."""
    path, selector, expression = CLICKS[name]
    page.goto(url + path)
    page.locator(selector).first.wait_for()
    page.wait_for_timeout(2000)
    times = []
    for _ in range(number + 1):
        times.append(page.evaluate(CLICK, [selector, expression]))
        page.wait_for_timeout(PAUSE_MS)
    return times[1:]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        runs = Path(folder) / "runs"
        runs.mkdir()
        for state in ("finished", "failed", "stopped"):
            fake_run(runs, state, steps=2000)
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        studio, port, up_s = start_studio(Path(folder))
        url = f"http://127.0.0.1:{port}"
        try:
            page = browser.new_page()
            page.set_default_timeout(60_000)
            print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
            print(f"the process answered after {up_s:.1f} s, its first page {first_page(page, url):.2f} s later")
            everything = []
            for name in CLICKS:
                times = clicks(page, url, name, arguments.clicks)
                everything += times
                print(f"  {name:32s} {spread(times)}")
            print(f"  {'all clicks':32s} {spread(everything)}")
        finally:
            browser.close()
            studio.terminate()
            studio.wait(20)
    return 0


def spread(times: list[float]) -> str:
    """Return the middle and the slow end of some times in milliseconds."""
    p95 = statistics.quantiles(times, n=20)[-1]
    return f"p50 {statistics.median(times):5.0f} ms, p95 {p95:5.0f} ms, of {len(times)}"


if __name__ == "__main__":
    sys.exit(main())
