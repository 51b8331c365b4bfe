"""Twenty hostile strings wherever data is shown: nothing runs, no other host is asked, nothing foreign stands."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from engine.contract.files import append_json, replace_json
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe
from engine.contract.rundir import RunDir
from engine.contract.samples import samples_file
from tests.browser.conftest import Studio
from tests.fake_runs import RECIPE, fake_run

pytestmark = pytest.mark.browser
STRINGS: list[str] = json.loads((Path(__file__).parents[1] / "data" / "hostile" / "xss_strings.json").read_text())
ALL = " ".join(STRINGS)
FOREIGN = [
    ".foreign",
    "iframe",
    'form[action^="http://127.0.0.1:9"]',
    'img[src*="beacon"]',
    'a[href^="javascript:"]',
    "meta[http-equiv=refresh]",
    "[onerror]",
    "[onload]",
    "[ontoggle]",
]
"""Nodes that only the strings could have made."""


def hostile_run(runs: Path, state: str) -> RunDir:
    """A run that carries the strings wherever a run holds words."""
    run = fake_run(runs, state)
    path = run.path.rename(run.path.with_name(f"20260102-hostile-{state}"))
    run = RunDir(path)
    recipe: Recipe = RECIPE.model_copy(
        update={"name": STRINGS[1][:80], "description": ALL[:2000], "model_name_or_path": ALL[:4000]}
    )
    run.recipe_file.write_text(dump_recipe(recipe))
    assert yaml.safe_load(run.recipe_file.read_text())["description"] == ALL[:2000]
    run.log_file.write_text("\n".join(STRINGS) + "\n")
    for text in STRINGS:
        append_json(run.events_file, {"time": 1.0, "step": 3, "kind": text[:20], "text": text, "data": {}})
    for number, text in enumerate(STRINGS):
        row = {
            "step": 10,
            "task": text,
            "prompt": number,
            "question": text,
            "gold": ALL[:4000],
            "output": text,
            "end": text,
        }
        append_json(samples_file(run), row)
    attempt = run.last_attempt()
    assert attempt is not None
    told = replace(attempt, problem=ALL, fix=ALL, host=ALL, devices=tuple(STRINGS[:3]), waiting="", released=ALL)
    replace_json(run.attempts / "001.json", asdict(told))
    replace_json(run.status_file, asdict(replace(run.status(), phase=ALL)))
    return run


@pytest.fixture(scope="module")
def hostile(studio: Studio) -> dict[str, RunDir]:
    runs = studio.home / "runs"
    return {state: hostile_run(runs, state) for state in ("failed", "finished", "preparing")}


def check(page: Page) -> None:
    """Look for what ran and what stands; requests to others fail the page's own fixture."""
    page.wait_for_timeout(400)
    assert page.evaluate("window.__x") is None
    assert [node.evaluate("node => node.outerHTML") for node in page.locator(", ".join(FOREIGN)).all()] == []


@pytest.mark.parametrize("state", ["failed", "finished", "preparing"])
def test_a_run(page: Page, studio: Studio, hostile: dict[str, RunDir], state: str):
    page.goto(f"{studio.url}/run?id={hostile[state].id}")
    expect(page.locator("#run-state")).to_be_visible()
    for tab in page.get_by_role("tab").all():
        tab.click()
        if tab.get_attribute("id") == "tab-samples" and state != "preparing":
            expect(page.locator("#panel-samples .samples-card").first).to_be_visible()
        page.wait_for_timeout(200)
        check(page)
    if state == "failed":
        expect(page.locator("#run")).to_contain_text("<script>window.__x=1</script>")


@pytest.mark.parametrize("path", ["/", "/runs", "/chat", "/export", "/evaluate", "/settings", "/datasets"])
def test_pages_that_list_it(page: Page, studio: Studio, hostile: dict[str, RunDir], path: str):
    page.goto(f"{studio.url}{path}")
    expect(page.locator("#studio-header")).to_be_visible()
    page.wait_for_timeout(1200)
    check(page)


def test_its_recipe_in_the_form_and_back(page: Page, studio: Studio, hostile: dict[str, RunDir]):
    page.goto(f"{studio.url}/new?from={hostile['finished'].id}")
    expect(page.locator("#new-tasks")).to_be_visible()
    page.wait_for_timeout(1500)
    check(page)
    for address in ("?preset=", "?from=", "?continue="):
        page.goto(f"{studio.url}/new{address}{'%3Cimg%20src%3Dx%20onerror%3Dwindow.__x%3D1%3E'}")
        page.wait_for_timeout(800)
        check(page)


def test_a_task_whose_file_columns_and_text_are_hostile(page: Page, studio: Studio, tmp_path: Path):
    name = "<img src=x onerror=window.__x=1>.jsonl"
    file = tmp_path / name
    rows = [{"prompt": text, "completion": text} for text in STRINGS] + [{text: text} for text in STRINGS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.goto(f"{studio.url}/datasets")
    page.locator("input[type=file]").first.set_input_files(str(file))
    expect(page.locator("body")).to_contain_text("img-src-x", timeout=60_000)
    check(page)
    row = page.locator("#datasets-table, .island table").first
    row.locator("button, a").first.click()
    page.wait_for_timeout(1500)
    check(page)
