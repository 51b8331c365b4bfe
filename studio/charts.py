"""Columns of metrics -> the curves of a chart, thinned so that nothing that matters is lost.

    rows -> bins of equally many rows -> of each series and bin the first, last, lowest and highest point, and the mean

Up to `MAX_POINTS` rows all are kept.  Above, a bin has 2^k rows, so that bins that are full never change: a viewer who
has them gets what came since, and starts over only when 2^k doubles.  Every series keeps its own points, on the common
rows of all; where a row is no point of a series it holds None.  Means are for smoothing: an average over points that
were chosen for being extreme would be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studio.logic.history import Table

MAX_POINTS = 800
"""Points of one series."""
KEPT = 4
"""Of a bin: first, last, lowest, highest."""
DIGITS = 6

Indices = NDArray[np.intp]


def bin_width(rows: int, *, limit: int = MAX_POINTS) -> int:
    """Return how many rows a bin has, a power of two: `KEPT` if all rows are points."""
    width = KEPT
    while rows > width * (limit // KEPT):
        width *= 2
    return width


def curves(
    table: Table, keys: Sequence[str], *, start: int = 0, stop: int | None = None, first: int = 0, width: int = KEPT
) -> dict[str, Any]:
    """Return the points of series, JSON-ready.

    Args:
        table: All rows.
        keys: The series.
        start: Row where the first bin begins.
        stop: Row after the last one; None = all.
        first: Bins that are left out at the beginning, because they are known.
        width: Rows of a bin, of `bin_width`.

    Returns:
        `row`: numbers of the rows that hold a point; `step`, `time` (s since 1970), `tokens` of these; `values`: a list
        for each key; `mean`: the same of each bin at its middle row, `row` being the number of the bin; None if all
        rows are points.
    """
    stop = len(table) if stop is None else min(stop, len(table))
    begin = min(start + first * width, stop)
    columns = [table.column(key)[begin:stop].astype(np.float64) for key in keys]
    if width == KEPT:
        kept = np.arange(stop - begin)
        return {**_places(table, kept, begin, kept + begin), "values": [_plain(v) for v in columns], "mean": None}
    chosen = [extremes(column, width) for column in columns]
    ends = np.array([0, stop - begin - 1]) if stop > begin else np.empty(0, dtype=np.intp)
    kept = np.unique(np.concatenate([*chosen, ends])).astype(np.intp)
    values = []
    for column, own in zip(columns, chosen, strict=True):
        shown = np.full(len(kept), np.nan)
        shown[np.searchsorted(kept, own)] = column[own]
        values.append(_plain(shown))
    bins = -(-(stop - begin) // width)
    middles = np.minimum(np.arange(bins) * width + width // 2, max(stop - begin - 1, 0))
    return {
        **_places(table, kept, begin, kept + begin),
        "values": values,
        "mean": {
            **_places(table, middles, begin, np.arange(bins) + first),
            "values": [_plain(means(column, width)) for column in columns],
        },
    }


def extremes(values: NDArray[np.float64], width: int) -> Indices:
    """Return, in order, where each bin of `width` values has its first, last, lowest and highest number."""
    if not len(values):
        return np.empty(0, dtype=np.intp)
    rows = _in_bins(values, width)
    known = np.isfinite(rows)
    some = known.any(axis=1)
    last = width - 1 - known[:, ::-1].argmax(axis=1)
    lowest = np.where(known, rows, np.inf).argmin(axis=1)
    highest = np.where(known, rows, -np.inf).argmax(axis=1)
    found = np.stack([known.argmax(axis=1), lowest, highest, last], axis=1) + np.arange(len(rows))[:, None] * width
    return np.unique(found[some])


def means(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the mean of the numbers in each bin of `width` values, NaN where there are none."""
    rows = _in_bins(values, width)
    known = np.isfinite(rows)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, rows, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def window(table: Table, axis: str, low: float, high: float) -> tuple[int, int]:
    """Return the rows between two values of `step`, `tokens_seen` or `time` (s since the first row), with a margin.

    The margin is a tenth on either side, and a row at least: lines go on beyond what is seen.
    """
    if not len(table):
        return 0, 0
    values = np.maximum.accumulate(np.nan_to_num(table.column(axis), nan=-np.inf))  # a clock may jump back
    origin = table.column(axis)[0] if axis == "time" else 0.0
    start = int(np.searchsorted(values, low + origin, side="left"))
    stop = int(np.searchsorted(values, high + origin, side="right"))
    margin = 1 + (stop - start) // 10
    return max(0, start - margin), min(len(table), stop + margin)


def _in_bins(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    short = -len(values) % width
    return np.concatenate([values, np.full(short, np.nan)]).reshape(-1, width)


def _places(table: Table, kept: Indices, begin: int, numbers: Indices) -> dict[str, Any]:
    found: dict[str, Any] = {"row": numbers.tolist(), "step": table.column("step")[begin:][kept].astype(int).tolist()}
    for name, key in (("time", "time"), ("tokens", "tokens_seen")):
        found[name] = [None if v != v else v for v in np.round(table.column(key)[begin:][kept], 1).tolist()]
    return found


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """Return numbers with `DIGITS` digits, None for what is none."""
    known = np.isfinite(values) & (values != 0)
    scale = np.ones_like(values)
    scale[known] = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(values[known]))))
    rounded = np.where(np.isfinite(values), np.round(values * scale) / scale, np.nan)
    return [None if v != v else v for v in rounded.tolist()]
