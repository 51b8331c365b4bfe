"""The Samples tab: the same prompts at each evaluation, how answers differ from the wanted ones, text as text only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.contract.files import append_json
from engine.contract.rundir import RunDir
from engine.contract.samples import samples_file
from tests.browser.conftest import Studio
from tests.fake_runs import fake_run, sample_row

pytestmark = pytest.mark.browser
DIFF = (Path(__file__).parents[2] / "assets" / "run_diff.js").read_text(encoding="utf-8")


@pytest.fixture
def run(studio: Studio) -> Iterator[RunDir]:
    made = fake_run(studio.home / "runs", "running", steps=40)
    yield made
    made.path.rename(studio.home / f"samples-{made.id}-{made.path.stat().st_ino}")  # out of sight of other tests


def test_steps_are_chosen_and_differences_marked(page: Page, studio: Studio, run: RunDir):
    page.goto(f"{studio.url}/run?id={run.id}&tab=samples")
    cards = page.locator("#panel-samples .samples-card")
    expect(cards).to_have_count(2)
    expect(cards.nth(0)).to_contain_text("as wanted")
    expect(cards.locator("ins, del")).to_have_count(0)  # after the training: the wanted answers
    page.get_by_role("group", name="Step", exact=True).get_by_role("button", name="Base").click()
    expect(cards.nth(0).locator("del")).to_have_text("name")
    expect(cards.nth(0).locator("ins")).to_have_text("everything")
    expect(page.locator("#panel-samples b").filter(has_text="age")).to_have_count(0)  # text, never markup
    expect(cards.nth(0)).to_contain_text("<b>age</b>")
    page.get_by_label("Mark differences").uncheck()
    expect(cards.locator("ins, del")).to_have_count(0)
    page.get_by_label("Task", exact=True).select_option("bug-fix")
    expect(cards).to_have_count(1)
    cards.nth(0).locator("summary").click()
    expect(cards.nth(0).locator("ol li")).to_have_count(2)


def test_an_answer_of_another_kind_is_not_marked_to_pieces(page: Page, studio: Studio, run: RunDir):
    row = sample_row(60, "sql", done=False)
    append_json(samples_file(run), {**row, "output": "I cannot say who that is, (name) or somebody."})
    # cut after its first words: what is missing behind them is no difference
    append_json(samples_file(run), {**row, "step": 80, "output": row["gold"][:20], "end": "length limit"})
    page.goto(f"{studio.url}/run?id={run.id}&tab=samples")
    page.locator("#samples-task").select_option("sql")
    card = page.locator("#panel-samples .samples-card")
    page.locator("#samples-step-60").click()
    expect(card).to_contain_text("too different to be marked")
    expect(card.locator("ins, del")).to_have_count(0)
    expect(page.locator("#panel-samples .samples-key")).to_be_hidden()
    page.locator("#samples-step-80").click()
    expect(card).to_contain_text("cut at 9 tokens")
    expect(card).to_contain_text("as wanted so far")
    expect(card.locator("ins, del")).to_have_count(0)
    page.locator("#samples-step-0").click()
    expect(page.locator("#panel-samples .samples-key")).to_be_visible()


def test_new_answers_appear_and_the_newest_step_is_shown(page: Page, studio: Studio, run: RunDir):
    page.goto(f"{studio.url}/run?id={run.id}&tab=samples")
    expect(page.locator("#samples-step-40")).to_have_attribute("aria-pressed", "true")
    page.locator("#samples-task").select_option("sql")
    append_json(samples_file(run), sample_row(60, "sql", done=False))
    expect(page.locator("#samples-step-60")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#samples-task")).to_have_value("sql")
    for step in range(80, 400, 20):
        append_json(samples_file(run), sample_row(step, "sql", done=False))
    slider = page.get_by_role("slider", name="Step")
    expect(slider).to_have_attribute("aria-valuetext", "Step 380")
    slider.focus()
    slider.press("Home")
    expect(slider).to_be_focused()
    expect(page.locator("#panel-samples .turn-box .who").nth(2)).to_contain_text("Step 0, before training")


def test_a_run_without_samples_says_why(page: Page, studio: Studio, run: RunDir):
    samples_file(run).unlink()
    page.goto(f"{studio.url}/run?id={run.id}&tab=samples")
    expect(page.locator("#panel-samples")).to_contain_text("No samples yet.")
    text = "No samples during training: <i>why</i>"
    append_json(run.events_file, {"time": 1.0, "step": 0, "kind": "samples", "text": text, "data": {}})
    page.reload()
    expect(page.locator("#panel-samples .samples-told")).to_have_text(text)


@pytest.mark.parametrize(
    ("gold", "output", "parts", "common"),
    [
        ("a b c", "a b c", [["same", "a b c"]], 1.0),
        ("", "", [], 1.0),
        ("", "x", [["extra", "x"]], 0.0),
        ("a b c", "a x c", [["same", "a "], ["missing", "b"], ["extra", "x"], ["same", " c"]], 4 / 6),
        # a change beside a change is one change
        ("a b c d", "a x y d", [["same", "a "], ["missing", "b c"], ["extra", "x y"], ["same", " d"]], 4 / 8),
        ("w " * 2000 + "\nb\n", "w " * 2000 + "\n", [["same", "w " * 2000 + "\n"], ["missing", "b\n"]], 4000 / 4001),
        ("\n".join(map(str, range(2000))), "\n".join(map(str, range(2000, 0, -1))), None, None),
    ],
)
def test_the_difference_is_that_of_the_longest_common_words(page: Page, gold, output, parts, common):
    found = page.evaluate(f"([gold, output]) => {{ {DIFF}; return difference(gold, output); }}", [gold, output])
    assert (found and found["parts"]) == parts
    assert found is None or found["common"] == pytest.approx(common)
