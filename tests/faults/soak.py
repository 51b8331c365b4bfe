"""Faults at random for hours: `python -m tests.faults.soak --hours 8 [--seed 0]`.  Prints a ledger, one line per fault.

One tiny run is trained again and again to its end; every life is ended by a fault drawn at random, and after each must
hold: the state is told within seconds, no process is left, every checkpoint verifies, no step is lost or doubled, and
the finished run has the bytes of an undisturbed one.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from engine.contract.files import read_json
from engine.contract.recipe_io import override
from engine.contract.rundir import TERMINAL, RunDir, create_run_at, effective_state, request
from engine.launch.processes import descendants
from engine.launch.supervisor import start_run
from engine.train.checkpoint import verify_checkpoint
from tests.engine.test_launch import living_processes, wait_for
from tests.tiny_run import tiny_recipe, train_losses

STEPS = 600
TOLD_S, GONE_S = 30.0, 10.0


def kill(pids: list[int], number: int) -> None:
    """Signal processes that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def people(run: RunDir) -> dict[str, list[int]]:
    """Return the pids of a running run by role."""
    attempt = run.last_attempt()
    supervisor = int(attempt.supervisor["pid"]) if attempt else 0
    ranks = [int(rank["pid"]) for rank in run.status().ranks]
    launcher = [process.pid for process in descendants(supervisor) if process.pid not in ranks]
    return {"supervisor": [supervisor], "launcher": launcher, "rank": ranks}


def corrupt(run: RunDir, chance: random.Random) -> None:
    """Damage the newest checkpoint if there is an older one, then kill the rank."""
    found = run.checkpoint_dirs()
    if len(found) > 1:
        path = chance.choice([path for path in found[-1].iterdir() if path.is_file() and path.stat().st_size])
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1
        path.write_bytes(data)
    kill(people(run)["rank"], signal.SIGKILL)


FAULTS: dict[str, Callable[[RunDir, random.Random], None]] = {
    "kill -9 rank": lambda run, _: kill(people(run)["rank"], signal.SIGKILL),
    "kill -9 launcher": lambda run, _: kill(people(run)["launcher"], signal.SIGKILL),
    "kill -9 everything": lambda run, _: kill(sum(people(run).values(), []), signal.SIGKILL),
    "kill -9 supervisor, then rank": lambda run, _: [
        kill(people(run)[role], signal.SIGKILL) for role in ("supervisor", "rank")
    ][0],
    "SIGTERM supervisor": lambda run, _: kill(people(run)["supervisor"], signal.SIGTERM),
    "SIGTERM rank": lambda run, _: kill(people(run)["rank"], signal.SIGTERM),
    "stop": lambda run, _: request(run, "stop"),
    "cancel": lambda run, _: request(run, "cancel"),
    "damaged checkpoint": corrupt,
}


def wrong(run: RunDir, *, damaged: bool) -> list[str]:
    """Return what does not hold after a life has ended."""
    found = []
    try:
        wait_for(lambda: effective_state(run) in TERMINAL, timeout=TOLD_S, what="the end to be told")
        wait_for(lambda: not living_processes(run), timeout=GONE_S, what="the processes to go")
    except AssertionError as error:
        found.append(str(error))
    broken = [path.name for path in run.checkpoint_dirs() if verify_checkpoint(path)]
    if len(broken) > int(damaged):
        found.append(f"checkpoints that do not verify: {broken}")
    steps = sorted(train_losses(run))
    if steps != list(range(1, len(steps) + 1)):
        found.append("steps are missing in the record")
    return found


def life(run: RunDir, chance: random.Random) -> tuple[str, list[str]]:
    """Start or resume the run, let a fault end it, and return its name and what is wrong then."""
    start_run(run, resume_from="latest" if run.checkpoint_dirs() else "")
    number, until = run.last_attempt().number, time.monotonic() + chance.uniform(2.0, 16.0)  # type: ignore[union-attr]
    while time.monotonic() < until and effective_state(run) not in TERMINAL:
        time.sleep(0.05)
    if effective_state(run) in TERMINAL:
        return "none", wrong(run, damaged=False)
    name = chance.choice(list(FAULTS))
    FAULTS[name](run, chance)
    told = wrong(run, damaged=name == "damaged checkpoint")
    attempt = run.last_attempt()
    if attempt is None or attempt.number != number:
        told.append("an attempt was begun that nobody asked for")
    return name, told


def whole_bytes(folder: Path, recipe) -> bytes:
    """Return the weights of the run that nothing happens to."""
    run = create_run_at(folder / "whole", recipe)
    start_run(run)
    wait_for(lambda: effective_state(run) == "finished", timeout=600, what="the undisturbed run")
    return last_weights(run)


def last_weights(run: RunDir) -> bytes:
    return (run.checkpoints / f"step-{STEPS:06d}" / "adapter_model.safetensors").read_bytes()


def main() -> int:
    """Inject faults until the time is over; 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance, until = random.Random(arguments.seed), time.monotonic() + 3600 * arguments.hours
    folder = Path(tempfile.mkdtemp(prefix="mft-soak-"))
    os.environ["MFT_STUDIO_HOME"] = str(folder / "home")
    recipe = override(
        tiny_recipe(folder), [f"optim.max_steps={STEPS}", "record.save_steps=20", "record.eval_steps=500"]
    )
    whole, counts, failures, round_ = whole_bytes(folder, recipe), Counter[str](), 0, 0
    while time.monotonic() < until:
        round_ += 1
        run = create_run_at(folder / f"run-{round_}", recipe)
        while effective_state(run) != "finished" and time.monotonic() < until:
            name, told = life(run, chance)
            counts[name] += 1
            failures += bool(told)
            attempt = read_json(run.attempts / f"{run.last_attempt().number:03d}.json") or {}  # type: ignore[union-attr]
            line = (
                f"{time.strftime('%H:%M:%S')} run {round_} attempt {attempt.get('number')} step {run.status().step:4}"
            )
            print(f"{line}  {name:30} {effective_state(run):9} {'; '.join(told) or 'ok'}", flush=True)
        if effective_state(run) == "finished" and last_weights(run) != whole:
            failures += 1
            print(f"run {round_} ended with other weights than the undisturbed one", flush=True)
        if not failures:
            shutil.rmtree(run.path)
    print(
        f"{sum(counts.values())} lives, {failures} with something wrong; "
        + ", ".join(f"{k} {v}" for k, v in counts.items())
    )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
