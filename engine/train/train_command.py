"""`python -m engine train`: start a run in the background and watch it from a terminal.

The run is the same detached one that the studio starts: Ctrl-C asks it to stop and save, a second Ctrl-C only leaves.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from engine.contract.continuation import continuation
from engine.contract.errors import UserError
from engine.contract.places import data_root
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import load_recipe, override
from engine.contract.rundir import TERMINAL, RunDir, create_run, create_run_at, effective_state, request
from engine.export.merge_command import find_run
from engine.launch import slurm

POLL_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", type=Path, nargs="?", help="recipe YAML, e.g. presets/starter.yaml")
    parser.add_argument("--output-dir", type=Path, help="run directory to make (default: under the data root)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a recipe field")
    parser.add_argument(
        "--resume", nargs="?", const="latest", metavar="STEP", help="continue the run in --output-dir from a checkpoint"
    )
    parser.add_argument("--continue", dest="goes_on", metavar="RUN", help="go on from a run's checkpoint")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the data that --continue adds")
    parser.add_argument("--checkpoint", default="", metavar="STEP", help="for --continue (default: the newest)")
    parser.add_argument("--detach", action="store_true", help="return at once; the run goes on")


def run(arguments: argparse.Namespace) -> int:
    """Start or resume the run; return 0 if it finished or was stopped, 1 if it failed."""
    from engine.launch.supervisor import start_run

    if arguments.resume:
        if arguments.output_dir is None or arguments.set:
            raise UserError("--resume needs --output-dir, and takes no --set.", fix="name the run's directory.")
        run_dir = RunDir(arguments.output_dir.resolve())
        run_dir.recipe()
    else:
        recipe = override(_recipe(arguments), arguments.set)
        run_dir = create_run_at(arguments.output_dir.resolve(), recipe) if arguments.output_dir else None
        run_dir = run_dir or create_run(data_root().make().runs, recipe)
    start_run(run_dir, resume_from=arguments.resume or "")
    print(f"run {run_dir.id}\n  {run_dir.path}", flush=True)
    return 0 if arguments.detach else watch(run_dir)


def _recipe(arguments: argparse.Namespace) -> Recipe:
    if arguments.goes_on is not None:
        if arguments.recipe is not None:
            raise UserError("--continue takes the recipe of its run.", fix="change single fields with --set.")
        return continuation(find_run(arguments.goes_on), epochs=arguments.epochs, checkpoint=arguments.checkpoint)
    if arguments.recipe is None:
        raise UserError("No recipe was given.", fix="name one, for example presets/starter.yaml.")
    return load_recipe(arguments.recipe)


def watch(run_dir: RunDir) -> int:
    """Show a run's progress until it ends; return its exit status."""
    from tqdm import tqdm

    asked, phase, offset, events_offset = False, "", 0, run_dir.events()[1]
    bar: tqdm | None = None
    while True:
        try:
            slurm.look(run_dir)
            state, status = effective_state(run_dir), run_dir.status()
            if bar is None and status.total_steps:
                bar = tqdm(total=status.total_steps, initial=status.started_step, unit="step", file=sys.stdout)
            say = bar.write if bar else print
            attempt = run_dir.last_attempt()
            doing = f"waits: {attempt.waiting}" if attempt and state == "queued" else status.phase
            if bar is None and doing != phase:
                phase = doing
                print(f"  {phase}", flush=True)
            events, events_offset = run_dir.events(events_offset)
            for event in events:
                if event.get("kind") in ("eval", "save", "stop", "resume", "early_stop", "spike", "warning", "problem"):
                    say(f"  {event['text']}")
            rows, offset = run_dir.metrics(offset)
            if bar:
                _advance(bar, status.step, rows)
            if state in TERMINAL:
                break
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            if asked:
                print("\nThe run goes on in the background.")
                return 0
            asked = True
            request(run_dir, "stop")
            print("\nStopping after this step, with a checkpoint. Ctrl-C again leaves it to itself.")
    if bar:
        bar.close()
    return _last_words(run_dir)


def _advance(bar: object, step: int, rows: list[dict]) -> None:
    losses = [row for row in rows if "train/loss" in row]
    if losses:
        row = losses[-1]
        speed = row.get("perf/tokens_per_second") or 0.0
        bar.set_postfix_str(f"loss {row['train/loss'] or float('nan'):.3f}, {speed:.0f} tokens/s")  # type: ignore[attr-defined]
    bar.update(max(0, step - bar.n))  # type: ignore[attr-defined]


def _last_words(run_dir: RunDir) -> int:
    state, attempt = effective_state(run_dir), run_dir.last_attempt()
    deadline = time.monotonic() + 5
    while attempt and not attempt.ended_at and state != "lost" and time.monotonic() < deadline:
        time.sleep(0.1)  # the supervisor writes the end a moment after rank 0 did
        attempt = run_dir.last_attempt()
    checkpoints = run_dir.checkpoint_dirs()
    print(f"{state} at step {run_dir.status().step}; checkpoints: {', '.join(p.name for p in checkpoints) or 'none'}")
    if state in ("finished", "stopped"):
        return 0
    problem = (attempt.problem if attempt else "") or "The processes are gone without a last word."
    raise UserError(problem, fix=(attempt.fix if attempt else "") or f"read {run_dir.log_file}.")
