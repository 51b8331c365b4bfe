"""The Settings page in a browser: a webhook, the trash, the doctor; and that a phone shows all of it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from engine.contract.places import DataRoot
from engine.contract.settings import read_settings
from tests.browser.conftest import Studio

pytestmark = pytest.mark.browser


def test_webhook_trash_and_what_the_machine_can_do(page: Page, studio: Studio):
    root = DataRoot(studio.home)
    (root.path / "trash" / "old").mkdir(parents=True)
    (root.path / "trash" / "old" / "file").write_bytes(b"x" * 3 * 2**20)
    page.goto(f"{studio.url}/settings")
    box = page.get_by_label("Address of the webhook")
    box.fill("http://example.org/x")
    box.press("Enter")
    expect(page.locator("#settings-notes")).to_contain_text("must begin with https://")
    box.fill("http://127.0.0.1:9/verysecretpath")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#settings-notes")).to_contain_text("from now on")
    expect(page.locator("#settings-messages code")).to_have_text("127.0.0.1/…")
    assert read_settings(root).webhook_url.endswith("verysecretpath")
    assert "verysecret" not in page.content()
    page.reload()
    page.get_by_role("button", name="Send a test").click()
    expect(page.locator("#settings-notes")).to_contain_text("127.0.0.1 does not answer.")
    page.get_by_label("A run has finished").uncheck()
    expect(page.locator("#settings-notes")).to_contain_text("Saved.")
    assert not read_settings(root).notify_finished

    page.locator("#settings-clean-trash").click()
    page.get_by_role("button", name="Keep it").click()
    assert (root.path / "trash" / "old").exists()
    page.locator("#settings-clean-trash").click()
    page.get_by_role("dialog").get_by_role("button", name="Empty the trash").click()
    expect(page.locator("#settings-notes")).to_contain_text("3 MiB are free again.")
    expect(page.locator("#settings-clean-trash")).to_be_disabled()

    page.locator("#settings-doctor").click()
    expect(page.locator("#settings-machine .findings li").first).to_be_visible(timeout=120_000)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
