"""Logging in and out with a real browser: the form without script, the cookie, the way back."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from studio.access.accounts import Accounts
from tests.browser.conftest import PATIENCE_MS, Studio

pytestmark = pytest.mark.browser
WORD = "correct horse battery"


@pytest.fixture
def locked(tmp_path):
    """A studio with one account."""
    Accounts(tmp_path / "accounts.json").set_password("ada", WORD)
    studio = Studio(tmp_path)
    studio.start()
    yield studio
    studio.kill()


def test_a_page_comes_back_after_the_log_in_and_goes_with_the_log_out(locked: Studio, browser: Browser):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(f"{locked.url}/runs")
    expect(page).to_have_url(re.compile(r"/login\?next=%2Fruns"))
    expect(page.get_by_label("Name")).to_be_focused()
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("wrong password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    expect(page.get_by_label("Password")).to_be_focused()
    page.get_by_label("Password").fill(WORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{locked.url}/runs")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    cookie = context.cookies()[0]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["name"].endswith(str(locked.port))
    assert page.evaluate("document.cookie") == ""

    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{locked.url}/login")
    page.goto(f"{locked.url}/new")
    expect(page).to_have_url(re.compile("/login"))
    context.close()


def test_the_log_in_needs_no_script_and_fits_a_phone(locked: Studio, browser: Browser):
    context = browser.new_context(viewport={"width": 390, "height": 800}, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{locked.url}/login")
    assert page.locator("form").bounding_box()["width"] <= 390 - 32
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(WORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{locked.url}/")
    context.close()


def test_the_log_in_has_the_language_of_the_studio_and_its_switch(locked: Studio, browser: Browser):
    context = browser.new_context(viewport={"width": 390, "height": 800}, locale="zh-CN")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(f"{locked.url}/login")
    expect(page.get_by_role("heading", name="登录")).to_be_visible()
    expect(page).to_have_title("登录 · MFT Studio")
    page.get_by_label("用户名").fill("ada")
    page.get_by_label("密码").fill("wrong password")
    page.get_by_role("button", name="登录").click()
    expect(page.get_by_role("alert")).to_have_text("用户名或密码错误。")
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    page.get_by_label("Password").fill(WORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#studio-header nav a[href='/runs']")).to_have_text("Runs")  # the choice goes with it
    context.close()
