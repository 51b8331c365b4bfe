"""What was measured of a model: one file per subject, data and kind of measurement.

    runs/<id>/eval/<subject>.<dataset>.<kind>.<key>.json      written by `engine.evaluate.results`, replaced as a whole

A subject is `base`, a checkpoint (`step-000060`) or a merged model (`merged/<name>`).  Every file names its inputs; the
key in its name is a hash of all inputs but the subject, so that files with one key can be compared.  Numbers are kept
per example: a value and a count.  A measure is sum(values) / sum(counts), so that a mean of scores (counts are 1), a
loss (nats, tokens) and "does not apply here" (count 0) are one formula.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.contract.files import read_json, slug
from engine.contract.stored import restore

VERSION = 1
BASE = "base"
"""The subject that the others are compared with: the model before it was tuned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalInputs:
    """Everything the numbers of a file depend on."""

    subject: str
    dataset: str
    """Name of a task, `retention`, or a benchmark such as `humaneval`."""
    kind: str
    """`loss`, `answers`, or a kind of its own for a benchmark."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Everything but subject and weights, JSON-ready: how answers are made, which examples."""
    weights: str = ""
    """What the subject's weights can be told by; a file about other weights is made anew."""

    @property
    def key(self) -> str:
        """Files with the same key can be compared."""
        text = json.dumps([VERSION, self.dataset, self.kind, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    @property
    def file_name(self) -> str:
        """Name of the file in `eval/`."""
        parts = slug(self.subject.replace("/", "-")), slug(self.dataset, any_script=True), slug(self.kind), self.key
        return ".".join(parts) + ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One measure, per example; see the module's header."""

    values: tuple[float, ...]
    counts: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Scores:
        """Return plain scores of examples, None where a score does not apply."""
        return cls(
            values=tuple(0.0 if value is None else float(value) for value in values),
            counts=tuple(float(value is not None) for value in values),
        )

    @property
    def mean(self) -> float | None:
        """The measure over all examples, None if it applies to none of them."""
        total = sum(self.counts)
        return sum(self.values) / total if total else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalExample:
    """One example as people look at it. Its texts are data, never markup."""

    id: str
    """The same for the same example in every run: a hash of its content, or a benchmark's name of it."""
    prompt: str = ""
    reference: str = ""
    """The wanted answer."""
    prediction: str = ""
    num_tokens: int = 0
    """Tokens that were generated."""
    end: str = ""
    """Why the answer ended: end of turn, stop text, length limit."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a scorer says about it, by the scorer's name: the error of a program, for example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """One file."""

    inputs: EvalInputs
    scores: dict[str, Scores]
    examples: tuple[EvalExample, ...]
    schema_version: Literal[1] = 1
    made: dict[str, Any] = field(default_factory=dict)
    """When, on what, how long (s), in which batches and with which versions: for people."""

    @classmethod
    def read(cls, path: Path) -> EvalResult | None:
        """Return what a file holds, None if it is no result, or its parts do not fit each other."""
        result = restore(cls, read_json(path))
        if result is None:
            return None
        sizes = {len(part) for scores in result.scores.values() for part in (scores.values, scores.counts)}
        return result if sizes <= {len(result.examples)} else None


def read_results(folder: Path) -> list[EvalResult]:
    """Return all results of a run's `eval/`, oldest first; what cannot be read is left out."""
    dated = []
    for path in folder.glob("*.json"):
        try:
            dated.append((path.stat().st_mtime_ns, path.name, path))
        except OSError:  # replaced this moment
            continue
    return [result for *_, path in sorted(dated) if (result := EvalResult.read(path)) is not None]
