"""The loss chart in a browser: zoom with detail, smoothing, marks, downloads, keys; what people chose stays."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from engine.contract.files import append_json
from engine.contract.rundir import RunDir
from tests.browser.conftest import Studio
from tests.fake_runs import fake_run, metrics_row

pytestmark = pytest.mark.browser
STEPS = 6000
NAN_STEP, RESUME_STEP = 3000, 1500
WAIT_MS = 30_000
COUNT_COLOR = """([share, name]) => {
  const canvas = document.querySelector('#chart-plot canvas'), over = document.querySelector('#chart-plot .u-over');
  const hex = getComputedStyle(document.body).getPropertyValue(name).trim().slice(1);
  const wanted = hex.match(/../g).map((part) => parseInt(part, 16));
  const left = Math.round((over.offsetLeft + share * over.clientWidth) * devicePixelRatio);
  const data = canvas.getContext('2d').getImageData(left - 2, 0, 5, canvas.height).data;
  let found = 0;
  for (let i = 0; i < data.length; i += 4) found += wanted.every((part, k) => Math.abs(part - data[i + k]) < 40);
  return found; }"""
"""Pixels of a colour of the theme in a narrow column of the chart, at a share of its width."""
HIDE = (
    """Object.defineProperty(document, 'visibilityState', {get: () => window.seen || 'hidden', configurable: true})"""
)


@pytest.fixture
def run(studio: Studio, request: pytest.FixtureRequest) -> Iterator[RunDir]:
    """A running run of 6,000 steps: 32 rows are one bin, so most steps are seen in a zoom only."""
    made = fake_run(studio.home / "new", "running", steps=2)
    rows = [metrics_row(step) | {"task/sql/loss": 2.0 + step % 7 / 10} for step in range(1, STEPS + 1)]
    losses = {"task/sql/eval_loss": 3.0, "task/bug-fix/eval_loss": 5.0}
    evals = [{"step": at, "eval/loss": 4.0 - at / 8000, **losses} for at in (0, 4000)]
    made.metrics_file.write_text(
        "".join(json.dumps(row) + "\n" for row in sorted([*rows, *evals], key=lambda r: r["step"]))
    )
    told: list[tuple[int, str, dict]] = [(1000, "save", {}), (RESUME_STEP, "resume", {}), (4000, "eval", {})]
    told.append((NAN_STEP, "problem", {"not_a_number": ["train/loss"]}))
    for step, kind, data in told:
        append_json(made.events_file, {"time": 1.0, "step": step, "kind": kind, "text": f"About {kind}.", "data": data})
    made = RunDir(made.path.rename(studio.home / "runs" / request.node.name))  # a run's id never comes again
    yield made
    shutil.rmtree(made.path)  # no longer among the runs of the tests that follow


def open_run(page: Page, studio: Studio, run: RunDir) -> None:
    page.goto(f"{studio.url}/run?id={run.id}")
    expect(page.locator("#chart-plot canvas")).to_be_visible(timeout=WAIT_MS)
    expect(page.locator(".st-legend button").first).to_contain_text("sql")


def point_at(page: Page, share: float) -> None:
    """Move the pointer to a share of the plot's width."""
    box = page.locator("#chart-plot .u-over").bounding_box()
    assert box
    page.mouse.move(box["x"] + share * box["width"], box["y"] + 150)


def drag(page: Page, start: float, end: float) -> None:
    point_at(page, start)
    page.mouse.down()
    point_at(page, (start + end) / 2)
    point_at(page, end)
    page.mouse.up()


def step_at(page: Page, share: float) -> int:
    point_at(page, share - 0.01)
    point_at(page, share)
    text = page.locator(".st-tip .h").inner_text()
    return int(re.search(r"Step ([\d,]+)", text).group(1).replace(",", ""))  # type: ignore[union-attr]


def update(page: Page) -> None:
    """Wait until the page has asked for the run once more."""
    with page.expect_response(re.compile(r"run\.json.*cursor=\d"), timeout=WAIT_MS) as answer:
        pass
    answer.value.finished()


def test_a_zoom_shows_more_points_and_survives_updates_until_it_is_taken_back(page: Page, studio: Studio, run: RunDir):
    open_run(page, studio, run)
    reset = page.locator("#chart-reset")
    expect(reset).to_be_hidden()
    with page.expect_response(re.compile("detail.json"), timeout=WAIT_MS) as answer:
        drag(page, 0.50, 0.52)
    steps = answer.value.json()["train"]["step"]
    assert steps == list(range(steps[0], steps[-1] + 1)) and 110 < len(steps) < 200  # every step of two percent
    expect(reset).to_be_visible()
    middle = step_at(page, 0.5)
    assert middle == pytest.approx(0.51 * STEPS, abs=10)
    for step in range(STEPS + 1, STEPS + 20):
        append_json(run.metrics_file, metrics_row(step))
    update(page)
    update(page)
    assert step_at(page, 0.5) == middle

    page.locator("#chart-plot .u-over").dblclick()
    expect(reset).to_be_hidden()
    assert step_at(page, 0.5) == pytest.approx(STEPS / 2, abs=50)
    drag(page, 0.2, 0.4)
    expect(reset).to_be_visible()
    page.locator("#chart-plot").press("Escape")
    expect(reset).to_be_hidden()
    drag(page, 0.2, 0.4)
    reset.click()
    expect(reset).to_be_hidden()


def test_a_zoom_is_kept_when_the_axis_turns(page: Page, studio: Studio, run: RunDir):
    open_run(page, studio, run)
    drag(page, 0.5, 0.6)
    expect(page.locator("#chart-reset")).to_be_visible()
    before = step_at(page, 0.5)
    for axis in ("Tokens", "Time", "Steps"):
        with page.expect_response(re.compile("detail.json"), timeout=WAIT_MS):
            page.get_by_role("button", name=axis, exact=True).click()
        assert step_at(page, 0.5) == pytest.approx(before, abs=10)


