"""A link opens exactly the view it was copied from, and the address follows what is chosen."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from engine.contract.rundir import RunDir
from tests.browser.conftest import Studio
from tests.fake_runs import fake_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def runs(studio: Studio) -> Iterator[list[RunDir]]:
    """Two runs with two checkpoints each."""
    made = []
    for state in ("finished", "stopped"):
        run = fake_run(studio.home / "runs", state)
        run = RunDir(run.path.rename(run.path.with_name(f"20260103-{state}")))
        for name in ("step-000005", "step-000010"):
            (run.checkpoints / name).mkdir(exist_ok=True)
            (run.checkpoints / name / "manifest.json").write_text("{}")
            (run.checkpoints / name / "adapter_config.json").write_text("{}")
        made.append(run)
    yield made
    for run in made:
        run.path.rename(studio.home / f"addresses-{run.id}")


def choose(page: Page, picker: str, text: str | re.Pattern[str]) -> None:
    page.locator(f"#{picker} input").click()
    page.get_by_role("option", name=text).first.click()


def test_chat(page: Page, studio: Studio, runs: list[RunDir]):
    page.goto(f"{studio.url}/chat?run={runs[1].id}&checkpoint=step-000005")
    expect(page.locator("#chat-run input")).to_have_value(re.compile("20260103-stop"))
    expect(page.locator("#chat-right input")).to_have_value(re.compile("step-000005"))
    expect(page.locator('[data-side="right"] h2')).to_have_text("step-000005")
    choose(page, "chat-left", re.compile("^step-000010"))
    expect(page).to_have_url(re.compile(r"left=step-000010.*right=step-000005"))
    page.reload()
    expect(page.locator("#chat-left input")).to_have_value(re.compile("step-000010"))
    expect(page.locator("#chat-right input")).to_have_value(re.compile("step-000005"))


def test_export(page: Page, studio: Studio, runs: list[RunDir]):
    page.goto(f"{studio.url}/export?run={runs[0].id}&checkpoint=step-000005&format=adapter")
    expect(page.locator("#export-run input")).to_have_value(re.compile("20260103-fini"))
    expect(page.locator("#export-checkpoint input")).to_have_value("step-000005")
    expect(page.locator("#export-format input")).to_have_value(re.compile("^Adapter"))
    choose(page, "export-checkpoint", "step-000010")
    expect(page).to_have_url(re.compile("checkpoint=step-000010.*format=adapter"))


def test_evaluate(page: Page, studio: Studio, runs: list[RunDir]):
    page.goto(f"{studio.url}/evaluate?run={runs[0].id}&against={runs[1].id}")
    expect(page.locator("#evaluate-run input")).to_have_value(re.compile("20260103-fini"))
    expect(page.locator("#evaluate-against input")).to_have_value(re.compile("20260103-stop"))
    choose(page, "evaluate-run", re.compile("20260103-stop"))
    expect(page).to_have_url(re.compile(f"run={runs[1].id}"))


def test_compare(page: Page, studio: Studio, runs: list[RunDir]):
    page.goto(f"{studio.url}/compare?runs={runs[0].id},{runs[1].id}")
    expect(page.locator("#compare canvas")).to_be_visible()
    page.get_by_label("Task", exact=True).select_option("bug-fix")
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_role("button", name="Tokens", exact=True).click()
    page.get_by_label("Differences only").uncheck()
    page.reload()
    expect(page.locator("#compare canvas")).to_be_visible()
    expect(page.get_by_label("Task", exact=True)).to_have_value("bug-fix")
    expect(page.get_by_role("button", name="Train", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Tokens", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Differences only")).not_to_be_checked()


def test_an_opened_task(page: Page, studio: Studio):
    page.goto(f"{studio.url}/datasets?task=code-completion")
    expect(page.locator("#datasets-detail h2")).to_have_text("code-completion")
    page.locator("table.tasks").get_by_role("button", name="text-to-code").click()
    expect(page.locator("#datasets-detail h2")).to_have_text("text-to-code")
    expect(page).to_have_url(re.compile("task=text-to-code"))
    page.reload()
    expect(page.locator("#datasets-detail h2")).to_have_text("text-to-code")
    expect(page.locator("table.tasks tr[aria-selected=true]")).to_contain_text("text-to-code")
    page.locator("#datasets-detail").get_by_role("button", name="Close").click()
    expect(page.locator("#datasets-detail h2")).to_have_count(0)
    expect(page).not_to_have_url(re.compile("task="))


def test_run_tabs(page: Page, studio: Studio, runs: list[RunDir]):
    page.goto(f"{studio.url}/run?id={runs[0].id}")
    for tab in ("Balance", "Log", "Config", "Checkpoints"):
        page.get_by_role("tab", name=tab).click()
        page.reload()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")


def test_a_link_to_what_is_gone_opens_the_page_all_the_same(page: Page, studio: Studio, runs: list[RunDir]):
    for path, ready in (("chat", "#chat-run"), ("export", "#export-run"), ("evaluate", "#evaluate-run")):
        page.goto(f"{studio.url}/{path}?run=nothing&checkpoint=..%2F..&format=%3Cb%3E&left=x")
        expect(page.locator(f"{ready} input")).to_have_value(re.compile("2026"))
