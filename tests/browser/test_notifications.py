"""A browser's own notification: asked for by a button only, told once, also when hidden."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from playwright.sync_api import Page, expect

from engine.contract.files import replace_json
from tests.browser.conftest import PATIENCE_MS, Studio
from tests.fake_runs import fake_run

pytestmark = pytest.mark.browser

STAND_IN = """
window.told = []; window.asked = 0;
window.Notification = class { constructor(title, options) { window.told.push([title, options.body]); } close() {} };
Notification.permission = "default";
Notification.requestPermission = async () => { window.asked += 1; return (Notification.permission = "granted"); };
"""


def test_the_end_of_a_run_is_told_to_who_asked(page: Page, studio: Studio):
    run = fake_run(studio.home / "runs", "running")
    page.add_init_script(STAND_IN)
    page.goto(f"{studio.url}/run?id={run.id}")
    button = page.locator("#run-notify")
    expect(button).to_have_text("Notify me")
    assert page.evaluate("window.asked") == 0
    button.click()
    expect(button).to_have_text("Notifications on")
    expect(button).to_have_attribute("aria-pressed", "true")
    page.evaluate("Object.defineProperty(document, 'visibilityState', {get: () => 'hidden'})")

    status, attempt = replace(run.status(), state="failed"), run.last_attempt()
    ended = replace(attempt, ended_at=1.0, end="failed", problem="Out of memory.")
    replace_json(run.attempts / "001.json", asdict(ended))
    replace_json(run.status_file, asdict(status))
    page.wait_for_function("window.told.length > 0", timeout=PATIENCE_MS)
    page.wait_for_timeout(2500)
    assert page.evaluate("window.told") == [["Fake", "The run has failed. Out of memory."]]
    page.goto("about:blank")
    run.path.rename(studio.home / "told")  # no longer among the runs of the tests that follow