def test_what_people_chose_stays_over_updates_and_a_reload(page: Page, studio: Studio, run: RunDir):
    open_run(page, studio, run)
    slider, told = page.get_by_role("slider", name="Smoothing"), page.locator(".slide output")
    value = page.locator(".st-legend button").first.locator("b")
    slider.press("Home")
    expect(told).to_have_text("off")
    expect(value).to_have_text(f"{2 + STEPS % 7 / 10:.2f}")  # as it was measured
    slider.press("End")
    expect(told).to_have_text("0.99")
    expect(value).to_have_text(re.compile(r"2\.(2|3)\d"))  # 2.0 to 2.6 in turn, 2.3 in the mean
    for name in ("Log", "Tokens", "Relative"):
        page.get_by_role("button", name=name, exact=True).click()
    page.get_by_role("button", name=re.compile("^bug-fix")).click()
    update(page)
    for _ in range(2):
        expect(told).to_have_text("0.99")
        for name in ("Log", "Tokens", "Relative"):
            expect(page.get_by_role("button", name=name, exact=True)).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_role("button", name=re.compile("^bug-fix"))).to_have_attribute("aria-pressed", "false")
        point_at(page, 0.5)
        point_at(page, 0.51)
        expect(page.locator(".st-tip")).to_contain_text("sql")
        expect(page.locator(".st-tip")).not_to_contain_text("bug-fix")
        page.reload()
        expect(page.locator("#chart-plot canvas")).to_be_visible(timeout=WAIT_MS)
    for broken in ("{", '{"weight": "x", "x": 7, "hidden": [1], "log": 3}', "null"):
        page.evaluate("text => localStorage.setItem('studio.chart', text)", broken)
        page.reload()
        expect(page.locator("#chart-plot canvas")).to_be_visible(timeout=WAIT_MS)
        expect(told).to_have_text("0.60")


def test_marks_are_drawn_told_beside_the_pointer_and_in_words(page: Page, studio: Studio, run: RunDir):
    open_run(page, studio, run)
    words = page.locator("#chart-words")
    for text in (
        "sql: training loss",
        "lowest 2.000 at step",
        "Best evaluation at step 4,000.",
        "Checkpoints: 1, the last at step 1,000.",
        "Step 3,000: About problem.",
    ):
        expect(words).to_contain_text(text)
    for step, word in (
        (NAN_STEP, "NaN"),
        (RESUME_STEP, "resume"),
        (1000, "Checkpoint"),
        (4000, "best"),
        (4000, "Evaluation"),
    ):
        point_at(page, (step / STEPS) - 0.01)
        point_at(page, step / STEPS)
        expect(page.locator(".st-tip")).to_contain_text(word)
    reds = page.evaluate(COUNT_COLOR, [NAN_STEP / STEPS, "--st-bad"])
    assert reds > 60  # a dashed line from top to bottom


def test_keys_move_along_the_curves_and_zoom(page: Page, studio: Studio, run: RunDir):
    open_run(page, studio, run)
    plot, heard = page.locator("#chart-plot"), page.locator("#run .chart [role=status]")
    plot.press("ArrowRight")
    expect(heard).to_contain_text(re.compile(r"^Step 3,\d\d\d; sql 2\.\d+, 3\.000; bug-fix"))
    first = heard.inner_text()
    plot.press("Shift+ArrowLeft")
    expect(heard).not_to_have_text(first)
    plot.press("+")
    expect(page.locator("#chart-reset")).to_be_visible()
    plot.press("-")
    expect(page.locator("#chart-reset")).to_be_hidden()


def test_downloads_hold_every_row_and_the_picture(page: Page, studio: Studio, run: RunDir):
    open_run(page, studio, run)
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    with open(download.value.path(), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["train/loss"]]) == STEPS and len(rows) == STEPS + 2
    assert rows[8]["task/sql/loss"] == "2.1"  # step 8, after the evaluation at step 0
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG").click()
    picture = download.value.path().read_bytes()
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert picture[:4] == b"\x89PNG" and width > 1000 and height > 340  # the chart, and the names above it


def test_a_hidden_tab_asks_for_nothing(page: Page, studio: Studio, run: RunDir):
    page.clock.install()
    open_run(page, studio, run)
    page.evaluate(HIDE)
    asked: list[str] = []
    page.clock.run_for(3000)  # an answer that was under way
    page.on("request", lambda request: asked.append(request.url) if "run.json" in request.url else None)
    page.clock.run_for(60_000)
    assert asked == []
    with page.expect_request(re.compile("run.json"), timeout=WAIT_MS):
        page.evaluate("window.seen = 'visible'; document.dispatchEvent(new Event('visibilitychange'))")


def test_usage_has_charts_of_its_own(page: Page, studio: Studio, run: RunDir):
    for step in range(STEPS + 1, STEPS + 4):
        used = {f"gpu/{i}/utilization_percent": 90.0 - i for i in range(2)} | {"host/rss_bytes": 3 * 2**30}
        append_json(run.metrics_file, metrics_row(step) | used)
    open_run(page, studio, run)
    minis = page.locator(".minis > div")
    expect(minis.filter(has_text="GPU utilization").locator("b")).to_have_text("90 · 89 %")
    expect(minis.filter(has_text="Memory of rank 0").locator("b")).to_have_text("3.0 GiB")
    expect(minis.filter(has_text="GPU utilization").locator("canvas")).to_be_visible()
