"""Twelve tasks in one run: each is told from the others by colour and shape, in words, tables and on the chart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import RunDir, create_run_at
from tests.browser.conftest import Studio

pytestmark = pytest.mark.browser
NAMES = [f"look-{i}" for i in range(12)]
LOOKS = """(signs) => signs.map((sign) => `${sign.className} ${getComputedStyle(sign).backgroundColor}`)"""
TALLEST = """() => {
  const canvas = document.querySelector('#chart-plot canvas'), over = document.querySelector('#chart-plot .u-over');
  const inPixels = (numbers) => numbers.map((px) => px * devicePixelRatio);
  const [left, top, width, height] = inPixels([over.offsetLeft, over.offsetTop, over.clientWidth, over.clientHeight]);
  const data = canvas.getContext('2d').getImageData(left + 4, top, width - 8, height).data;
  const columns = Math.floor(width - 8);
  let tallest = 0;
  for (let x = 0; x < columns; x += 1) {
    let run = 0;
    for (let y = 0; y < height; y += 1) {
      const at = 4 * (y * columns + x), [red, green, blue, alpha] = data.slice(at, at + 4);
      const strong = alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60;
      run = strong ? run + 1 : 0;
      tallest = Math.max(tallest, run);
    }
  }
  return tallest / devicePixelRatio; }"""
"""Pixels of colour on top of each other, at most: 2 for a flat curve, more where it has a shape."""


@pytest.fixture
def run(studio: Studio) -> Iterator[RunDir]:
    """A waiting run with flat curves: task i has the loss 1 + i / 10 at every step, and was never evaluated."""
    tasks = ", ".join(f"{{name: {name}, path: {name}.jsonl}}" for name in NAMES)
    made = create_run_at(
        studio.home / "runs" / "20260103-twelve",
        parse_recipe(f"model_name_or_path: a/b\nname: Twelve\ntasks: [{tasks}]"),
    )
    rows = [{"step": step, "time": step, "tokens_seen": step, "train/loss": 2.0} for step in range(1, 101)]
    for row in rows:
        row.update({f"task/{name}/loss": 1 + i / 10 for i, name in enumerate(NAMES)})
    made.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield made
    shutil.rmtree(made.path)


def test_no_two_of_twelve_tasks_look_alike(page: Page, studio: Studio, run: RunDir):
    page.goto(f"{studio.url}/runs?q={run.id}")
    expect(page.locator("#runs .dots .sw")).to_have_count(12)
    in_the_list = page.locator("#runs .dots .sw").evaluate_all(LOOKS)

    page.goto(f"{studio.url}/run?id={run.id}")
    expect(page.locator("#chart-plot canvas")).to_be_visible()
    for place in (".st-legend .sw", "#panel-curves table .sw"):
        assert page.locator(place).evaluate_all(LOOKS) == in_the_list
    assert len(set(in_the_list)) == 12
    assert len({look.split(" rgb")[1] for look in in_the_list}) == 8


def test_a_curve_of_a_colour_that_comes_again_has_its_shape(page: Page, studio: Studio, run: RunDir):
    page.goto(f"{studio.url}/run?id={run.id}")
    buttons = page.locator(".st-legend button")
    expect(buttons).to_have_count(12)
    for i in range(1, 12):
        buttons.nth(i).click()
    page.mouse.move(0, 0)
    assert page.evaluate(TALLEST) <= 4
    buttons.nth(0).click()
    buttons.nth(8).click()
    page.mouse.move(0, 0)
    assert page.evaluate(TALLEST) >= 9
