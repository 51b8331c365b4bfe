"""How the studio bears many open browsers while a training runs on the same cores.

    python benchmarks/load.py [--browsers 25] [--seconds 60] [--home DIR with models/]

Starts a studio and a run on the CPU, then lets N clients do over real connections what a Run page does: load the page,
ask for the run from where they are every 2.5 s, for the header every 4 s (no Gradio events).  Prints the answer
times of each, then what 200 page loads add to the studio's memory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[1]
RUN_S, HEADER_S = 2.5, 4.0


class Client(threading.Thread):
    """One browser with the page of a run open."""

    def __init__(self, port: int, run: str, until: float) -> None:
        super().__init__(daemon=True)
        self.port, self.run_id, self.until = port, run, until
        self.times: dict[str, list[float]] = {"page": [], "run": [], "header": []}
        self.failed = 0

    def ask(self, kind: str, path: str, accept: str = "*/*") -> bytes:
        """Make one request and keep its time."""
        begin = time.monotonic()
        try:
            self.connection.request("GET", path, headers={"accept": accept, "accept-encoding": "identity"})
            answer = self.connection.getresponse()
            body = answer.read()
            self.failed += answer.status != 200
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.failed += 1
            return b""
        self.times[kind].append(time.monotonic() - begin)
        return body

    def run(self) -> None:
        """Load the page, then poll until the time is up."""
        time.sleep(random.uniform(0, RUN_S))
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.ask("page", f"/run?id={self.run_id}", "text/html")
        next_run = next_header = time.monotonic()
        at = "cursor="
        while time.monotonic() < self.until:
            if time.monotonic() >= next_run:
                told = json.loads(self.ask("run", f"/studio/api/run.json?id={self.run_id}&{at}") or b"{}")
                at = f"cursor={told.get('cursor', '')}"
                next_run = time.monotonic() + RUN_S
            if time.monotonic() >= next_header:
                self.ask("header", "/studio/api/header.json")
                next_header = time.monotonic() + HEADER_S
            time.sleep(0.02)


def start_studio(home: Path) -> tuple[subprocess.Popen[bytes], int, float]:
    """Start a studio; return it, its port and the seconds until it answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.monotonic()
    argv = [sys.executable, "app.py", "--port", str(port), "--no-browser", "--data-root", str(home)]
    process = subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.DEVNULL)
    while time.monotonic() - begin < 120:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/studio/api/header.json")
            connection.getresponse().read()
            return process, port, time.monotonic() - begin
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the studio did not start")


def start_training(home: Path) -> str:
    """Start the starter recipe, long enough to outlast the measurement; return the run's id once it trains."""
    environment = {**os.environ, "MFT_STUDIO_HOME": str(home)}
    argv = [sys.executable, "-m", "engine", "train", "presets/starter.yaml", "--set", "optim.max_steps=100000"]
    subprocess.Popen(
        argv, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for file in (home / "runs").glob("*/metrics.jsonl"):
            if file.read_bytes().count(b"\n") > 2:
                return file.parent.name
        time.sleep(0.5)
    raise SystemExit("the training did not start")


def first_page(port: int) -> float:
    """Return the seconds until a fresh browser shows what is on the Home page and answers."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        begin = time.monotonic()
        page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
        page.locator("#home a").first.wait_for()
        page.locator("#studio-theme").click()
        elapsed = time.monotonic() - begin
        browser.close()
    return elapsed


def spread(times: list[float]) -> str:
    """Return the middle and the slow end of some answer times."""
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"p50 {statistics.median(ordered) * 1000:6.0f} ms, p95 {p95 * 1000:6.0f} ms, of {len(ordered)}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browsers", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--home", type=Path, help="data root whose models/ is used")
    parser.add_argument("--browser", action="store_true", help="also open the first page in Chromium (playwright)")
    parser.add_argument("--reloads", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if arguments.home:
            (home / "models").symlink_to(arguments.home.resolve() / "models")
        studio, port, up_s = start_studio(home)
        if arguments.browser:
            print(f"the first page is there and answers after {first_page(port):.1f} s in a fresh Chromium")
        run = start_training(home)
        try:
            measure(arguments, studio, port, run, up_s)
        finally:
            environment = {**os.environ, "MFT_STUDIO_HOME": str(home)}
            subprocess.run([sys.executable, "-m", "engine", "runs", "--stop", run], cwd=PROJECT, env=environment)
            studio.terminate()
            attempt = home / "runs" / run / "attempts" / "001.json"
            for _ in range(240):
                if json.loads(attempt.read_bytes()).get("ended_at"):
                    break
                time.sleep(0.5)
    return 0


def measure(arguments: argparse.Namespace, studio: subprocess.Popen[bytes], port: int, run: str, up_s: float) -> None:
    """Let the clients loose, then reload."""
    print(f"{psutil.cpu_count()} cores; the studio answered {up_s:.1f} s after its start")
    until = time.monotonic() + arguments.seconds
    clients = [Client(port, run, until) for _ in range(arguments.browsers)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    print(f"{arguments.browsers} browsers for {arguments.seconds:.0f} s while {run} trains:")
    for kind in ("page", "run", "header"):
        print(f"  {kind:7s} {spread([t for client in clients for t in client.times[kind]])}")
    print(f"  failed  {sum(client.failed for client in clients)}")
    process = psutil.Process(studio.pid)
    one = Client(port, run, 0)
    one.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(20):
        one.ask("page", f"/run?id={run}", "text/html")
    before = process.memory_info().rss
    for _ in range(arguments.reloads):
        one.ask("page", f"/run?id={run}", "text/html")
    grown = process.memory_info().rss - before
    print(f"{arguments.reloads} page loads: {grown / 2**20:+.0f} MiB of {before / 2**20:.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
