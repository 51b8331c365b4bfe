"""Chinese on the page: at once, back again, and never in what people wrote."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Studio

pytestmark = pytest.mark.browser

SENTENCES = {
    "Run {} failed: {}": "训练 {1} 失败：{2t}",
    "it is out of memory": "内存不足",
    "Set `{}` to {} here.": "请在此处把 `{1}` 设为 {2}。",
    "No runs yet.": "还没有训练。",
    "start it.": "开始吧。",
    "Runs": "训练列表",
}


@pytest.fixture
def chinese(page: Page, studio: Studio) -> Page:
    """A page with a catalogue of this test's own."""
    page.route("**/studio/text/zh.json", lambda route: route.fulfill(json=SENTENCES))
    page.goto(f"{studio.url}/runs")
    expect(page.locator("#runs")).to_be_visible(timeout=20_000)
    page.locator(".language-switch").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    return page


def test_what_is_shown_follows_the_switch_and_goes_back(chinese: Page):
    chinese.evaluate(
        """() => {
          const box = document.createElement("div");
          document.body.append(box);
          box.innerHTML = `<p id="a">Run my run failed: it is out of memory</p>
               <p id="b">Set <code>lora.r</code> to 8 here.</p><p id="c">No runs yet. Start it.</p>
               <p id="d" translate="no">Runs</p><pre id="e">Runs</pre>
               <input id="f" placeholder="Runs"><p id="g">Nobody said this.</p>`;
        }"""
    )
    expect(chinese.locator("#a")).to_have_text("训练 my run 失败：内存不足")
    expect(chinese.locator("#b")).to_have_text("请在此处把 lora.r 设为 8。")
    expect(chinese.locator("#b code")).to_have_text("lora.r")
    expect(chinese.locator("#c")).to_have_text("还没有训练。开始吧。")
    expect(chinese.locator("#d")).to_have_text("Runs")
    expect(chinese.locator("#e")).to_have_text("Runs")
    expect(chinese.locator("#f")).to_have_attribute("placeholder", "训练列表")
    expect(chinese.locator("#g")).to_have_text("Nobody said this.")
    chinese.evaluate("document.querySelector('#a').firstChild.data = 'No runs yet.'")
    expect(chinese.locator("#a")).to_have_text("还没有训练。")

    chinese.locator(".language-switch").click()
    expect(chinese.locator("#a")).to_have_text("No runs yet.")
    expect(chinese.locator("#b")).to_have_text("Set lora.r to 8 here.")
    expect(chinese.locator("#c")).to_have_text("No runs yet. Start it.")
    expect(chinese.locator("#f")).to_have_attribute("placeholder", "Runs")


def test_the_choice_is_kept_and_a_page_is_shown_when_the_catalogue_is_not_to_be_had(chinese: Page, studio: Studio):
    chinese.goto(f"{studio.url}/datasets")
    expect(chinese.locator("#studio-header nav a[href='/runs']")).to_have_text("训练列表")
    chinese.unroute("**/studio/text/zh.json")
    chinese.route("**/studio/text/zh.json", lambda route: route.abort())
    chinese.goto(f"{studio.url}/runs")
    expect(chinese.locator("#studio-header nav a[href='/runs']")).to_be_visible()
    expect(chinese.locator("#studio-header nav a[href='/runs']")).to_have_text("Runs")
    chinese.errors.clear()  # type: ignore[attr-defined]  # the request that this test itself broke
