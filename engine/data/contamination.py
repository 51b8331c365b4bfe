"""Which examples contain a problem of HumanEval.

    text -> tokens (words and signs, lower case) -> runs of `RUN` tokens -> share of a problem's runs that are found

An example counts when it holds at least `ENOUGH` of the runs of a problem's description, or of its solution: single
lines that many programs share do not make half of a problem.  Parts of fewer than `MIN_RUNS` runs are not looked for.
Source of the n-gram test: section 3.1 of GPT-3 (Brown et al. 2020, arXiv:2005.14165), there with 13 words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.contract.records import Example
from engine.data.humaneval import Problem, load_humaneval

RUN = 10
ENOUGH = 0.5
MIN_RUNS = 6
_TOKEN = re.compile(r"\w+|[^\w\s]")
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Hit:
    """An example that contains a benchmark problem."""

    line: int
    file: str
    task_id: str
    part: str
    """`description` or `solution`."""
    share: float
    """Share of the part's runs that the example holds."""


class HumanEvalFinder:
    """Looks for the problems of HumanEval in texts.

    Args:
        problems: The benchmark; by default HumanEval itself.
    """

    def __init__(self, problems: Sequence[Problem] | None = None) -> None:
        self.problems = load_humaneval() if problems is None else tuple(problems)
        self._known: dict[str, int] = {}

    @cached_property
    def _parts(self) -> tuple[NDArray[np.uint64], list[list[int]], list[tuple[str, str, int]]]:
        """Sorted runs of all parts, the parts each run belongs to, and (task, part, number of runs) of each part."""
        owners: dict[int, list[int]] = {}
        told: list[tuple[str, str, int]] = []
        for problem in self.problems:
            for part, text in (("description", _description(problem)), ("solution", problem.canonical_solution)):
                runs = set(self.runs(text, learn=True).tolist())
                if len(runs) < MIN_RUNS:
                    continue
                for run in runs:
                    owners.setdefault(run, []).append(len(told))
                told.append((problem.task_id, part, len(runs)))
        order = sorted(owners)
        return np.array(order, dtype=np.uint64), [owners[run] for run in order], told

    def runs(self, text: str, *, learn: bool = False) -> NDArray[np.uint64]:
        """Return a hash of every run of `RUN` tokens; a word that no problem uses stands for all such words."""
        words = _TOKEN.findall(text.lower())
        if len(words) < RUN:
            return np.zeros(0, dtype=np.uint64)
        if learn:
            numbers = [self._known.setdefault(word, len(self._known) + 1) for word in words]
        else:
            known = self._known
            numbers = [known.get(word, 0) for word in words]
        ids = np.array(numbers, dtype=np.uint64)
        hashes = np.zeros(len(ids) - RUN + 1, dtype=np.uint64)
        unknown = np.zeros(len(hashes), dtype=bool)
        with np.errstate(over="ignore"):
            for place in range(RUN):
                part = ids[place : place + len(hashes)]
                hashes = (hashes ^ (part * _BASE)) * np.uint64(0x100000001B3) + np.uint64(place)
                unknown |= part == 0
        return hashes[~unknown]

    def look(self, example: Example) -> list[Hit]:
        """Return the problems that an example contains, the fullest part of each."""
        sorted_runs, owners, parts = self._parts
        text = "\n".join(message.content for message in example.messages)
        runs = np.unique(self.runs(text))
        if not len(runs):
            return []
        places = np.minimum(np.searchsorted(sorted_runs, runs), len(sorted_runs) - 1)
        found = Counter(part for place in places[sorted_runs[places] == runs] for part in owners[int(place)])
        best: dict[str, Hit] = {}
        for part, count in found.items():
            task_id, name, total = parts[part]
            share = count / total
            if share >= ENOUGH and (task_id not in best or share > best[task_id].share):
                best[task_id] = Hit(example.line, example.file, task_id, name, share)
        return list(best.values())

    def look_all(self, examples: Iterable[Example]) -> list[Hit]:
        """Return all hits of many examples, in their order."""
        return [hit for example in examples for hit in self.look(example)]


def _description(problem: Problem) -> str:
    """Return signature and docstring without the imports and examples' prompt signs that many files share."""
    lines = [line for line in problem.prompt.splitlines() if not line.startswith(("import ", "from "))]
    return "\n".join(lines)
