"""What the charts of a long run cost: 100,000 logged steps of 12 tasks, in the server and in a browser.

    python benchmarks/charts.py [--steps 100000] [--tasks 12] [--updates 40] [--no-browser]

Writes a run as the engine writes it, then measures
- in a process, in CPU time: the first look, a look after 20 more rows, a zoom into one percent, and the JSON of each;
- in headless Chromium, on the Run page of that run while rows are added: each update, from the parsed answer until all
  charts are drawn: as `performance.now` tells it, and the CPU time of the task that holds it, from a trace.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import orjson  # noqa: E402

from benchmarks.load import start_studio  # noqa: E402
from engine.contract.places import DataRoot  # noqa: E402
from engine.contract.recipe_io import parse_recipe  # noqa: E402
from engine.contract.rundir import RunDir, create_run_at  # noqa: E402
from studio.logic.run import RunWatcher  # noqa: E402

FRESH = 20
"""Rows that come between two looks: a step of a tenth of a second, a look every two."""


def rows(first: int, last: int, tasks: int) -> Iterator[dict[str, Any]]:
    """Yield rows of noisy, falling losses with everything that a run records."""
    for step in range(first, last + 1):
        row: dict[str, Any] = {
            "step": step,
            "time": 1.76e9 + step / 10,
            "epoch": step / 1e4,
            "tokens_seen": 4096 * step,
        }
        for i in range(tasks):
            loss = (1 + i / tasks) * (1 + 2 * math.exp(-step / 2e4)) * random.lognormvariate(0, 0.15)
            row |= {f"task/task-{i}/loss": loss, f"task/task-{i}/mean_token_probability": math.exp(-loss)}
            row |= {
                f"task/task-{i}/num_tokens": 300 + i,
                f"task/task-{i}/weight": 1 / tasks,
                f"task/task-{i}/num_rows": 2,
            }
        row |= {"train/loss": loss, "optim/learning_rate": 2e-4 * (1 - step / 2e5), "optim/grad_norm": random.random()}
        row |= {"perf/step_time_s": 0.1, "perf/tokens_per_second": 4e4, "perf/memory_bytes": 3 * 2**30}
        if step % 20 == 0:
            row |= {f"gpu/{i}/utilization_percent": random.uniform(80, 100) for i in range(4)}
            row |= {"host/cpu_percent": random.uniform(10, 30), "host/memory_bytes": 2**35, "host/rss_bytes": 2**32}
        yield row
        if step % 500 == 0:
            evals = {f"task/task-{i}/eval_loss": 1 + i / tasks + math.exp(-step / 2e4) for i in range(tasks)}
            yield {"step": step, "time": 1.76e9 + step / 10, "eval/loss": 1.5, **evals}


def append(run: RunDir, first: int, last: int, tasks: int) -> None:
    """Write rows, and an event for each evaluation."""
    with open(run.metrics_file, "a") as metrics, open(run.events_file, "a") as events:
        for row in rows(first, last, tasks):
            metrics.write(json.dumps(row) + "\n")
            if "eval/loss" in row:
                for kind in ("eval", "save"):
                    event = {"time": row["time"], "step": row["step"], "kind": kind, "text": "Done.", "data": {}}
                    events.write(json.dumps(event) + "\n")


def timed(what: str, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Print how long an answer and its JSON take, and how large it is."""
    begin = time.process_time()
    value = act()
    middle = time.process_time()
    text = orjson.dumps(value)
    end = time.process_time()
    sizes = f"{len(text) / 1e3:,.1f} kB, {len(gzip.compress(text)) / 1e3:,.1f} kB on the wire"
    print(f"{what:<28} {1e3 * (middle - begin):8.1f} ms + {1e3 * (end - middle):5.1f} ms JSON   {sizes}")
    return value


def server(root: DataRoot, run: RunDir, steps: int, tasks: int) -> int:
    """Measure the answers of the server; return the last step."""
    watcher = RunWatcher(root)
    cursor = timed("first look", lambda: watcher.look(run.id))["cursor"]
    timed("the same, by a second viewer", lambda: watcher.look(run.id))
    for again in range(3):
        append(run, steps + 1, steps + FRESH, tasks)
        steps += FRESH
        cursor = timed(f"{FRESH} rows later ({again + 1})", lambda at=cursor: watcher.look(run.id, cursor=at))["cursor"]  # type: ignore[misc]
    timed("zoom into one percent", lambda: watcher.detail(run.id, axis="step", low=steps / 2, high=steps / 2 * 1.02))
    return steps


def told(what: str, milliseconds: list[float]) -> None:
    """Print the middle, the 95th percentile and the longest."""
    found = sorted(milliseconds)
    p95 = found[math.ceil(0.95 * len(found)) - 1]
    print(f"{what:<28} p50 {statistics.median(found):.1f}, p95 {p95:.1f}, longest {found[-1]:.1f} ms of {len(found)}")


def task_times(trace: list[dict[str, Any]]) -> list[float]:
    """Return the CPU time, ms, of each task of the page in which an update was measured."""
    begins = [event for event in trace if event["name"] == "run-update" and event["ph"] == "b"]
    tasks = [event for event in trace if event["name"] == "RunTask" and "tdur" in event]
    return [
        task["tdur"] / 1e3
        for begin in begins
        for task in tasks
        if (task["pid"], task["tid"]) == (begin["pid"], begin["tid"])
        and task["ts"] <= begin["ts"] <= task["ts"] + task["dur"]
    ]


def browser(root: DataRoot, run: RunDir, steps: int, tasks: int, updates: int) -> None:
    """Measure updates of the Run page in headless Chromium."""
    from playwright.sync_api import sync_playwright

    process, port, _ = start_studio(root.path)
    try:
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            page = chromium.new_page(viewport={"width": 1440, "height": 900})
            page.add_init_script(
                "window.updates = []; new PerformanceObserver((list) => list.getEntriesByName('run-update')"
                ".forEach((entry) => window.updates.push(entry.duration))).observe({entryTypes: ['measure']})"
            )
            begin = time.perf_counter()
            page.goto(f"http://127.0.0.1:{port}/run?id={run.id}")
            page.locator("#chart-plot canvas").wait_for(timeout=120_000)
            print(f"{'page open to first chart':<28} {time.perf_counter() - begin:8.1f} s")
            page.evaluate("window.updates.length = 0")
            chromium.start_tracing(page=page, categories=["blink.user_timing", "disabled-by-default-devtools.timeline"])
            while page.evaluate("window.updates.length") < updates:
                append(run, steps + 1, steps + FRESH, tasks)
                steps += FRESH
                page.wait_for_timeout(1000)
            trace = json.loads(chromium.stop_tracing())["traceEvents"]
            told("an update, by the clock", page.evaluate("window.updates"))
            told("the CPU time of its task", task_times(trace))
            chromium.close()
    finally:
        process.terminate()
        process.wait(timeout=20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--no-browser", action="store_true")
    arguments = parser.parse_args()
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(folder)).make()
        tasks = ", ".join(f"{{name: task-{i}, path: {i}.jsonl}}" for i in range(arguments.tasks))
        recipe = parse_recipe(f"model_name_or_path: some/model-1b\nname: Long\ntasks: [{tasks}]")
        run = create_run_at(root.runs / "long", recipe)
        append(run, 1, arguments.steps, arguments.tasks)
        print(f"{arguments.steps:,} rows, {run.metrics_file.stat().st_size / 1e6:,.0f} MB")
        steps = server(root, run, arguments.steps, arguments.tasks)
        if not arguments.no_browser:
            browser(root, run, steps, arguments.tasks, arguments.updates)


if __name__ == "__main__":
    main()
