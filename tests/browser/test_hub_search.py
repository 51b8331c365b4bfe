"""Searching the hub on New run, by keyboard and by mouse, with a hub on this machine and without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_MS, Studio
from tests.hub_of_models import hub_of_models

pytestmark = pytest.mark.browser
AXE = Path(__file__).resolve().parent / "vendor" / "axe.min.js"


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio that reaches a hub."""
    with hub_of_models() as address:
        studio = Studio(tmp_path_factory.mktemp("connected"), HF_HUB_OFFLINE="0", HF_ENDPOINT=address, HF_TOKEN="")
        studio.start()
        yield studio
        studio.kill()


@pytest.fixture
def new_run(browser, connected) -> Iterator[Page]:
    """Its New run page; errors of the page fail the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce", locale="en-US")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{connected.url}/new")
    expect(page.locator("#hub-words")).to_be_visible()
    expect(page.locator("#new-summary li").first).to_be_visible()
    yield page
    context.close()
    assert errors == []


def test_a_model_is_found_and_chosen_by_keyboard(new_run):
    words, options = new_run.get_by_role("combobox", name="Search the Hugging Face hub"), new_run.get_by_role("option")
    words.press_sequentially("qwen coder")
    found = new_run.locator("#hub-found li")
    expect(found).to_have_count(2)
    expect(new_run.locator("#hub-said")).to_have_text("2 models, the most downloaded first")
    expect(words).to_have_attribute("aria-expanded", "true")
    expect(found.first).to_contain_text("7.6B weights · 1.2M downloads a month · apache-2.0")
    for key, place in (("ArrowDown", 0), ("ArrowDown", 1), ("ArrowDown", 0), ("ArrowUp", 1)):
        words.press(key)
        expect(found.nth(place)).to_have_attribute("aria-selected", "true")
        expect(words).to_have_attribute("aria-activedescendant", f"hub-option-{place}")
    expect(options.filter(has_text="0.5B")).to_have_attribute("aria-selected", "true")
    words.press("Enter")
    expect(new_run.locator("#hub-said")).to_have_text("Chosen: Qwen/Qwen2.5-Coder-0.5B-Instruct")
    expect(new_run.locator("#field-model_name_or_path input")).to_have_value("Qwen/Qwen2.5-Coder-0.5B-Instruct")
    expect(new_run.locator("#new-yaml")).to_contain_text("Qwen/Qwen2.5-Coder-0.5B-Instruct")
    expect(words).to_be_focused()
    expect(found).to_have_count(0)


def test_a_gated_model_says_so_and_is_chosen_by_mouse(new_run):
    new_run.locator("#hub-words").fill("llama")
    option = new_run.locator("#hub-found li")
    expect(option).to_contain_text("gated")
    option.click()
    expect(new_run.locator("#field-model_name_or_path input")).to_have_value("meta-llama/Llama-3.2-1B")


def test_escape_closes_and_nothing_found_or_a_refusal_is_said(new_run):
    words, said = new_run.locator("#hub-words"), new_run.locator("#hub-said")
    words.fill("coder")
    expect(new_run.locator("#hub-found li")).to_have_count(3)
    assert new_run.locator("#new-hub-search img").count() == 0, "a hostile name is text"
    words.press("Escape")
    expect(new_run.locator("#hub-found")).to_be_hidden()
    expect(words).to_have_value("coder")
    words.fill("zzz")
    expect(said).to_have_text("The hub has no model of that name that writes text.")
    words.fill("busy")
    expect(said).to_contain_text("refused the search with code 429")
    words.fill("")
    expect(said).to_have_text("")


def test_the_open_list_has_no_serious_finding_of_axe(new_run):
    new_run.locator("#hub-words").fill("coder")
    expect(new_run.locator("#hub-found li")).to_have_count(3)
    new_run.locator("#hub-words").press("ArrowDown")
    new_run.evaluate(AXE.read_text())
    found = new_run.evaluate("async () => (await axe.run('#new-hub-search')).violations")
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_without_a_hub_the_page_says_why(page, studio):
    page.goto(f"{studio.url}/new")
    page.locator("#hub-words").fill("qwen")
    expect(page.locator("#hub-said")).to_have_text(
        "HF_HUB_OFFLINE is set. A folder or file on this machine needs no hub."
    )
