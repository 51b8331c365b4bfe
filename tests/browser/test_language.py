"""Chinese on the page: at once, back again, and never in what people wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Studio
from tests.browser.test_pages import PLACES
from tests.fake_runs import STATES, fake_run

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
    expect(page.locator("#runs")).to_be_visible()
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
               <input id="f" placeholder="Runs"><p id="g">Nobody said this.</p>
               <p id="h">Runs · 20260101-finish</p>`;
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
    expect(chinese.locator("#h")).to_have_text("Runs · 20260101-finish")  # somebody called a run so
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


NAMES = frozenset(
    """MFT Studio MFTCoder LoRA QLoRA GPU CPU NVIDIA NVML Shared Library Not Found GB GiB MB MiB KB KiB TiB
    HF_HUB_OFFLINE HF Hugging Face hub ModelScope JSON Lines CSV TSV Parquet Arrow YAML PNG SVG Markdown id token
    messages chat_rounds nat lora qlora full baseline sql bug-fix webhook Slack Discord Llama Gemma Jinja
    CodeGeeX CodeGeeX2 CodeLlama DeepSeek DeepSeek-Coder GPT-NeoX Mixtral Qwen Qwen2 Qwen3 Coder StarCoder StarCoder2
    Instruct SmolLM2 CodeFuse CodeFuse-CodeLlama CodeFuse-DeepSeek CodeFuse-Mixtral CodeFuse-StarCoder
    Python BLEU chrF ROUGE-L HumanEval pass bootstrap Enter Shift Escape English Top-p DDP ZeRO FSDP NaN
    text-to-code comment-generation code-completion step jsonl json csv tsv parquet arrow starter accelerate yaml
    python engine convert zai-org codegeex2 app py set-password NAME model-1b Fake nothing SmolLM Esc
    halve the batch size qwen coder gguf
    """.split()
)
"""Words that stay as they are: products, formats, units, keys, and what the runs of this test are called and say."""
LEFT_IN_ENGLISH = """() => {
  const kept = '[translate="no"], code, pre, script, style, textarea, .cm-editor', found = [];
  const seen = (element) => element.checkVisibility && element.checkVisibility();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (element && !element.closest(kept) && seen(element)) found.push(walker.currentNode.data.trim());
  }
  for (const name of ["title", "placeholder", "aria-label", "alt", "data-said"])
    for (const element of document.querySelectorAll(`[${name}]`))
      if (!element.closest('[translate="no"]') && seen(element)) found.push(element.getAttribute(name));
  for (const field of document.querySelectorAll("input[role=combobox]")) if (seen(field)) found.push(field.value);
  return found.filter((text) => /[A-Za-z]{2}/.test(text));
}"""


@pytest.fixture(scope="module")
def all_states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio whose runs have names that this test knows: those of other tests are English words too."""
    studio = Studio(tmp_path_factory.mktemp("all-states"))
    for state in STATES:
        fake_run(studio.home / "runs", state, steps=40)
    studio.start()
    yield studio
    studio.kill()


@pytest.fixture
def in_chinese(browser: Browser) -> Iterator[Page]:
    """A page in Chinese from its first moment."""
    page = browser.new_page(locale="en-US")
    page.add_init_script('localStorage.setItem("studio.language", "zh")')
    yield page
    page.close()


def english_words(text: str) -> list[str]:
    """Return the words of a text that are neither names nor parts of ids, addresses and numbers."""
    words = re.findall(r"[A-Za-z][A-Za-z0-9_-]*[A-Za-z0-9]", re.sub(r"https?://\S+|\S*/\S+|\d[\w-]*", " ", text))
    return [word for word in words if word not in NAMES and word.rstrip("0123456789-") not in NAMES]


@pytest.mark.parametrize("place", PLACES)
def test_no_english_word_is_left_on_a_page_in_chinese(in_chinese: Page, all_states: Studio, place: str):
    path, ready = PLACES[place]
    page = in_chinese
    page.goto(all_states.url + path)
    expect(page.locator(ready).first).to_be_visible()
    left: dict[str, list[str]] = {}
    for _ in range(200):  # what is still on its way is translated as it comes
        texts = page.evaluate(LEFT_IN_ENGLISH)
        left = {text: words for text in texts if (words := english_words(text))}
        if not left:
            break
        page.wait_for_timeout(100)
    assert left == {}
    assert "训练" in page.locator("#studio-header nav").inner_text()
