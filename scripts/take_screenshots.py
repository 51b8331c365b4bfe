"""Take the pictures of the README from a real run, in a studio of its own.

python scripts/take_screenshots.py                        everything from nothing: fetch, train, evaluate, take; minutes
python scripts/take_screenshots.py --data-root DIR        of the newest finished run that is there, or of `--run ID`

    data root -> [engine fetch, train, evaluate] -> studio on a free port -> Chromium, 1440 wide, light -> WebP
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

PROJECT = Path(__file__).resolve().parents[1]
SCREENSHOTS = PROJECT / "assets" / "screenshots"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTH, HEIGHT = 1440, 900
MAX_BYTES = 200_000
"""A README loads all of its pictures at once."""
PATIENCE_MS = 180_000
"""A machine without a GPU answers slowly."""

sys.path.insert(0, str(PROJECT))


def engine(*words: str) -> None:
    """Run a command of the engine; its failure ends the script."""
    subprocess.run([sys.executable, "-m", "engine", *words], cwd=PROJECT, check=True)


def make_run() -> str:
    """Fetch the starter, train it on the sample tasks, measure it, and return the run's id."""
    engine("fetch")
    engine("train", "presets/starter.yaml")
    run_id = newest_run()
    engine("evaluate", run_id, "--checkpoints", "best")
    return run_id


def newest_run() -> str:
    """Return the newest finished run of the data root; ends the script if there is none."""
    from engine.contract.places import data_root
    from engine.contract.rundir import effective_state, list_runs

    found = [run.id for run in list_runs(data_root().runs) if effective_state(run) == "finished"]
    if not found:
        sys.exit("There is no finished run in this data root: leave out --data-root to make one.")
    return found[0]


@contextmanager
def studio() -> Iterator[str]:
    """Serve the data root on a free port and yield the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "app.py", "--port", str(port), "--no-browser"], cwd=PROJECT)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/studio/api/header.json", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("The studio did not start.")
                time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait()


def show_new_run(page: Page, url: str, _: str) -> None:
    """The form of the starter preset, with the mixture measured."""
    page.goto(f"{url}/new?preset=starter")
    expect(page.locator("#new-start")).to_be_enabled()
    expect(page.get_by_text("Measuring tokens")).to_have_count(0)


def show_run(page: Page, url: str, run_id: str) -> None:
    """The curves of every task."""
    page.goto(f"{url}/run?id={run_id}")
    expect(page.locator("#run-state")).to_have_text("Finished")
    expect(page.locator(".st-plot canvas").first).to_be_visible()


def show_evaluate(page: Page, url: str, run_id: str) -> None:
    """Base against tuned, task by task."""
    page.goto(f"{url}/evaluate?run={run_id}")
    results = page.get_by_role("heading", name="Results", exact=True)
    expect(results).to_be_visible()
    results.evaluate("heading => { heading.scrollIntoView(); scrollBy(0, -90); }")  # below the header that stays


def show_chat(page: Page, url: str, run_id: str) -> None:
    """A held-out prompt, answered by the base and by the tuned model."""
    page.goto(f"{url}/chat?run={run_id}")
    expect(page.locator("#chat-right input")).to_have_value(re.compile("step-"))
    page.locator("#chat-task input").click()
    page.get_by_role("option", name="comment-generation").first.click()
    box = page.locator("#chat-question textarea")
    expect(box).not_to_have_value("")
    box.press("Enter")
    for side in ("left", "right"):
        expect(page.locator(f'[data-side="{side}"] .turn-box .state-line')).to_be_visible()


PICTURES: dict[str, Callable[[Page, str, str], None]] = {
    "new-run": show_new_run,
    "run": show_run,
    "evaluate": show_evaluate,
    "chat": show_chat,
}


def take(page: Page, name: str) -> None:
    """Save what the page shows as WebP, when it has stopped moving."""
    before = b""
    for _ in range(20):
        page.wait_for_timeout(1500)
        now = page.screenshot()
        if now == before:
            break
        before = now
    target = SCREENSHOTS / f"{name}.webp"
    Image.open(io.BytesIO(now)).convert("RGB").save(target, "WEBP", quality=88, method=6)
    size = target.stat().st_size
    print(f"{target.relative_to(PROJECT)}: {size / 1000:.0f} kB", flush=True)
    if size > MAX_BYTES:
        sys.exit(f"{target.name} is larger than {MAX_BYTES / 1000:.0f} kB.")


def main() -> None:
    """Take the pictures that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, help="use what is there instead of making a run")
    parser.add_argument("--run", help="which run (default: the newest finished one)")
    parser.add_argument("--only", action="append", choices=PICTURES, help="may be repeated (default: all)")
    arguments = parser.parse_args()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    own = None if arguments.data_root else tempfile.mkdtemp(prefix="mft-studio-")
    os.environ["MFT_STUDIO_HOME"] = str(own or arguments.data_root.resolve())
    run_id = make_run() if own else arguments.run or newest_run()
    with studio() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        context = browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", reduced_motion="reduce", locale="en-US"
        )
        page = context.new_page()
        expect.set_options(timeout=PATIENCE_MS)
        context.set_default_timeout(PATIENCE_MS)
        for name in arguments.only or PICTURES:
            PICTURES[name](page, url, run_id)
            take(page, name)
        browser.close()
    if own:
        shutil.rmtree(own)


if __name__ == "__main__":
    main()
