"""Take the picture of the README from a running studio.

python scripts/take_screenshots.py http://127.0.0.1:7860 RUN_ID
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SCREENSHOTS = Path(__file__).resolve().parents[1] / "assets" / "screenshots"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SETTLE_MS = 4000
"""Time for a page to fill itself: live pages never become idle."""


def main(url: str, run_id: str) -> None:
    """Save run.png; pages that show paths of this machine are left out."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{url}/run?id={run_id}")
        page.wait_for_timeout(SETTLE_MS)
        page.screenshot(path=SCREENSHOTS / "run.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])
