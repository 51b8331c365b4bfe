"""The New run page in a browser: mix, method, settings, YAML there and back, Start."""

from __future__ import annotations

import json
import time

import pytest
from playwright.sync_api import expect

from engine.contract.rundir import TERMINAL, effective_state, list_runs

pytestmark = pytest.mark.browser


def open_starter(page, studio):
    page.goto(f"{studio.url}/new?preset=starter")
    expect(page.locator("#new-start")).to_be_enabled()


def test_an_empty_page_says_what_start_waits_for(page, studio):
    page.goto(f"{studio.url}/new")
    expect(page.locator("#new-summary li")).to_have_text(["→Choose at least one task.", "→Choose a model."])
    expect(page.locator("#new-start")).to_be_disabled()
    page.get_by_label("Use text-to-code").check()
    expect(page.locator("#new-summary li")).to_have_text(["→Choose a model."])


def test_weights_are_shares_of_the_loss(page, studio):
    """1 : 1 : 1 -> 33 % each; 2 : 1 : 1 -> 50 %."""
    open_starter(page, studio)
    share = page.locator("#new-mix tr[data-name=text-to-code] td").last
    expect(share).to_have_text("33 %")
    number = page.get_by_label("Weight of text-to-code, number")
    number.fill("2")
    number.press("Tab")
    expect(share).to_have_text("50 %")
    expect(page.locator("#new-yaml")).to_contain_text("weight: 2.0")
    page.get_by_role("button", name="Equal").click()
    expect(share).to_have_text("33 %")
    expect(page.locator("#new-yaml")).not_to_contain_text("weight:")


def test_limits_of_a_task_are_set_in_its_line(page, studio):
    open_starter(page, studio)
    row = page.locator(".mix-row[data-name=text-to-code]")
    row.locator("summary").click()
    examples = row.get_by_label("At most so many examples, text-to-code")
    examples.fill("30")
    examples.press("Tab")
    expect(row.locator("summary")).to_have_text("at most 30 examples")
    expect(page.locator("#new-yaml")).to_contain_text("max_samples: 30")
    row.get_by_label("At most so many epochs, text-to-code").fill("0")
    row.get_by_label("At most so many epochs, text-to-code").press("Tab")
    expect(page.locator("#new-summary li[data-field='tasks.0.max_epochs']")).to_be_visible()
    expect(page.locator("#new-start")).to_be_disabled()
    examples.fill("")
    row.get_by_label("At most so many epochs, text-to-code").fill("2")
    row.get_by_label("At most so many epochs, text-to-code").press("Tab")
    expect(page.locator("#new-yaml")).to_contain_text("max_epochs: 2")
    expect(page.locator("#new-yaml")).not_to_contain_text("max_samples")
    expect(page.locator("#new-start")).to_be_enabled()


def test_the_preview_follows_while_a_share_is_dragged(page, studio):
    open_starter(page, studio)
    page.get_by_label("Custom").check()
    rows = page.locator("#new-mix tr[data-name=text-to-code] td").first
    slider = page.get_by_label("How often text-to-code is seen", exact=True)
    expect(rows).to_contain_text("33 %")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=4)
    expect(rows).to_contain_text("67 %")  # 4 : 1 : 1, before the button is let go
    page.mouse.up()
    expect(page.locator("#new-yaml")).to_contain_text("mixing_weight: 4.0")
    expect(page.locator("#new-yaml")).to_contain_text("strategy: custom")


def test_a_wrong_setting_is_named_and_stops_the_start(page, studio):
    open_starter(page, studio)
    rate = page.locator("#field-optim-learning_rate input")
    rate.fill("5")
    expect(page.locator("#new-summary li[data-field='optim.learning_rate']")).to_be_visible()
    expect(page.locator("#new-summary")).not_to_contain_text("Choose a model")
    expect(page.locator("#new-start")).to_be_disabled()
    rate.fill("0.001")
    expect(page.locator("#new-start")).to_be_enabled()
    expect(page.locator("#new-yaml")).to_contain_text("learning_rate: 0.001")


def test_the_rank_belongs_to_adapters_and_advanced_counts_changes(page, studio):
    open_starter(page, studio)
    page.get_by_label("Full").check()
    expect(page.locator("#field-lora-r")).to_be_hidden()
    expect(page.locator("#new-advanced")).to_contain_text("Advanced: ")
    page.locator("#new-by-steps").click()
    expect(page.locator("#field-optim-num_train_epochs")).to_be_visible()
    expect(page.locator("#field-optim-max_steps")).to_be_hidden()
    expect(page.locator("#new-yaml")).not_to_contain_text("max_steps")


def test_a_model_that_does_not_fit_says_why(page, studio):
    page.goto(f"{studio.url}/new?preset=codellama-7b-qlora")
    expect(page.locator("#new-summary")).to_contain_text("CodeLlama-7b")
    expect(page.locator("#new-start")).to_be_disabled()


def test_pasted_yaml_fills_the_form(page, studio):
    page.goto(f"{studio.url}/new")
    page.get_by_role("tab", name="Paste").click()
    page.locator("#new-pasted textarea").fill("model_name_or_path: x\nlr: 3\n")
    page.locator("#new-load").click()
    expect(page.locator("#new-notes")).to_contain_text("there is no setting lr")
    task = "{name: mine, path: ../assets/samples/text-to-code.jsonl, weight: 3}"
    good = f"model_name_or_path: some/model\nseed: 7\ntasks:\n- {task}\n"
    page.locator("#new-pasted textarea").fill(good)
    page.locator("#new-load").click()
    expect(page.locator(".mix-row[data-name=mine]")).to_be_visible()
    expect(page.get_by_label("Weight of mine, number")).to_have_value("3")
    expect(page.locator("#new-yaml")).to_contain_text("seed: 7")


def test_a_double_click_starts_one_run_and_opens_it(page, studio, tmp_path):
    model = tmp_path / "model"  # no real weights: the run fails by itself, the page does not care
    model.mkdir()
    shape = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    (model / "config.json").write_text(json.dumps({"model_type": "llama", **shape}))
    (model / "model.safetensors").write_bytes(b"")
    open_starter(page, studio)
    page.get_by_role("tab", name="Paste").click()
    yaml = page.locator("#new-pasted textarea")
    yaml.fill(
        f"name: twice\nmodel_name_or_path: {model}\ntasks:\n- {{name: a, path: ../assets/samples/text-to-code.jsonl}}\n"
    )
    page.locator("#new-load").click()
    expect(page.locator("#new-yaml")).to_contain_text("name: twice")
    expect(page.locator("#new-start")).to_be_enabled()
    page.wait_for_function("() => (localStorage.getItem('studio.new.draft') || '').includes('twice')")

    page.locator("#new-start").dblclick()

    page.wait_for_url("**/run?id=*twice*")
    assert page.evaluate("localStorage.getItem('studio.new.draft')") is None  # a run is no draft any more
    runs = [run for run in list_runs(studio.home / "runs") if "twice" in run.id]
    assert len(runs) == 1
    deadline = time.monotonic() + 90
    while effective_state(runs[0]) not in TERMINAL and time.monotonic() < deadline:
        time.sleep(0.5)
    page.goto(f"{studio.url}/new?from={runs[0].id}")
    expect(page.locator("#new-yaml")).to_contain_text("name: twice")


def test_the_page_fits_a_phone(page, studio):
    page.set_viewport_size({"width": 390, "height": 800})
    open_starter(page, studio)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
