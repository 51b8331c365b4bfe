"""What samples during training cost: their share of a run's steps, evaluations and samples.

    python benchmarks/sample_cost.py presets/starter.yaml [--settings 1x32 2x64] [--rounds 3]

A setting is prompts of a task x longest answer.  Steps, evaluations and samples are timed in turns in one process, so
that other work on the machine slows all of them; the share is made of their medians by the numbers of each in the run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits for another takes no CPU time


def seconds(what: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call."""
    wall, cpu = time.monotonic(), time.process_time()
    what()
    return time.monotonic() - wall, time.process_time() - cpu


def main() -> None:
    """Print a line per setting."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--settings", nargs="+", default=["1x24", "1x32", "2x64"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from engine.contract.recipe_io import load_recipe, override
    from engine.contract.rundir import Attempt, ProcessId, claim_attempt, create_run_at
    from engine.train.main import build_trainer
    from engine.train.record import RunRecord
    from engine.train.samples import Sampler

    settings = [tuple(map(int, setting.split("x"))) for setting in arguments.settings]
    recipe = override(load_recipe(arguments.recipe), [f"record.sample_prompts={max(n for n, _ in settings)}"])
    with tempfile.TemporaryDirectory() as folder:
        run = create_run_at(Path(folder) / "run", recipe)
        claim_attempt(run, Attempt(number=1, supervisor=asdict(ProcessId.of(os.getpid())), started_at=1.0))
        trainer, callback = build_trainer(run, recipe, RunRecord(run, attempt=1, rank=0))
        batches, optimizer = iter(trainer.get_train_dataloader()), trainer.create_optimizer()

        def step() -> None:
            trainer.model.train()
            window, _ = trainer.get_batch_samples(batches, recipe.optim.gradient_accumulation_steps, "cpu")
            for batch in window:
                trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()

        def sampler(prompts: int, tokens: int) -> Sampler:
            whole = callback.sampler
            few = [question for question in whole.questions if question.number < prompts]
            return Sampler(whole.record, whole.model, whole.tokenizer, few, max_new_tokens=tokens)

        pieces: dict[str, Callable[[], object]] = {"step": step, "evaluation": trainer.evaluate_tasks}
        for prompts, tokens in settings:
            taker = sampler(prompts, tokens)
            pieces[f"samples {prompts}x{tokens}"] = lambda taker=taker: taker.take(1)
        step()
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in pieces}
        for _ in range(arguments.rounds):
            for name, what in pieces.items():
                times[name] += [seconds(what) for _ in range(4 if name == "step" else 1)]
        steps = trainer.args.max_steps
        evaluations = 1 + -(-steps // recipe.record.eval_steps)
        for clock, label in enumerate(("wall", "CPU")):
            middle = {name: statistics.median(pair[clock] for pair in found) for name, found in times.items()}
            rest = steps * middle["step"] + evaluations * middle["evaluation"]
            for name in list(pieces)[2:]:
                part = evaluations * middle[name]
                print(f"{label}: {name}: {middle[name]:.2f} s at each of {evaluations} evaluations of "
                      f"{middle['evaluation']:.2f} s, {steps} steps of {middle['step']:.2f} s: "
                      f"{part / (rest + part):.1%} of the run")  # fmt: skip


if __name__ == "__main__":
    main()
