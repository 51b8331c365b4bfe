"""Tokens/s of a training with and without an evaluation beside it: on other cores, and on the same.

    python benchmarks/evaluate_beside.py RUN [--steps 8] [--rounds 2]

The starter's recipe trains on half of the cores; the run is evaluated meanwhile, from a data root of its own, on the
other half or on the same one.  The figure of a way is the median of the recorded tokens/s, without the first two
steps, and ways take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
CORES = sorted(os.sched_getaffinity(0))
TRAINING, OTHER = CORES[: len(CORES) // 2], CORES[len(CORES) // 2 :]
WAYS = {"alone": None, "evaluation on other cores": OTHER, "evaluation on the same cores": TRAINING}


def start(root: Path, cores: list[int], *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command of the engine on some cores."""
    environment = {**os.environ, "MFT_STUDIO_HOME": str(root), "OMP_NUM_THREADS": str(len(cores))}
    argv = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", "engine", *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, cwd=PROJECT, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run on the starter's model: run directory, or an id in the data root")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    from engine.contract.places import data_root
    from engine.export.merge_command import find_run

    run, models, speeds = find_run(arguments.run).path, data_root().path / "models", {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder, name) for name in ("training", "evaluation")]
        for root in roots:
            root.mkdir()
            (root / "models").symlink_to(models.resolve())
        for _ in range(arguments.rounds):
            for way, cores in WAYS.items():
                speeds[way].append(measure(roots, run, cores, arguments.steps))
    alone = statistics.median(speeds["alone"])
    for way, found in speeds.items():
        value = statistics.median(found)
        print(f"{way:30} {value:7.1f} tokens/s  {value / alone:.2f}x   rounds: {[round(one, 1) for one in found]}")


def measure(roots: list[Path], run: Path, cores: list[int] | None, steps: int) -> float:
    """Train once and return the median of its tokens/s, an evaluation on some cores beside it."""
    beside = None
    if cores is not None:
        copy = roots[1] / "runs" / run.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("eval", "checkpoints", "merged", "exports"))
        beside = start(roots[1], cores, "evaluate", run.name, "--tasks=none", "--checkpoints=base", "--humaneval")
    try:
        changes = [f"optim.max_steps={steps}", "record.logging_steps=1", f"record.eval_steps={steps * 10}"]
        sets = [f"--set={change}" for change in [*changes, f"record.save_steps={steps * 10}"]]
        training = start(roots[0], TRAINING, "train", "presets/starter.yaml", *sets)
        assert training.wait() == 0, "the training failed"
        assert beside is None or beside.poll() is None, "the evaluation ended before the training"
    finally:
        if beside is not None:
            beside.terminate()
            beside.wait()
    newest = max((roots[0] / "runs").glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    rows = [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]
    return statistics.median([row["perf/tokens_per_second"] for row in rows if "perf/tokens_per_second" in row][2:])


if __name__ == "__main__":
    main()
