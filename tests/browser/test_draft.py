"""What is written on the New run page survives a refresh, a closed tab and a restart; links win; tabs do not fight."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Studio, serious_findings

pytestmark = pytest.mark.browser
STORED = "() => localStorage.getItem('studio.new.draft') || ''"


def open_form(page: Page, studio: Studio, query: str = "") -> None:
    page.goto(f"{studio.url}/new{query}")
    expect(page.locator("#new-tasks .mix-row").first).to_be_visible()


def write(page: Page, name: str) -> None:
    """Change a name, a number and a task, and wait until they are kept."""
    page.locator("#field-name input, #field-name textarea").first.fill(name)
    page.locator("#field-optim-learning_rate input").fill("0.003")
    page.get_by_label("Use text-to-code").check()
    expect(page.locator("#new-yaml")).to_contain_text("path: ")
    expect(page.locator("#new-yaml")).to_contain_text("learning_rate: 0.003")
    page.wait_for_function(f"() => ({STORED})().includes({name!r}) && ({STORED})().includes('text-to-code')")


def is_back(page: Page, name: str) -> None:
    expect(page.locator("#field-name input, #field-name textarea").first).to_have_value(name)
    expect(page.locator("#field-optim-learning_rate input")).to_have_value("0.003")
    expect(page.get_by_label("Use text-to-code")).to_be_checked()
    expect(page.locator("#new-draft")).to_contain_text("Your draft is back.")
    expect(page.locator("#new-yaml")).to_contain_text("learning_rate: 0.003")


def test_a_refresh_a_closed_tab_and_a_restarted_studio(page: Page, studio: Studio):
    open_form(page, studio)
    expect(page.locator("#new-draft p")).to_have_count(0)
    write(page, "refreshed")
    page.reload()
    is_back(page, "refreshed")
    assert serious_findings(page) == []
    other = page.context.new_page()
    page.close()
    studio.kill()
    studio.start()
    open_form(other, studio)
    is_back(other, "refreshed")
    other.get_by_role("button", name="Discard it").click()
    expect(other.locator("#field-name input, #field-name textarea").first).to_have_value("")
    expect(other.locator("#new-draft p")).to_have_count(0)
    assert other.evaluate(STORED) == ""


def test_a_link_wins_over_the_draft_until_something_is_changed(page: Page, studio: Studio):
    open_form(page, studio)
    write(page, "mine")
    open_form(page, studio, "?preset=starter")
    expect(page.locator("#new-head")).to_contain_text("Preset starter")
    expect(page.locator("#field-optim-learning_rate input")).not_to_have_value("0.003")
    expect(page.locator("#new-draft p")).to_have_count(0)
    page.wait_for_timeout(500)
    assert "mine" in page.evaluate(STORED)  # looking at a preset costs nothing
    open_form(page, studio)
    is_back(page, "mine")
    open_form(page, studio, "?preset=starter")
    expect(page.locator("#new-start")).to_be_enabled()
    write(page, "from the preset")
    expect(page).to_have_url(f"{studio.url}/new")
    page.reload()
    is_back(page, "from the preset")
    expect(page.locator("#field-optim-max_steps input")).to_have_value("60")


def test_two_tabs_keep_what_is_theirs(page: Page, studio: Studio):
    open_form(page, studio)
    write(page, "first")
    second = page.context.new_page()
    open_form(second, studio)
    is_back(second, "first")
    write(second, "second")
    page.reload()
    is_back(page, "first")
    page.get_by_role("button", name="Discard it").click()
    expect(page.locator("#field-name input, #field-name textarea").first).to_have_value("")  # not the other tab's
    second.reload()
    is_back(second, "second")
