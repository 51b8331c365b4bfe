"""The Chat page in a browser: two checkpoints side by side, keys, draft, regenerate, edit, stop, a second tab."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run_at
from engine.train.main import train
from tests.browser.conftest import SLOW_MS, Studio
from tests.tiny_run import new_attempt, tiny_recipe, write_task

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("chat")
    heldout = write_task(folder / "held.jsonl", 3, "held out")
    recipe = override(tiny_recipe(folder), ["name=Tiny talk", f"tasks.0.eval_path={heldout}"])
    run = create_run_at(Path(studio.home) / "runs" / "20260102-talk", recipe)
    train(run, new_attempt(run))
    return run


def choose(page: Page, picker: str, text: str | re.Pattern[str]) -> None:
    page.locator(f"#{picker} input").click()
    page.get_by_role("option", name=text).first.click()


def test_two_checkpoints_answer_and_are_asked_again(page: Page, studio: Studio, run: RunDir):
    page.goto(f"{studio.url}/chat?run={run.id}")
    expect(page.locator("#chat-right input")).to_have_value(re.compile("step-000006"))
    choose(page, "chat-left", re.compile("step-000003"))
    expect(page.locator('[data-side="left"] h2')).to_have_text("step-000003")
    choose(page, "chat-task", "short")
    box = page.locator("#chat-question textarea")
    expect(box).to_have_value("held out 0")

    box.press("Enter")
    left, right = (page.locator(f'[data-side="{side}"] .turn-box .state-line') for side in ("left", "right"))
    expect(left).to_contain_text("adapter step-000003", timeout=SLOW_MS)
    expect(right).to_contain_text("adapter step-000006", timeout=SLOW_MS)
    expect(page.locator("#chat .gold")).to_contain_text("tuo dleh 0")
    expect(box).to_have_value("")
    expect(page.locator("#chat [role=status][aria-live]")).to_contain_text("Right answer:")
    expect(page.locator("#chat-facts")).to_contain_text("Memory of the chat process:")
    words = page.locator('[data-side="right"] .turn-box.assistant .text').inner_text()

    page.locator("#chat-again").click()
    expect(page.locator("#chat-send")).to_be_disabled()
    expect(page.locator("#chat-send")).to_be_enabled(timeout=SLOW_MS)
    expect(page.locator('[data-side="right"] .turn-box.assistant .text')).to_have_text(words)
    page.locator("#chat-edit").click()
    expect(box).to_have_value("held out 0")
    expect(page.locator(".turn-box")).to_have_count(0)


def test_keys_a_draft_a_second_tab_and_stop(page: Page, studio: Studio, run: RunDir):
    address = f"{studio.url}/chat?run={run.id}"
    page.goto(address)
    expect(page.locator("#chat-right input")).to_have_value(re.compile("step-000006"))
    box = page.locator("#chat-question textarea")
    box.fill("one line")
    box.press("Shift+Enter")
    box.press_sequentially("two lines")
    expect(box).to_have_value("one line\ntwo lines")
    expect(page.locator(".turn-box")).to_have_count(0)
    page.reload()
    expect(box).to_have_value("one line\ntwo lines")
    expect(page.locator("#chat-right input")).to_have_value(re.compile("step-000006"))
    box.press("Enter")
    state = page.locator('[data-side="left"] .turn-box .state-line')
    expect(state).to_contain_text("adapter off", timeout=SLOW_MS)
    assert studio.process is not None
    (worker,) = psutil.Process(studio.process.pid).children()
    worker.suspend()  # it cannot answer before it was seen to be busy
    try:
        box.fill("one more")
        box.press("Enter")
        expect(page.locator("#chat .phase")).to_be_visible()
        second = page.context.new_page()
        second.goto(address)
        expect(second.locator("#chat-right input")).to_have_value(re.compile("step-000006"))
        second.locator("#chat-question textarea").fill("me too")
        second.locator("#chat-send").click()
        expect(second.locator("#chat [role=alert]")).to_contain_text("answering another question")
        expect(second.locator("#chat-question textarea")).to_have_value("me too")
        second.close()
        with page.expect_response("**/gradio_api/run/**"):  # the wish to stop has arrived
            box.press("Escape")
    finally:
        worker.resume()
    expect(page.locator("#chat-send")).to_be_enabled()
    expect(state.last).to_contain_text("stopped")
    page.locator("#chat-unload").click()
    expect(page.locator("#chat")).to_contain_text("unloaded")


def test_the_snippets_follow_the_model_on_the_right(page: Page, studio: Studio, run: RunDir):
    page.goto(f"{studio.url}/chat?run={run.id}&right=step-000003")
    expect(page.locator("#chat-right input")).to_have_value(re.compile("step-000003"))
    page.get_by_role("button", name="Use it from your code").click()
    expect(page.locator("#chat-code")).to_contain_text(f"-m engine serve {run.id}")
    expect(page.locator("#chat-code")).to_contain_text('"model": "step-000003"')
