"""The Evaluate page in a browser: measure a tiny run, read the matrix, look at answers, reopen by address."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run
from engine.train.main import train
from tests.browser.conftest import SLOW_MS, Studio, serious_findings
from tests.studio.test_evaluate import TEXT, write_result
from tests.tiny_run import new_attempt, tiny_recipe

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    recipe = tiny_recipe(tmp_path_factory.mktemp("tiny"))
    run = create_run(studio.home / "runs", override(recipe, ["name=To evaluate", "evaluate.max_new_tokens=8"]))
    train(run, new_attempt(run))
    return run


def test_measure_read_look_and_reopen(page: Page, studio: Studio, run: RunDir):
    page.goto(f"{studio.url}/evaluate?run={run.id}")
    expect(page.locator("#evaluate-empty")).to_contain_text("Nothing was measured yet")
    page.locator("#evaluate-start").click()
    expect(page.locator("#evaluate-job")).to_be_visible()
    expect(page.locator("#evaluate-matrix")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator("#evaluate-job")).to_have_count(0, timeout=SLOW_MS)
    rows = page.locator("#evaluate-matrix tbody tr")
    expect(rows.filter(has_text="Loss")).to_have_count(2)
    expect(rows.filter(has_text="chrF")).to_have_count(2)
    expect(page.locator("#evaluate-matrix .verdict").first).to_be_visible()
    expect(page.locator(".samples .turn-box")).to_have_count(4)
    page.locator("#sample-next").click()
    expect(page.locator(".samples [role=status]")).to_have_text("Sample 2 of 4")
    page.goto(f"{studio.url}/run?id={run.id}")
    page.locator("#run-evaluate").click()
    page.wait_for_url("**/evaluate?run=**")
    expect(page.locator("#evaluate-matrix")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "evaluation.csv"
    assert page.errors == []


def test_humaneval_stands_beside_published_results(page: Page, studio: Studio, run: RunDir):
    write_result(run, "base", "humaneval", "pass@1", [1.0, 0.0, 0.0, 0.0])
    page.goto(f"{studio.url}/evaluate?run={run.id}")
    rows = page.locator("#evaluate-published tbody tr")
    expect(rows).to_have_count(17)
    expect(rows.filter(has_text="measured here")).to_have_text("base25.0measured here–")
    expect(rows.first).to_have_text("CodeFuse-DeepSeek-33B78.7published2024/01")
    expect(page.locator("#published-few")).to_contain_text("on 4 of 164 problems only")
    page.locator("#evaluate-more .label-wrap").click()
    page.get_by_label("HumanEval").check()
    expect(page.locator("#evaluate-number input")).to_have_value("")  # empty, as its help says
    assert serious_findings(page) == []
    assert page.errors == []


def test_what_was_forgotten_is_said_and_texts_stay_texts(page: Page, studio: Studio, run: RunDir):
    for subject, shift in (("base", 0.0), ("step-000006", 0.5)):
        write_result(run, subject, "retention", "loss", [1 + shift + n / 10 for n in range(8)])
        write_result(run, subject, "aaa", "exact_match", [shift] * 8)
    page.goto(f"{studio.url}/evaluate?run={run.id}")
    expect(page.locator("#evaluate-forgot")).to_contain_text("step-000006 forgot something")
    expect(page.locator("td.forgot .verdict").first).to_contain_text("forgotten")
    assert serious_findings(page) == []
    page.locator(".samples-of").select_option(label="aaa")
    expect(page.locator(".samples")).to_contain_text(f"step-000006 says {TEXT}")
    expect(page.locator(".samples img")).to_have_count(0)
    page.goto(f"{studio.url}/run?id={run.id}&tab=balance")
    expect(page.locator("#panel-balance")).to_contain_text("forgot something")
    assert serious_findings(page) == []
    assert page.errors == []
