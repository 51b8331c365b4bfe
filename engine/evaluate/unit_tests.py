"""Answers as programs against the tests of their records, by the judge of HumanEval (`engine.evaluate.trial`).

A record's wanted answer is tried first: tests that it does not pass - as they need what the judge cannot see, such as
what a program prints, or as they are wrong - say nothing about a model, so that record is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from engine.contract.eval_results import EvalExample
from engine.evaluate.sandbox import Limits
from engine.evaluate.scorers import code_of
from engine.evaluate.trial import PASSED, trial_of
from engine.evaluate.verdicts import verdicts_of

LIMITS = Limits(cpu_s=10, wall_s=30.0)
NAME = "unit_tests"


def pass_tests(examples: Sequence[EvalExample], tests: Sequence[str]) -> tuple[list[EvalExample], list[float | None]]:
    """Try the code of each answer.

    Args:
        examples: Answers, code or chat with a fenced block.
        tests: Python that fails unless the code is right, one text per answer; empty = none.

    Returns:
        The examples with their verdicts as notes; 1 for each whose code passes its tests, else 0, None where there are
        no tests or the wanted answer does not pass them either.

    Raises:
        UserError: If programs cannot be locked in on this machine.
    """
    places = [place for place, text in enumerate(tests) if text.strip()]
    wanted = _verdicts(tuple(trial_of(code_of(examples[place].reference), tests[place]) for place in places))
    fair = [place for place, verdict in zip(places, wanted, strict=True) if verdict == PASSED]
    found = verdicts_of([trial_of(code_of(examples[place].prediction), tests[place]) for place in fair], LIMITS)
    told = dict(zip(fair, found, strict=True))
    values = [float(told[place] == PASSED) if place in told else None for place in range(len(examples))]
    for place, verdict in zip(places, wanted, strict=True):
        told.setdefault(place, f"left out: the wanted answer does not pass ({verdict})")
    noted = [
        replace(example, notes={**example.notes, NAME: told[place]}) if place in told else example
        for place, example in enumerate(examples)
    ]
    return noted, values


@lru_cache(maxsize=8)
def _verdicts(trials: tuple[str, ...]) -> tuple[str, ...]:
    """Return the verdicts of wanted answers, which are the same for each model that is measured."""
    return tuple(verdicts_of(trials, LIMITS)) if trials else ()
