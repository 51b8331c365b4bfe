"""Does balancing matter?  One small model, three unequal tasks, each way of training them; held-out loss per task.

    python benchmarks/balance/study.py --output runs/ [--seeds 42 43]        about 25 minutes a seed on 2 CPU cores

    alone        one run per task, on as many of its rows as the others see of it
    token_mean   all rows mixed, every token counts the same: plain fine-tuning on the sum of the data
    task_mean    every task counts the same; coba, famo: on top, its weight follows the held-out losses

Writes results.json, results.md and figure.svg beside this file.  Runs that are finished in --output are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path[:0] = [str(PROJECT), str(HERE)]

from figure import draw  # noqa: E402
from shares import compare  # noqa: E402

from engine.contract.recipe import Recipe  # noqa: E402
from engine.contract.recipe_io import dump_recipe, load_recipe, override  # noqa: E402
from engine.contract.rundir import RunDir  # noqa: E402

WAYS = {
    "token_mean": ["loss.reduction=token_mean"],
    "task_mean": [],
    "coba": ["weighting.method=coba"],
    "famo": ["weighting.method=famo"],
}


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    arguments = parser.parse_args()
    recipe = load_recipe(HERE / "recipe.yaml")
    found = [measure(override(recipe, [f"seed={seed}"]), arguments.output / str(seed)) for seed in arguments.seeds]
    results = {
        "seeds": arguments.seeds,
        "tasks": [task.name for task in recipe.tasks],
        "ways": {way: mean_of([one[way] for one in found]) for way in ("base", "alone", *WAYS)},
        "loss_share": {way: mean_of([one["share"][way] for one in found]) for way in WAYS},
        "micro_batches": compare(recipe),
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results.md").write_text(table(results))
    (HERE / "figure.svg").write_text(draw(results["tasks"], results["ways"]))
    print(table(results))


def measure(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return held-out losses per task, nats per token, of every way, and the shares of the loss that were realised."""
    names = [task.name for task in recipe.tasks]
    mixed = {way: finished(override(recipe, changes), folder / way) for way, changes in WAYS.items()}
    share = {}
    for way, run in mixed.items():
        rows = [row for row in run.metrics()[0] if "train/loss" in row]
        sums = {name: sum(row[f"task/{name}/weight"] for row in rows) for name in names}
        share[way] = {name: value / sum(sums.values()) for name, value in sums.items()}
    alone = {}
    for task in recipe.tasks:
        single = recipe.model_copy(update={"tasks": (task,)})
        alone[task.name] = losses(finished(single, folder / f"alone-{task.name}"), [task.name])[-1][task.name]
    ends = {way: losses(run, names)[-1] for way, run in mixed.items()}
    return {"base": losses(mixed["task_mean"], names)[0], "alone": alone, **ends, "share": share}


def losses(run: RunDir, names: list[str]) -> list[dict[str, float]]:
    """Return the held-out loss of each task at every evaluation."""
    rows = [row for row in run.metrics()[0] if "eval/loss" in row]
    return [{name: row[f"task/{name}/eval_loss"] for name in names} for row in rows]


def finished(recipe: Recipe, folder: Path) -> RunDir:
    """Return the finished run of a recipe, training it by the project's own command if it is not there.

    A run of these minutes that was interrupted is begun anew.
    """
    run = RunDir(folder.resolve())
    if run.status().state != "finished":
        shutil.rmtree(run.path, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        path = folder.with_suffix(".yaml")
        path.write_text(dump_recipe(recipe))
        command = [sys.executable, "-m", "engine", "train", str(path.resolve()), "--output-dir", str(run.path)]
        subprocess.run(command, check=True, cwd=PROJECT, env=os.environ)
    return run


def mean_of(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean over seeds."""
    return {name: statistics.fmean(one[name] for one in found) for name in found[0]}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    names, ways = results["tasks"], results["ways"]
    lines = [f"Held-out loss, nats per token, mean of {len(results['seeds'])} seed(s).", ""]
    lines += [
        "| way | " + " | ".join(names) + " | mean of tasks | share of the loss |",
        "|---|" + "--:|" * (len(names) + 2),
    ]
    for way, values in ways.items():
        share = results["loss_share"].get(way)
        told = " / ".join(f"{100 * share[name]:.0f}" for name in names) + " %" if share else "-"
        mean = statistics.fmean(values.values())
        lines.append(f"| {way} | " + " | ".join(f"{values[name]:.3f}" for name in names) + f" | {mean:.3f} | {told} |")
    lines += ["", "Share of the loss that each task gets with equal weights, on the same rows in the same order:", ""]
    lines += ["| rule | micro-batch | " + " | ".join(names) + " |", "|---|--:|" + "--:|" * len(names)]
    for line in results["micro_batches"]:
        shares = " | ".join(f"{100 * value:.1f} %" for value in line["share"])
        lines.append(f"| {line['rule']} | {line['micro_batch']} | {shares} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
