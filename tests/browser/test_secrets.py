"""Secrets of the machine stay on it: canaries in the environment, in Hugging Face's token file, in the settings and in
a form are in no byte that a browser gets or keeps, and in no file of a run."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response, expect

from engine.contract.places import DataRoot
from engine.contract.recipe_io import dump_recipe, override
from engine.contract.settings import Settings, settings_file, write_settings
from tests.browser.conftest import SLOW_MS, Studio
from tests.browser.test_walk import start_from_yaml
from tests.tiny_run import tiny_recipe

pytestmark = pytest.mark.browser
CANARIES = {
    "HF_TOKEN": f"hf_{secrets.token_hex(17)}",
    "HF_HOME": f"hf_{secrets.token_hex(16)}",
    "WANDB_API_KEY": secrets.token_hex(20),
    "MFT_JUDGE_API_KEY": f"sk-{secrets.token_hex(16)}",
    "MFT_STUDIO_PASSWORD": secrets.token_hex(12),
    "webhook": secrets.token_hex(16),
}
"""What would give it away, by where it is put; the value of HF_HOME is in the token file of that folder."""
STREAMS = "/gradio_api/queue/data"
"""Answers that do not end while a page is open; what they bring is in the page."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio of its own, on a machine that is full of secrets."""
    home, hub = tmp_path_factory.mktemp("secrets"), tmp_path_factory.mktemp("hub")
    write_settings(DataRoot(home).make(), Settings(webhook_url=f"http://127.0.0.1:9/{CANARIES['webhook']}"))
    (hub / "token").write_text(CANARIES["HF_HOME"])
    own = Studio(home)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CANARIES.items():
            if name.isupper():
                patch.setenv(name, str(hub) if name == "HF_HOME" else value)
        own.start()
        yield own
    own.kill()


def found_in(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [name for name, value in CANARIES.items() if value.encode() in data]


def test_nothing_that_a_browser_gets_or_keeps_and_no_file_of_a_run_holds_one(
    page: Page, studio: Studio, tmp_path: Path
):
    assert studio.process is not None
    assert CANARIES["HF_TOKEN"].encode() in Path(f"/proc/{studio.process.pid}/environ").read_bytes()
    answers: list[Response] = []
    page.on("requestfinished", lambda request: answers.append(request.response()))
    recipe = override(tiny_recipe(tmp_path), ["name=Canary", "optim.max_steps=2"])
    run = start_from_yaml(page, studio, dump_recipe(recipe, all_fields=False))
    expect(page.locator("#run-state")).to_have_text("Finished", timeout=SLOW_MS)
    for tab in page.get_by_role("tab").all():
        tab.click()
    places = ["", "datasets", "new?preset=starter", "runs", f"chat?run={run.id}", f"evaluate?run={run.id}"]
    places += [f"export?run={run.id}", "settings", f"run?id={run.id}&tab=log", f"compare?runs={run.id}", "config"]
    leaks = []
    for place in places:
        page.goto(f"{studio.url}/{place}")
        if place != "config":
            expect(page.locator("main .island > *").first).to_be_visible()
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        leaks += [(place, name) for name in found_in(page.content() + kept)]
    expect(page.locator("body")).to_contain_text("components")  # the configuration was really served
    texts = [answer for answer in answers if answer.ok and STREAMS not in answer.url]
    assert len(texts) > 50
    page.goto(f"{studio.url}/settings")
    for path in sorted({answer.url for answer in texts if answer.request.method == "GET"}):
        leaks += [(path, name) for name in found_in(page.request.get(path).body())]

    files = [path for path in studio.home.rglob("*") if path.is_file()]
    assert {run.log_file, run.recipe_file, studio.home / "studio.log"} <= set(files)
    assert found_in(settings_file(DataRoot(studio.home)).read_bytes()) == [
        "webhook"
    ]  # its one place, for the owner only
    assert settings_file(DataRoot(studio.home)).stat().st_mode & 0o077 == 0
    for path in set(files) - {settings_file(DataRoot(studio.home))}:
        leaks += [(str(path.relative_to(studio.home)), name) for name in found_in(path.read_bytes())]
    assert leaks == []


def test_a_secret_that_is_typed_into_the_form_is_not_kept_in_the_browser(page: Page, studio: Studio):
    page.goto(f"{studio.url}/new?preset=starter")
    expect(page.locator("#new-start")).to_be_enabled()
    page.locator("#new-advanced .label-wrap").click()
    page.locator("#field-description textarea").fill(f"with {CANARIES['HF_TOKEN']}")
    page.locator("#field-evaluate-judge_url input, #field-evaluate-judge_url textarea").first.fill(
        f"https://ada:{CANARIES['webhook']}@judge.lab/v1"
    )
    page.locator("#field-seed input").fill("4711")
    expect(page.locator("#new-yaml")).to_contain_text("seed: 4711")
    expect(page.locator("#new-yaml")).to_contain_text(re.compile("judge_url"))
    page.wait_for_function("() => (localStorage.getItem('studio.new.draft') || '').includes('4711')")
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert found_in(kept) == []
