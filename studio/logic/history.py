"""The rows of metrics.jsonl as columns: read once, added to as the file grows, cut where a resumed run repeats steps.

    metrics.jsonl, CHUNK bytes at a time -> `History.train`: a float column per key; `History.evals`: rows by step

A row of 12 tasks has 70 numbers: as dicts 100,000 rows take a gigabyte, as columns of float32 30 MB.  `step`, `time`
and `tokens_seen` stay float64.  A key that a row does not hold, or holds as null, is NaN there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from engine.contract.files import read_rows
from engine.contract.rundir import RunDir

CHUNK = 16 * 2**20
"""Bytes of metrics that are parsed at once."""
RECENT = 50
"""Rows that are kept as they were written, for what is said of the newest steps."""
EXACT = frozenset({"step", "time", "tokens_seen"})

Column = NDArray[np.floating[Any]]
Row = dict[str, Any]


class Table:
    """Rows of numbers with rising `step`, by column."""

    def __init__(self) -> None:
        self._columns: dict[str, Column] = {}
        self._room = 0
        self.rows = 0
        """Rows it holds."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Table:
        """Return a table of rows that are in the order of their steps."""
        table = cls()
        table.extend(rows)
        return table

    def __len__(self) -> int:
        return self.rows

    def keys(self) -> list[str]:
        """Return the keys that any row holds."""
        return list(self._columns)

    def column(self, key: str) -> Column:
        """Return a column, NaN where a row has no such number; valid until the table changes."""
        known = self._columns.get(key)
        return np.full(self.rows, np.nan) if known is None else known[: self.rows]

    def extend(self, rows: Sequence[Row]) -> None:
        """Add rows whose steps follow those that are there."""
        if not rows:
            return
        end = self.rows + len(rows)
        if end > self._room:
            self._grow(max(end, 2 * self._room, 1024))
        for key in dict.fromkeys(key for row in rows for key in row):
            if key not in self._columns:
                self._columns[key] = self._empty(key, self._room)
            self._columns[key][self.rows : end] = _numbers([row.get(key) for row in rows])
        self.rows = end

    def cut(self, step: int) -> None:
        """Forget the rows from a step on."""
        self.rows = int(np.searchsorted(self.column("step"), step)) if self.rows else 0
        for column in self._columns.values():  # what is not written again must not come back
            column[self.rows :] = np.nan

    def _grow(self, room: int) -> None:
        for key, old in self._columns.items():
            self._columns[key] = self._empty(key, room)
            self._columns[key][: self.rows] = old[: self.rows]
        self._room = room

    @staticmethod
    def _empty(key: str, room: int) -> Column:
        return np.full(room, np.nan, dtype=np.float64 if key in EXACT else np.float32)


@dataclass
class History:
    """What metrics.jsonl says so far."""

    run: RunDir
    train: Table = field(default_factory=Table)
    """Rows with `train/loss`."""
    evals: dict[int, Row] = field(default_factory=dict)
    """Rows with `eval/loss` by step; for a repeated step the later row."""
    recent: deque[Row] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The newest rows of `train` as they were written."""
    generation: int = 0
    """Counts how often rows that were there have changed: then viewers start over."""
    offset: int = 0

    def update(self) -> None:
        """Read what was appended since the last time."""
        while True:
            rows, offset = read_rows(self.run.metrics_file, self.offset, max_bytes=CHUNK, parse=orjson.loads)
            self._take([row for row in rows if type(row.get("step")) is int])
            if offset <= self.offset:  # a file that was replaced by a shorter one is read from its start next time
                self.offset = offset
                return
            self.offset = offset

    def evaluations(self) -> list[Row]:
        """Return the rows with `eval/loss` in the order of their steps."""
        return [self.evals[step] for step in sorted(self.evals)]

    def _take(self, rows: Iterable[Row]) -> None:
        fresh: list[Row] = []
        last = self.train.column("step")[-1] if len(self.train) else -np.inf
        for row in rows:
            step = row["step"]
            if "eval/loss" in row:
                if self.evals and step <= next(reversed(self.evals)):
                    self.generation += 1
                    self.evals = {known: old for known, old in self.evals.items() if known != step}
                self.evals[step] = row
            if "train/loss" not in row:
                continue
            if step <= last:  # resumed from an earlier step: the later row wins
                self.train.extend(fresh)
                fresh = []
                self.train.cut(step)
                self.recent = deque((old for old in self.recent if old["step"] < step), maxlen=RECENT)
                self.generation += 1
            fresh.append(row)
            self.recent.append(row)
            last = step
        self.train.extend(fresh)


def _numbers(values: list[Any]) -> Column:
    try:
        return np.array(values, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        return np.array([float(v) if isinstance(v, (int, float)) else np.nan for v in values], dtype=np.float64)
