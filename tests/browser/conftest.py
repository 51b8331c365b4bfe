"""A real studio process on a data root of its own, and a headless Chromium that fails on every unexpected thing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
# Gradio's upload button, which is out of our reach, is called otherwise than it reads
RUN_AXE = """async () => (await axe.run({include: document, exclude: ['.upload-container']})).violations
  .filter((found) => ['serious', 'critical'].includes(found.impact))
  .flatMap((found) => found.nodes.slice(0, 3).map((node) => `${found.id}: ${node.target.join(' ')}`))"""
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

PATIENCE_MS = 45_000  # a machine that has other work is slow, not wrong
SLOW_MS = 300_000  # processes start, compute and end, an evaluation behind everything else on the machine
expect.set_options(timeout=PATIENCE_MS)


class Studio:
    """One studio process; can be killed and started again on the same data."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home, self.environment = home, environment
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process and wait until it answers."""
        environment = {**os.environ, "MFT_STUDIO_HOME": str(self.home), "HF_HUB_OFFLINE": "1", **self.environment}
        argv = [sys.executable, "app.py", "--port", str(self.port), "--no-browser"]
        log = open(self.home / "studio.log", "ab")
        self.process = subprocess.Popen(
            argv, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.home / "studio.log").read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"{self.url}/studio/api/header.json", timeout=2):
                    return
            except urllib.error.HTTPError:  # it wants a log-in first: it is there
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the studio did not start: " + (self.home / "studio.log").read_text()[-3000:])

    def kill(self) -> None:
        """End the web process the hard way; its runs must not notice."""
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()


def is_ours(message: ConsoleMessage) -> bool:
    """Whether a console message is an error of the studio; Gradio reports its own aborted stream on leaving a page."""
    own_noise = ("AbortError", "Connection errored out")  # a request that was under way when the page was left
    return message.type == "error" and not any(text in message.text for text in own_noise)


def serious_findings(page: Page) -> list[str]:
    """Return what axe-core finds serious on the page as it is, as `rule: element`."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    return page.evaluate(RUN_AXE)


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    studio = Studio(home)
    studio.start()
    yield studio
    studio.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.fail("no Chromium found: run `make browser`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    """A page that fails the test on page errors, console errors and requests that leave the studio."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce", locale="en-US")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"page: {error}"))
    page.on("console", lambda message: errors.append(f"console: {message.text}") if is_ours(message) else None)
    local = (studio.url, "data:", "blob:")
    page.on(
        "request", lambda request: None if request.url.startswith(local) else errors.append(f"external: {request.url}")
    )
    page.errors = errors  # type: ignore[attr-defined]
    yield page
    context.close()
    assert errors == []
