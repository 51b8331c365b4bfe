"""What is known of one run's streams, and what of it a viewer has not seen yet.

    metrics.jsonl -> History, events.jsonl -> events and marks;  a viewer's cursor -> what is new, and a new cursor

A cursor is opaque to the page: counts of what was sent.  A count that cannot be continued - the run resumed and repeats
steps, the bins of the curves have doubled - means `reset`: everything is sent again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.contract.metrics import METRICS, metric_of, task_key
from engine.contract.redact import redact
from engine.contract.rundir import RunDir
from studio.charts import MAX_POINTS, bin_width, curves, window
from studio.logic.balance import balance
from studio.logic.history import History, Row, Table

EVENTS_SHOWN = 200
MARK_LETTERS = 300
"""Of a mark's text, which stands beside the pointer."""
RUN_POINTS = 400
"""Points of a small chart."""
REPEATED = ("eval", "save")
"""Marks of steps that a resumed run comes to again."""
MARKED = ("eval", "save", "resume", "spike", "early_stop", "stop", "problem")
AXES = {"step": "step", "tokens": "tokens_seen", "time": "time"}
RUN_KEYS = (
    "train/loss",
    "optim/learning_rate",
    "optim/grad_norm",
    "perf/tokens_per_second",
    "perf/memory_bytes",
    "host/cpu_percent",
    "host/memory_bytes",
    "host/rss_bytes",
)
"""Curves of the run as a whole, in the order in which they are shown; those of GPUs follow the memory."""


