"""The Datasets page in a browser: upload, table, detail as text, delete with a question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.browser
EVIL = {"prompt": "<img src=x onerror=window.__x=1> {{value}}", "completion": "${window.__x=1} `${window.__x=1}`"}


def drop(page: Page, folder: Path, **files: str) -> None:
    """Upload files by name; `__` in a keyword stands for a dot."""
    paths = []
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(text)
        paths.append(str(path))
    page.locator("#datasets-upload input[type=file]").set_input_files(paths)


def test_files_become_tasks_with_their_problems_and_can_be_deleted(page, studio, tmp_path):
    row = json.dumps(EVIL) + "\n"
    page.goto(f"{studio.url}/datasets")
    expect(page.locator("table.tasks")).to_contain_text("text-to-code")

    drop(
        page, tmp_path, evil__jsonl=row * 2 + "{torn\n", evil__heldout__jsonl=row, broken__jsonl="no\n", notes__txt="x"
    )

    notes = page.locator("#datasets-notes li")
    expect(notes).to_have_count(4)
    expect(notes.nth(0)).to_contain_text("2 of 3 records used")
    expect(notes.nth(1)).to_contain_text("broken.jsonl is unusable")
    expect(notes.nth(2)).to_contain_text("it is no task file")
    expect(notes.nth(3)).to_contain_text("held out for task evil")
    line = page.locator("table.tasks tr", has=page.get_by_role("button", name="evil", exact=True))
    expect(line.locator("td").nth(5)).to_have_text("1")

    page.get_by_role("button", name="evil", exact=True).click()
    detail = page.locator("#datasets-detail")
    expect(detail).to_contain_text("line 3")
    expect(detail.locator("pre").nth(0)).to_have_text(EVIL["prompt"])
    expect(detail.locator("pre").nth(1)).to_have_text(EVIL["completion"])
    assert page.evaluate("window.__x") is None

    detail.get_by_role("button", name="Delete").first.click()
    detail.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("button", name="evil", exact=True)).to_be_visible()
    detail.get_by_role("button", name="Delete").first.click()
    detail.locator("dialog").get_by_role("button", name="Delete").click()
    expect(notes).to_have_count(1)
    expect(notes).to_contain_text("trash")
    expect(page.get_by_role("button", name="evil", exact=True)).to_have_count(0)
    assert len(list((studio.home / "datasets" / ".trash").iterdir())) >= 1


def test_samples_cannot_be_deleted(page, studio):
    page.goto(f"{studio.url}/datasets")
    page.get_by_role("button", name="code-completion").click()
    expect(page.locator("#datasets-detail h2")).to_have_text("code-completion")
    expect(page.locator("#datasets-detail").get_by_role("button", name="Delete")).to_have_count(0)


def test_the_page_fits_a_phone(page, studio):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{studio.url}/datasets")
    expect(page.locator("table.tasks")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_task_can_be_looked_at_more_closely(page, studio, tmp_path):
    """Columns are guessed, tokens measured, the learned part is marked, copies are found and cleaned away."""
    rows = [{"problem_text": f"what is {i % 9} <b>", "worked": f"it is {i % 9}"} for i in range(30)]
    path = tmp_path / "closer.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.goto(f"{studio.url}/datasets")
    page.locator("#datasets-upload input[type=file]").set_input_files(str(path))
    expect(page.locator("#datasets-notes")).to_contain_text("columns were guessed")
    page.get_by_role("button", name="closer", exact=True).click()
    expect(page.get_by_label("Column of prompt")).to_have_value("problem_text")
    model = page.locator("#datasets-model input")
    model.fill(str(save_tiny_model(tmp_path / "tiny")))
    model.press("Enter")
    expect(page.locator("#datasets-look .histogram")).to_be_visible(timeout=60_000)
    expect(page.locator("#datasets-look mark.learned").nth(1)).to_have_text("it is 0<|im_end|>")
    page.get_by_role("button", name="Look for duplicates").click()
    expect(page.locator("#datasets-look dl.found")).to_contain_text("21", timeout=60_000)
    page.get_by_role("button", name="Make a cleaned task").click()
    expect(page.locator("#datasets-notes")).to_contain_text("closer-clean", timeout=60_000)
    expect(page.get_by_role("button", name="closer-clean", exact=True)).to_be_visible()
