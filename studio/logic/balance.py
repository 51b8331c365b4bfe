"""How the tasks of a run pull: relative loss, shares of rows and loss, factors, slopes, and one sentence about it.

    rows of metrics -> at most `BINS` bins of equal width -> series per task; evaluations -> pace, overfitting -> words

Pure arithmetic over what the run recorded; a bin's loss is weighted by supervised tokens, so a bin is never an average
of averages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.contract.metrics import task_key

BINS = 120
FASTER = 1.5
"""A task is called faster than another from this ratio of their paces on."""
RISEN = 1.02
"""Evaluation loss above its minimum by this factor, at two evaluations in a row, is called overfitting."""

Row = Mapping[str, Any]


def balance(rows: Sequence[Row], evaluations: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    """Return what the Balance tab shows, JSON-ready.

    Args:
        rows: Training rows in the order of their steps.
        evaluations: Rows that hold `eval/loss`, likewise.
        names: The tasks.
    """
    if not rows:
        return {
            "step": [],
            "names": list(names),
            "table": [],
            "sentence": "The first numbers appear after the first step.",
        }
    width = -(-len(rows) // BINS)
    bins = [rows[start : start + width] for start in range(0, len(rows), width)]
    losses = {name: [_loss(part, name) for part in bins] for name in names}
    shares = [_shares([_total(part, name, "weight") for name in names]) for part in bins]
    seen = [_shares([_total(part, name, "num_rows") for name in names]) for part in bins]
    factors = [[_last(part, task_key(name, "factor")) for name in names] for part in bins]
    table = [_line(name, losses[name], rows, evaluations, names) for name in names]
    return {
        "step": [part[-1]["step"] for part in bins],
        "names": list(names),
        "relative": [_relative(losses[name]) for name in names],
        "loss_share": shares,
        "row_share": seen,
        "factor": factors if any(value is not None for row in factors for value in row) else [],
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
    name: str, losses: Sequence[float | None], rows: Sequence[Row], evaluations: Sequence[Row], names: Sequence[str]
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
        "factor": _last(rows, task_key(name, "factor")),
        "slope": _last(evaluations, task_key(name, "slope")),
        "probability": _last(rows, task_key(name, "mean_token_probability")),
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


def _loss(rows: Sequence[Row], name: str) -> float | None:
    """Return the mean loss of a bin, by supervised tokens; None where the task was absent."""
    pairs = [(row.get(task_key(name, "loss")), row.get(task_key(name, "num_tokens"))) for row in rows]
    known = [(loss, tokens) for loss, tokens in pairs if isinstance(loss, (int, float)) and tokens]
    total = sum(tokens for _, tokens in known)
    return sum(loss * tokens for loss, tokens in known) / total if total else None


def _relative(losses: Sequence[float | None]) -> list[float | None]:
    start = next((value for value in losses if value), None)
    return [value / start if value is not None and start else None for value in losses]


def _total(rows: Sequence[Row], name: str, what: str) -> float:
    values = (row.get(task_key(name, what)) for row in rows)
    return float(sum(value for value in values if isinstance(value, (int, float))))


def _shares(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total if total else 0.0 for value in values]


def _last(rows: Sequence[Row], key: str) -> float | None:
    return next((float(row[key]) for row in reversed(rows) if isinstance(row.get(key), (int, float))), None)