@dataclass
class Snapshot:
    """One run, read as far as its files go; `lock` is held by who reads on or looks."""

    run: RunDir
    names: Sequence[str]
    """Its tasks."""
    colors: dict[str, int] = field(default_factory=dict)
    """Colour of each task."""
    history: History = field(init=False)
    events: list[dict[str, Any]] = field(default_factory=list)
    """The newest, `EVENTS_SHOWN` at most."""
    marks: list[dict[str, Any]] = field(default_factory=list)
    """All that stand in the chart: step, kind, text."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    _events_offset: int = 0
    _events_seen: int = 0
    _resumes: int = 0
    _balance: dict[str, Any] = field(default_factory=dict)
    _balance_rows: int = -1
    _balance_evals: tuple[int, int] = (-1, -1)
    _balance_number: int = 0
    _evals: Table = field(default_factory=Table)
    _evals_version: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.history = History(self.run)

    def update(self) -> None:
        """Read what was appended since the last time."""
        self.history.update()
        events, self._events_offset = self.run.events(self._events_offset)
        self._events_seen += len(events)
        self.events = [*self.events, *(_event(event) for event in events)][-EVENTS_SHOWN:]
        for event in events:
            self._mark(event)
        version = (self.history.generation, len(self.history.evals))
        if version != self._evals_version:
            self._evals, self._evals_version = Table.of(self.history.evaluations()), version

    def news(self, cursor: str) -> dict[str, Any]:
        """Return what a viewer has not seen, JSON-ready.

        Args:
            cursor: What the viewer got last as `cursor`; anything else means: from the start.

        Returns:
            `reset`, `cursor`, `train` and `run` (see `studio.charts.curves`, `first` being the number of the first bin
            and `width` its rows), `run_keys`, `eval`, `events`, `marks`, `balance` (None = as before).
        """
        train, evals = self.history.train, self._evals
        self._update_balance()
        seen = self._seen(cursor)
        reset = seen is None
        _, _, rows, known_evals, events, marks, number = seen or (0, 0, 0, 0, 0, 0, -1)
        keys = self._run_keys()
        seen_now = (len(train), len(evals), self._events_seen, len(self.marks), self._balance_number)
        return {
            "reset": reset,
            "cursor": ".".join(map(str, (*self._version(), *seen_now))),
            "train": _fresh(train, [task_key(name, "loss") for name in self.names], rows),
            "run": _fresh(train, keys, rows, limit=RUN_POINTS),
            "run_keys": [_told(key) for key in keys],
            "eval": _fresh(evals, [task_key(name, "eval_loss") for name in self.names], known_evals),
            "events": self.events[max(0, len(self.events) - (self._events_seen - events)) :],
            "marks": self.marks[marks:],
            "balance": self._balance if number != self._balance_number else None,
        }

    def detail(self, axis: str, low: float, high: float) -> dict[str, Any]:
        """Return a part of the curves with points of its own: `train`, `run`, and the window that was asked.

        Args:
            axis: One of `AXES`.
            low: Where the part begins: a step, tokens seen, or seconds since the first row.
            high: Where it ends.
        """
        train = self.history.train
        start, stop = window(train, AXES[axis], low, high)
        width, small = bin_width(stop - start), bin_width(stop - start, limit=RUN_POINTS)
        losses = [task_key(name, "loss") for name in self.names]
        return {
            "axis": axis,
            "low": low,
            "high": high,
            "train": curves(train, losses, start=start, stop=stop, width=width),
            "run": curves(train, self._run_keys(), start=start, stop=stop, width=small),
        }

    def tokens(self, name: str) -> int:
        """Return the supervised tokens of a task so far."""
        values = self.history.train.column(task_key(name, "num_tokens"))
        return int(values[values == values].sum(dtype=float))

    def _seen(self, cursor: str) -> tuple[int, ...] | None:
        """Return the counts of a cursor, or None if a viewer has to start over."""
        parts = cursor.split(".")
        if len(parts) != 7 or not all(part.isascii() and part.isdigit() for part in parts):
            return None
        seen = tuple(map(int, parts))
        rows, evals, events, marks = seen[2:6]
        train = self.history.train
        same = seen[:2] == self._version()
        known = (
            rows <= len(train)
            and evals <= len(self._evals)
            and events <= self._events_seen
            and marks <= len(self.marks)
        )
        widths = all(
            bin_width(before, limit=limit) == bin_width(now, limit=limit)
            for before, now, limit in (
                (rows, len(train), RUN_POINTS),
                (rows, len(train), MAX_POINTS),
                (evals, len(self._evals), MAX_POINTS),
            )
        )
        return seen if same and known and widths else None

    def _version(self) -> tuple[int, int]:
        """Return what must be the same for a viewer to go on: nothing was rewritten, the curves are the same ones."""
        return self.history.generation + self._resumes, len(self._run_keys())

    def _run_keys(self) -> list[str]:
        known = self.history.train.keys()
        gpus = sorted((key for key in known if key.startswith("gpu/")), key=_gpu_order)
        found = [key for key in RUN_KEYS if key in known]
        at = next((i for i, key in enumerate(found) if key.startswith("host/")), len(found))
        return [*found[:at], *gpus, *found[at:]]

    def _update_balance(self) -> None:
        """Work the Balance tab out anew when an evaluation or a hundredth more rows came."""
        rows, version = len(self.history.train), self._evals_version
        if version != self._balance_evals or rows > 1.01 * self._balance_rows or rows < self._balance_rows:
            self._balance = balance(self.history.train, self.history.evaluations(), self.names)
            self._balance_rows, self._balance_evals = rows, version
            self._balance_number += 1

    def _mark(self, event: dict[str, Any]) -> None:
        kind, step = str(event.get("kind", "")), event.get("step")
        if kind not in MARKED or type(step) is not int:
            return
        if kind == "resume":
            before = len(self.marks)
            self.marks = [mark for mark in self.marks if mark["kind"] not in REPEATED or mark["step"] <= step]
            self._resumes += before != len(self.marks)
        data = event.get("data")
        kind = "nan" if isinstance(data, dict) and data.get("not_a_number") else kind
        self.marks.append({"step": step, "kind": kind, "text": redact(str(event.get("text", "")))[:MARK_LETTERS]})


def _fresh(table: Table, keys: Sequence[str], known: int, *, limit: int = MAX_POINTS) -> dict[str, Any]:
    """Return the bins of a table that were not complete when it had `known` rows."""
    width = bin_width(len(table), limit=limit)
    first = known // width
    return {"first": first, "width": width, **curves(table, keys, first=first, width=width)}


def _told(key: str) -> dict[str, str]:
    metric = metric_of(key) or METRICS[0]
    gpu = key.split("/")[1] if key.startswith("gpu/") else ""
    return {"key": key, "label": metric.label, "unit": metric.unit, "gpu": gpu}


def _gpu_order(key: str) -> tuple[str, int]:
    _, index, what = key.split("/", 2)
    return what, int(index) if index.isdigit() else 0


def _event(event: Row) -> dict[str, Any]:
    when = time.strftime("%H:%M:%S", time.localtime(event.get("time", 0.0)))
    told = {"kind": str(event.get("kind", "")), "text": redact(str(event.get("text", "")))}
    return {"time": when, "step": event.get("step"), **told}
