"""The whole way in a browser, on a tiny random model: recipe -> Start -> curves -> merge -> chat."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.contract.recipe_io import dump_recipe, override
from engine.contract.rundir import TERMINAL, RunDir, effective_state
from tests.browser.conftest import SLOW_MS, Studio
from tests.tiny_run import tiny_recipe

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def recipe_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    recipe = override(tiny_recipe(tmp_path_factory.mktemp("tiny")), ["name=Tiny walk"])
    return dump_recipe(recipe, all_fields=False)


def start_from_yaml(page: Page, studio: Studio, text: str, start: str = "") -> RunDir:
    """Paste a recipe on the New run page, press Start and return the run of the page that opens."""
    page.goto(f"{studio.url}/new")
    page.get_by_role("tab", name="Paste").click()
    box = page.locator("#new-pasted textarea, #new-pasted .cm-content").first
    box.fill(text)
    page.locator("#new-load").click()
    button = page.locator("#new-start")
    expect(button).to_be_enabled()
    expect(button).to_contain_text(start)
    button.click()
    page.wait_for_url("**/run?id=**")
    return RunDir(studio.home / "runs" / page.url.split("id=")[1].split("&")[0])


def test_from_recipe_to_chat(page: Page, studio: Studio, recipe_text: str):
    run = start_from_yaml(page, studio, recipe_text)
    expect(page.locator("#run-state")).to_have_text("Finished", timeout=SLOW_MS)
    expect(page.locator(".st-plot canvas")).to_be_visible()
    for choice in ("Relative", "Tokens", "Time", "Log"):
        page.get_by_role("button", name=choice, exact=True).click()
        expect(page.get_by_role("button", name=choice, exact=True)).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".st-plot canvas")).to_be_visible()
    for title in ("Total loss", "Learning rate", "Gradient norm", "Tokens per second", "Peak memory"):
        expect(page.locator(".minis > div").filter(has_text=title).locator("canvas")).to_be_visible()
    for button, name in (
        (page.get_by_role("button", name="PNG"), "loss.png"),
        (page.get_by_role("link", name="CSV"), "metrics.csv"),
    ):
        with page.expect_download() as download:
            button.click()
        assert download.value.suggested_filename == name and download.value.path().stat().st_size > 1000
    page.get_by_role("tab", name="Balance").click()
    expect(page.locator("#run .balance-words")).not_to_be_empty()
    expect(page.locator("#run .stacked").first).to_be_visible()
    page.get_by_role("tab", name="Curves").click()
    rows = page.locator("#panel-curves table.tasks tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("short")
    expect(rows.nth(0)).to_contain_text("%")
    assert effective_state(run) == "finished"

    page.locator("#run-continue").click()
    page.wait_for_url("**/new?continue=**")
    expect(page.locator("#new-head")).to_contain_text(f"Goes on from run {run.id}, step-000006")
    expect(page.locator("#new-yaml")).to_contain_text("continue_from")
    page.goto(f"{studio.url}/run?id={run.id}")

    page.locator("#run-export").click()
    page.wait_for_url("**/export?run=**")
    expect(page.locator("#export-checkpoint input")).to_have_value("step-000006")
    page.locator("#export-name input, #export-name textarea").first.fill("Tiny merged")
    page.locator("#export-start").click()
    expect(page.locator('[data-result="merged/tiny-merged"]')).to_be_visible(timeout=SLOW_MS)
    assert (run.merged / "tiny-merged" / "model.safetensors").is_file()

    page.goto(f"{studio.url}/chat?run={run.id}")
    expect(page.locator("#chat-right input")).to_have_value(re.compile("step-000006.*newest"))
    page.locator("#chat-question textarea").fill("abc 1")
    page.locator("#chat-send").click()
    expect(page.locator('[data-side="right"] .state-line')).to_contain_text("adapter step-000006", timeout=SLOW_MS)
    expect(page.locator('[data-side="left"] .state-line')).to_contain_text("base model, adapter off")
    page.locator("#chat-unload").click()
    expect(page.locator("#chat")).to_contain_text("unloaded")


def test_reload_close_and_a_killed_studio_change_nothing(page: Page, studio: Studio, recipe_text: str):
    long = recipe_text.replace("max_steps: 6", "max_steps: 100000").replace("Tiny walk", "Long walk")
    assert "100000" in long
    run = start_from_yaml(
        page, studio, long.replace("eval_steps: 3", "eval_steps: 50000").replace("save_steps: 3", "save_steps: 50000")
    )
    expect(page.locator("#run-state")).to_have_text("Running", timeout=SLOW_MS)
    page.reload()
    expect(page.locator("#run-state")).to_have_text("Running")
    expect(page.locator("#studio-live")).to_contain_text("Long walk")

    page.goto("about:blank")
    studio.kill()
    before = run.status().step
    deadline = time.monotonic() + 90
    while run.status().step <= before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert run.status().step > before, "the run stopped with the studio"

    studio.start()
    page.goto(f"{studio.url}/run?id={run.id}")
    expect(page.locator("#run-state")).to_have_text("Running")
    a_second_run_waits_and_leaves(page, studio, recipe_text)
    page.goto(f"{studio.url}/run?id={run.id}")
    page.locator("#run-stop").click()
    page.get_by_role("button", name="Stop and save").last.click()
    expect(page.locator("#run-state")).to_have_text("Stopped", timeout=SLOW_MS)
    assert effective_state(run) == "stopped" and run.checkpoint_dirs()
    expect(page.locator("#run-resume")).to_be_visible()


def a_second_run_waits_and_leaves(page: Page, studio: Studio, recipe_text: str) -> None:
    """The one CPU is taken: Start becomes Add to queue, and the page says who is before it."""
    second = start_from_yaml(page, studio, recipe_text, start="Add to queue")
    expect(page.locator("#run-state")).to_have_text("Waiting")
    expect(page.locator(".st-prog .phase")).to_contain_text("the CPU is used by run")
    expect(page.locator("#studio-machine")).to_contain_text("1 waiting")
    page.goto(f"{studio.url}/runs")
    expect(page.locator("#runs .why", has_text="the CPU is used by run")).to_be_visible()
    assert page.locator("#runs .scroll").evaluate("(box) => box.scrollWidth - box.clientWidth") <= 1  # its reason wraps
    page.goto(f"{studio.url}/run?id={second.id}")
    page.locator("#run-leave").click()
    expect(page.locator("#run-state")).to_have_text("Stopped")
    assert effective_state(second) == "stopped"


def test_a_failed_run_says_why_and_what_to_do(page: Page, studio: Studio, recipe_text: str):
    run = start_from_yaml(page, studio, recipe_text.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    expect(page.locator("#run-state")).to_have_text("Finished", timeout=SLOW_MS)
    weights = Path(run.recipe().model_name_or_path) / "model.safetensors"
    data = weights.read_bytes()
    try:
        weights.write_bytes(data[:1000])
        run = start_from_yaml(page, studio, recipe_text)
        expect(page.locator("#run-state")).to_have_text("Failed", timeout=SLOW_MS)
        expect(page.locator(".failure")).to_contain_text("What to do")
        assert "Traceback" not in page.locator(".failure .cause").inner_text()
    finally:
        weights.write_bytes(data)
    assert effective_state(run) in TERMINAL


@pytest.mark.parametrize(
    "path", ["/", "/datasets", "/new", "/runs", "/run?id=nothing", "/run", "/chat", "/evaluate", "/export"]
)
@pytest.mark.parametrize("width", [390, 1440])
def test_every_page_opens_without_errors_and_without_sideways_scrolling(
    page: Page, studio: Studio, path: str, width: int
):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(studio.url + path)
    expect(page.locator("#studio-header")).to_be_visible()
    expect(page.locator("main .island > *").first).to_be_visible()
    page.wait_for_timeout(800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_and_dark_are_remembered(page: Page, studio: Studio):
    page.goto(studio.url)
    page.locator("#studio-theme").click()
    first = page.evaluate("document.documentElement.classList.contains('dark')")
    page.goto(f"{studio.url}/runs")
    expect(page.locator("#runs")).to_be_visible()
    assert page.evaluate("document.documentElement.classList.contains('dark')") == first
