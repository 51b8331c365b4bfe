"""What models say is text: hostile answers, streamed and whole, from a chat client that stands in for the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from app import PROJECT, choose_port, prepare_environment
from engine.contract.places import DataRoot
from studio.access.accounts import Accounts
from studio.access.opening import Access
from studio.chat_client import Done, Loaded, Memory, Piece, Progress
from studio.context import StudioContext
from tests.browser.conftest import serious_findings
from tests.browser.test_hostile import STRINGS, check
from tests.fake_runs import fake_run

pytestmark = pytest.mark.browser
SAID = [*STRINGS, "```html\n" + "\n".join(STRINGS) + "\n```", "{{value}} ${1+1} `x` ${alert`1`}"]
"""Every string alone, all of them as a block of code, and what template engines would run."""


class Parrot:
    """Stands for the chat worker: answers each question with its own text, in pieces."""

    def __init__(self, log_file: Path) -> None:
        self.memory = Memory()

    def ask(self, base, rows, **settings):
        text = rows[0][1][-1]["content"]
        yield Progress(f"loading {text}")
        yield Loaded(text)
        for at in range(0, len(text), 40):
            time.sleep(0.02)
            for row in range(len(rows)):
                yield Piece(row, text[at : at + 40])
        for row in range(len(rows)):
            yield Done(
                row=row, text=text, num_tokens=1, prompt_tokens=1, seconds=0.1, speaker=text, stop_reason=text,
                notes=[text],
            )  # fmt: skip

    def cancel(self) -> None:
        """Nothing is under way for long."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The whole application in this process, with the parrot in place of the worker."""
    root = DataRoot(tmp_path_factory.mktemp("parrot")).make()
    run = fake_run(root.runs, "finished")
    (run.checkpoint_dirs()[0] / "adapter_config.json").write_text("{}")
    prepare_environment(root.temporary)
    from studio.pages import chat
    from studio.shell import build_app

    port = choose_port("127.0.0.1", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "ChatClient", Parrot)
        access = Access(accounts=Accounts(root.accounts), port=port, token="t" * 32)
        app = build_app(StudioContext(root=root, project=PROJECT), access)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}", home=root.path)
    server.should_exit = True
    thread.join(20)


def test_answers_stay_text_while_they_come_and_after(page: Page, studio: SimpleNamespace):
    assert len(STRINGS) >= 20
    page.goto(f"{studio.url}/chat")
    box = page.locator("#chat-question textarea")
    for number, text in enumerate(SAID):
        expect(box).to_be_enabled()
        box.fill(text)
        box.press("Enter")
        answers = page.locator(".turn-box.assistant .state-line")
        expect(answers).to_have_count(2 * (number + 1))
        expect(page.locator("#chat-send")).to_be_enabled()
        shown = page.locator('[data-side="right"] .turn-box.assistant .text').last
        for line in text.splitlines():
            if not line.startswith("```"):  # fences become blocks of code
                expect(shown).to_contain_text(line)
    check(page)
    assert page.locator('.turn-box .text:not([translate="no"])').count() == 0
    assert serious_findings(page) == []


def test_the_question_waits_until_somebody_can_answer(page: Page, studio: SimpleNamespace):
    """Enter before the pickers are filled once said that no run was chosen."""
    page.route("**/gradio_api/queue/join*", lambda route: (time.sleep(0.5), route.continue_()))
    page.goto(f"{studio.url}/chat")
    box = page.locator("#chat-question textarea")
    expect(box).to_be_visible()
    early = page.evaluate(
        """() => [document.querySelector("#chat-run input").value,
                  document.querySelector("#chat-question textarea").disabled,
                  document.querySelector("#chat-send").disabled]"""
    )
    assert early in (["", True, True], ["Fake · 20260101-finish", False, False])
    expect(box).to_be_enabled()
    expect(page.locator("#chat-run input")).not_to_have_value("")
    box.fill("hello")
    box.press("Enter")
    expect(page.locator(".turn-box.assistant .state-line")).to_have_count(2)
    expect(page.locator("#chat [role=alert]")).to_have_count(0)
