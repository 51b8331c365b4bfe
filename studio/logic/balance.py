"""How the tasks of a run pull: relative loss, shares of rows and loss, factors, slopes, and one sentence about it.

    rows of metrics -> at most `BINS` bins of equal width -> series per task; evaluations -> pace, overfitting -> words

Pure arithmetic over what the run recorded; a bin's loss is weighted by supervised tokens, so a bin is never an average
of averages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.metrics import task_key
from studio.logic.history import Column, Table

BINS = 120
FASTER = 1.5
"""A task is called faster than another from this ratio of their paces on."""
RISEN = 1.02
"""Evaluation loss above its minimum by this factor, at two evaluations in a row, is called overfitting."""

Row = Mapping[str, Any]
Starts = NDArray[np.intp]
"""First row of each bin."""


def balance(rows: Table, evaluations: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    """Return what the Balance tab shows, JSON-ready.

    Args:
        rows: Training rows in the order of their steps.
        evaluations: Rows that hold `eval/loss`, likewise.
        names: The tasks.
    """
    if not len(rows):
        return {
            "step": [],
            "names": list(names),
            "table": [],
            "sentence": "The first numbers appear after the first step.",
        }
    starts = np.arange(0, len(rows), -(-len(rows) // BINS))
    losses = {name: _losses(rows, name, starts) for name in names}
    shares = [_sums(rows, name, "weight", starts) for name in names]
    seen = [_sums(rows, name, "num_rows", starts) for name in names]
    factors = [_lasts(rows.column(task_key(name, "factor")), starts) for name in names]
    ends = np.append(starts[1:], len(rows)) - 1
    table = [_line(name, losses[name], rows, evaluations, names) for name in names]
    return {
        "step": rows.column("step")[ends].astype(int).tolist(),
        "names": list(names),
        "relative": [_relative(losses[name]) for name in names],
        "loss_share": [_shares(column) for column in zip(*shares, strict=True)],
        "row_share": [_shares(column) for column in zip(*seen, strict=True)],
        "factor": [list(row) for row in zip(*factors, strict=True)] if _any_number(factors) else [],
        "table": table,
        "sentence": sentence(table, evaluations),
    }


def sentence(table: Sequence[Mapping[str, Any]], evaluations: Sequence[Row]) -> str:
    """Say in words what stands out, and what could be changed."""
    for line in table:
        values = _evals(evaluations, line["name"])
        best = min(values, key=lambda item: item[1]) if values else None
        if best and len(values) > 3 and all(value > RISEN * best[1] for _, value in values[-2:]):
            return (
                f"{line['name']} overfits since step {best[0]:,}: its evaluation loss rises again. Cap it with "
                "max_epochs, give it less weight, or use that checkpoint."
            )
    paced = sorted((line for line in table if line["pace"] is not None), key=lambda line: -line["pace"])
    if len(paced) > 1 and paced[-1]["pace"] > 0 and paced[0]["pace"] > FASTER * paced[-1]["pace"]:
        fast, slow = paced[0], paced[-1]
        ratio = fast["pace"] / slow["pace"]
        weight = max(0.1, round(1 / math.sqrt(ratio), 1))
        weighted = any(line["factor"] is not None for line in table)
        words = (
            f"{fast['name']} converges {ratio:.1f}x faster than {slow['name']}; consider {weight:g} times its weight"
        )
        return f"{words}." if weighted else f"{words}, or the weighting `coba`."
    stuck = [line["name"] for line in paced if line["pace"] <= 0]
    if stuck:
        return f"{stuck[0]} does not improve: more weight, a higher learning rate or other data may help."
    if len(paced) > 1:
        return "All tasks converge at a similar pace."
    return "How the tasks compare is told after the second evaluation."


def _line(
    name: str, losses: Sequence[float | None], rows: Table, evaluations: Sequence[Row], names: Sequence[str]
) -> dict[str, Any]:
    known = [value for value in losses if value is not None]
    loss_total = sum(_total(rows, other, "weight") for other in names)
    row_total = sum(_total(rows, other, "num_rows") for other in names)
    return {
        "name": name,
        "relative": known[-1] / known[0] if known and known[0] else None,
        "pace": _pace(_evals(evaluations, name)),
        "loss_share": _total(rows, name, "weight") / loss_total if loss_total else None,
        "row_share": _total(rows, name, "num_rows") / row_total if row_total else None,
        "factor": _last(rows.column(task_key(name, "factor")).tolist()),
        "slope": _last([row.get(task_key(name, "slope")) for row in evaluations]),
        "probability": _last(rows.column(task_key(name, "mean_token_probability")).tolist()),
    }


def _pace(values: Sequence[tuple[int, float]]) -> float | None:
    """Return how fast an evaluation loss falls: the decline of its logarithm per 100 steps, since the start."""
    if len(values) < 2 or values[0][1] <= 0 or values[-1][1] <= 0:
        return None
    (first, start), (last, end) = values[0], min(values, key=lambda item: item[1])
    if last == first:
        return 0.0
    return math.log(start / end) / (last - first) * 100


def _evals(evaluations: Sequence[Row], name: str) -> list[tuple[int, float]]:
    found = [(row["step"], row.get(task_key(name, "eval_loss"))) for row in evaluations]
    return [(step, float(value)) for step, value in found if isinstance(value, (int, float))]


def _losses(rows: Table, name: str, starts: Starts) -> list[float | None]:
    """Return the mean loss of each bin, by supervised tokens; None where the task was absent."""
    loss = rows.column(task_key(name, "loss")).astype(np.float64)
    tokens = np.nan_to_num(rows.column(task_key(name, "num_tokens")).astype(np.float64))
    tokens[~np.isfinite(loss)] = 0.0
    total = np.add.reduceat(tokens, starts)
    summed = np.add.reduceat(np.where(tokens > 0, loss, 0.0) * tokens, starts)
    return [float(part) / float(whole) if whole else None for part, whole in zip(summed, total, strict=True)]


def _relative(losses: Sequence[float | None]) -> list[float | None]:
    start = next((value for value in losses if value), None)
    return [value / start if value is not None and start else None for value in losses]


def _sums(rows: Table, name: str, what: str, starts: Starts) -> list[float]:
    values = np.nan_to_num(rows.column(task_key(name, what)).astype(np.float64))
    return [float(value) for value in np.add.reduceat(values, starts)]


def _lasts(values: Column, starts: Starts) -> list[float | None]:
    """Return the last number of each bin, None where it holds none."""
    return [_last(part.tolist()) for part in np.split(values, starts[1:])]


def _any_number(columns: Sequence[Sequence[float | None]]) -> bool:
    return any(value is not None for column in columns for value in column)


def _total(rows: Table, name: str, what: str) -> float:
    return float(np.nansum(rows.column(task_key(name, what)), dtype=np.float64))


def _shares(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total if total else 0.0 for value in values]


def _last(values: Sequence[Any]) -> float | None:
    return next((float(v) for v in reversed(values) if isinstance(v, (int, float)) and v == v), None)
