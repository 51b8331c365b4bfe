"""What a task is made of: turns, roles, lengths, code languages, duplicates, benchmark problems, overlap.

    file -> one pass (Example by Example, nothing kept but signatures) -> Insight, Signatures

No tokenizer: token lengths are measured under a model (`engine.data.prepare`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.contract.records import Columns, Example
from engine.contract.taskfile import scan_examples
from engine.data.contamination import Hit, HumanEvalFinder
from engine.data.duplicates import Pair, SignatureMaker, Signatures, exact_copies, near_copies, shared

SHOWN = 20
"""Pairs and hits that are told with their lines; all are counted."""
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*([A-Za-z0-9_+#.-]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """What a task is made of."""

    num_examples: int
    turns: dict[int, int]
    """Answers of a conversation -> examples."""
    roles: dict[str, int]
    """Role -> turns."""
    answer_characters: dict[str, int]
    """p50, p95 and max of the characters of an answer."""
    languages: dict[str, int]
    """Language of a code fence -> fences; `none` where the fence names none."""
    num_fenced: int
    """Examples whose answers hold a code fence."""
    num_exact: int
    """Examples that are copies of an earlier one."""
    exact: tuple[tuple[int, int], ...]
    """(line of the first, line of the copy) of the first `SHOWN`."""
    num_near: int
    near: tuple[tuple[int, int, float], ...]
    """(line of the earlier, line of the later, estimated similarity)."""
    num_contaminated: int
    """Examples that contain a problem of HumanEval."""
    contaminated: tuple[dict[str, Any], ...]
    num_in_heldout: int | None = None
    """Training examples that are, exactly or nearly, held out too; None without a held-out file."""
    in_heldout: tuple[tuple[int, int, float], ...] = ()
    """(line in the held-out file, line of the training file, similarity)."""
    overlaps: tuple[tuple[str, int], ...] = ()
    """Other task -> examples of this one that are, exactly or nearly, in it too."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class _Collector:
    """Counts over one pass."""

    def __init__(self) -> None:
        self.turns: Counter[int] = Counter()
        self.roles: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.answers: list[int] = []
        self.num_fenced = 0
        self.hits: list[Hit] = []
        self.signatures = SignatureMaker()
        self.finder = HumanEvalFinder()

    def add(self, example: Example) -> None:
        answers = [message.content for message in example.messages if message.role == "assistant"]
        self.turns[len(answers)] += 1
        self.roles.update(message.role for message in example.messages)
        self.answers += map(len, answers)
        # every second mark closes a fence and names nothing
        fences = [name for answer in answers for name in _FENCE.findall(answer)[::2]]
        self.languages.update(name.lower() or "none" for name in fences)
        self.num_fenced += bool(fences)
        self.hits += self.finder.look(example)
        self.signatures.add(example)


def inspect_task(
    path: Path, columns: Columns | None = None, *, heldout: Path | None = None
) -> tuple[Insight, Signatures]:
    """Look into a task file.

    Args:
        path: Task file or folder.
        columns: What its columns mean.
        heldout: Held-out file of the same task, to find leaks.

    Returns:
        The insight, and the signatures for comparing it with other tasks (`overlap`).

    Raises:
        UserError: If a file cannot be used.
    """
    counts = _Collector()
    scan_examples(path, counts.add, columns)
    signatures = counts.signatures.finish()
    leaks, heldout_signatures = [], None
    if heldout is not None:
        maker = SignatureMaker()
        scan_examples(heldout, maker.add, columns)
        heldout_signatures = maker.finish()
        leaks = shared(heldout_signatures, signatures)
    exact, near = exact_copies(signatures), near_copies(signatures)
    lines = signatures.lines
    return Insight(
        num_examples=len(signatures),
        turns=dict(sorted(counts.turns.items())),
        roles=dict(counts.roles.most_common()),
        answer_characters=_quantiles(counts.answers),
        languages=dict(counts.languages.most_common(SHOWN)),
        num_fenced=counts.num_fenced,
        num_exact=len(exact),
        exact=tuple((int(lines[p.first]), int(lines[p.second])) for p in exact[:SHOWN]),
        num_near=len(near),
        near=_told(near, lines, lines),
        num_contaminated=len({(hit.file, hit.line) for hit in counts.hits}),
        contaminated=tuple(asdict(hit) for hit in counts.hits[:SHOWN]),
        num_in_heldout=len(leaks) if heldout_signatures is not None else None,
        in_heldout=_told(leaks, heldout_signatures.lines, lines) if heldout_signatures is not None else (),
    ), signatures


def overlap(one: Signatures, other: Signatures) -> int:
    """Return how many examples of `one` are, exactly or nearly, in `other` too."""
    return len(shared(other, one))


def _told(pairs: Sequence[Pair], first: Any, second: Any) -> tuple[tuple[int, int, float], ...]:
    return tuple((int(first[p.first]), int(second[p.second]), round(p.similarity, 3)) for p in pairs[:SHOWN])


def _quantiles(values: list[int]) -> dict[str, int]:
    if not values:
        return {"p50": 0, "p95": 0, "max": 0}
    p50, p95 = np.quantile(np.array(values), [0.5, 0.95], method="lower")
    return {"p50": int(p50), "p95": int(p95), "max": max(values)}
