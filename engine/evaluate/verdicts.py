"""Programs on trial, each in a sandbox of its own -> a verdict of each: `passed`, or why not."""

from __future__ import annotations

from collections.abc import Iterable

from engine.evaluate.sandbox import Limits, Outcome, Sandbox
from engine.evaluate.trial import PASSED

MOST_MESSAGE = 300
"""Characters that are kept of an error."""


def verdicts_of(trials: Iterable[str], limits: Limits) -> list[str]:
    """Return a verdict for each trial: `passed`, `wrong`, `timeout` or `error`, the last three with a message.

    Args:
        trials: Of `engine.evaluate.trial.trial_of`.
        limits: Of each.

    Raises:
        UserError: If programs cannot be locked in on this machine.
    """
    return [verdict_of(outcome) for outcome in Sandbox().run_all(trials, limits)]


def verdict_of(outcome: Outcome) -> str:
    """Return what the outcome of a trial means."""
    if outcome.end == "timeout":
        return f"timeout: stopped after {outcome.cpu_s:.0f} s of processor time, {outcome.wall_s:.0f} s in all"
    if outcome.end == "output":
        return "error: it printed without end"
    if outcome.end == "killed":
        return f"error: killed by signal {outcome.status}"
    if outcome.status == 0 and outcome.stdout == f"{PASSED}\n":
        return PASSED
    last = next((line for line in reversed(outcome.stderr.splitlines()) if line.strip()), "")[:MOST_MESSAGE]
    if last.startswith("AssertionError"):
        return f"wrong: {last}"
    return f"error: {last or f'it ended with status {outcome.status} before its tests were done'}"
