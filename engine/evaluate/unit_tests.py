"""Answers as programs against the tests of their records, each in a process of its own, locked in."""

from __future__ import annotations

from collections.abc import Sequence

from engine.evaluate.sandbox import Limits, Sandbox
from engine.evaluate.scorers import code_of
from engine.evaluate.trial import PASSED, trial_of

LIMITS = Limits(cpu_s=10, wall_s=30.0)


def pass_tests(predictions: Sequence[str], tests: Sequence[str]) -> list[float | None]:
    """Return 1 for each answer whose code passes its tests, else 0; None where there are none.

    A program that ends early has not passed: its tests must come to their end.

    Args:
        predictions: Answers, code or chat with a fenced block.
        tests: Python that fails unless the code before it is right, one text per answer; empty = none.

    Raises:
        UserError: If programs cannot be locked in on this machine.
    """
    places = [place for place, text in enumerate(tests) if text.strip()]
    values: list[float | None] = [None] * len(predictions)
    if not places:
        return values
    trials = [trial_of(code_of(predictions[place]), tests[place], inside=True) for place in places]
    for place, outcome in zip(places, Sandbox().run_all(trials, LIMITS), strict=True):
        values[place] = float(outcome.end == "exited" and outcome.status == 0 and outcome.stdout == f"{PASSED}\n")
    return values
