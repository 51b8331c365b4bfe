"""A run that failed, as its owner meets it: the card, the way out, the text for an issue report."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from engine.launch.jobs import write_job
from tests.browser.conftest import Studio
from tests.fake_runs import fake_run

pytestmark = pytest.mark.browser

WITHOUT_CLIPBOARD = """Object.defineProperty(navigator, "clipboard", { value: undefined });
addEventListener("copy", () => { window.copied = document.activeElement.value; });"""
"""As over plain http from another machine."""


def test_a_failure_says_why_offers_a_marked_form_and_a_report_without_secrets(page: Page, studio: Studio):
    run = fake_run(studio.home / "runs", "failed")
    run.log_file.write_text("".join(f"line {n}\n" for n in range(100)) + "HF_TOKEN=hf_abcdefghijklmnop\nlast words\n")
    page.add_init_script(WITHOUT_CLIPBOARD)
    page.goto(f"{studio.url}/run?id={run.id}")
    card = page.locator(".card.failure")
    expect(card).to_contain_text("Out of memory.")
    expect(card).to_contain_text("What to do: halve the batch size.")
    shown = card.locator("pre").inner_text()
    assert "last words" in shown and "line 62\n" in shown and "line 61\n" not in shown  # the last 40 lines
    assert "abcdefghijklmnop" not in shown

    card.get_by_role("button", name="Copy for an issue report").click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
    report = page.evaluate("window.copied")
    assert "Out of memory." in report and "last words" in report and "some/model-1b" in report
    assert "abcdefghijklmnop" not in report and str(studio.home) not in report.split("Last 40 lines")[0][:200]

    way = card.locator("a.way").first
    expect(way).to_contain_text("accumulation 1")
    way.click()
    field = page.locator("#field-optim-per_device_train_batch_size")
    expect(field.locator("input").first).to_have_value("2")
    expect(field).to_have_css("outline-width", "2px")
    expect(page.get_by_text(run.id).first).to_be_visible()  # where the form comes from
    page.goto("about:blank")
    run.path.rename(studio.home / "failed-and-left")  # no longer among the runs of the tests that follow


def test_what_went_wrong_with_an_export_can_be_put_away(page: Page, studio: Studio):
    run = fake_run(studio.home / "runs", "finished")
    run.exports.mkdir(exist_ok=True)
    write_job(run.exports / ".job.json", state="failed", problem="Nobody is logged in.", fix="log in.")
    page.goto(f"{studio.url}/export?run={run.id}")
    card = page.locator("#export-view .card.failure")
    expect(card).to_contain_text("Nobody is logged in.")
    card.get_by_role("button", name="Close").click()
    expect(card).to_have_count(0)
    expect(page.locator("#export-view")).to_contain_text("Before you start")
    page.goto("about:blank")
    run.path.rename(studio.home / "exported-and-left")
