"""Results -> the matrix: data x measure in rows, models in columns, each compared with the first on the same examples.

    columns (label, results) -> rows of cells: value, interval, difference to the first column, verdict

Only results with the same key are compared: the newest key of each (data, kind) that the first column has, else of any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.contract.bootstrap import Interval, Verdict, difference, interval, verdict
from engine.contract.eval_metrics import Measure, measure_of
from engine.contract.eval_results import BASE, EvalResult, Scores

RETENTION = "retention"
"""The data set that shows what was forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One model."""

    label: str
    results: tuple[EvalResult, ...]
    """Of this model, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number."""

    found: Interval
    change: Interval | None = None
    """Against the first column; None in that column, or where the examples differ."""
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure of one data set."""

    dataset: str
    measure: Measure
    num_examples: int
    cells: tuple[Cell | None, ...]
    """One per column; None = not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The whole table."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


def columns_of(results: Sequence[EvalResult]) -> list[Column]:
    """Return a column per subject of one run: base, checkpoints by step, merged models."""
    subjects = sorted({result.inputs.subject for result in results}, key=_subject_order)
    return [
        Column(label=subject, results=tuple(result for result in results if result.inputs.subject == subject))
        for subject in subjects
    ]


def build_matrix(columns: Sequence[Column]) -> Matrix:
    """Compare every column with the first."""
    rows = [row for sheet in _sheets(columns) for row in _rows(sheet)]
    return Matrix(columns=tuple(column.label for column in columns), rows=tuple(rows))


def sheets_of(columns: Sequence[Column], dataset: str, kind: str) -> list[EvalResult | None] | None:
    """Return the comparable results of one kind on one data set, one per column; None if there are none."""
    return next((s for s in _sheets(columns) if _place(next(filter(None, s))) == (dataset, kind)), None)


def _subject_order(subject: str) -> tuple[int, str]:
    return (0 if subject == BASE else 1 if subject.startswith("step-") else 2), subject


def _place(result: EvalResult) -> tuple[str, str]:
    return result.inputs.dataset, result.inputs.kind


def _sheets(columns: Sequence[Column]) -> Iterator[list[EvalResult | None]]:
    """Yield, for each data set and kind, the results that can be compared, one per column."""
    places = {_place(result): None for column in columns for result in column.results}
    order = {"loss": 0, "answers": 1}
    for place in sorted(places, key=lambda p: (p[0] == RETENTION, p[0], order.get(p[1], 2), p[1])):
        per_column = [[result for result in column.results if _place(result) == place] for column in columns]
        newest = next((part[-1] for part in per_column if part), None)
        if newest is not None:
            key = newest.inputs.key
            yield [next((r for r in reversed(part) if r.inputs.key == key), None) for part in per_column]


def _rows(sheet: Sequence[EvalResult | None]) -> Iterator[Row]:
    known = next(filter(None, sheet))
    for name in {name: None for result in sheet if result for name in result.scores}:
        for measure in (measure_of(name), *([measure_of("perplexity")] if name == "loss" else [])):
            row = _row(sheet, name, known.inputs.dataset, measure)
            if row.num_examples:  # it applies to some example
                yield row


def _row(sheet: Sequence[EvalResult | None], name: str, dataset: str, measure: Measure) -> Row:
    transform = np.exp if measure.name == "perplexity" else None
    first, most = sheet[0], 0
    cells: list[Cell | None] = []
    for number, result in enumerate(sheet):
        scores = result.scores.get(name) if result else None
        found = interval(scores, transform) if scores else None
        if result is None or scores is None or found is None:
            cells.append(None)
            continue
        most = max(most, sum(count > 0 for count in scores.counts))
        pair = _paired(result, first, name) if number and first is not None else None
        change = difference(*pair, transform) if pair else None
        used = sum(a > 0 < b for a, b in zip(pair[0].counts, pair[1].counts, strict=True)) if pair else 0
        said = verdict(change, measure.better, used) if change else None
        cells.append(Cell(found=found, change=change, verdict=said))
    return Row(dataset=dataset, measure=measure, num_examples=most, cells=tuple(cells))


def _paired(result: EvalResult, reference: EvalResult, name: str) -> tuple[Scores, Scores] | None:
    """Return the scores of the examples that both have, in one order."""
    if name not in reference.scores:
        return None
    place = {example.id: number for number, example in enumerate(reference.examples)}
    both = [(number, place[e.id]) for number, e in enumerate(result.examples) if e.id in place]
    return _picked(result.scores[name], [a for a, _ in both]), _picked(reference.scores[name], [b for _, b in both])


def _picked(scores: Scores, places: Sequence[int]) -> Scores:
    return Scores(values=tuple(scores.values[i] for i in places), counts=tuple(scores.counts[i] for i in places))


def forgotten(matrix: Matrix) -> dict[str, list[str]]:
    """Return {column: measures} in which a model is worse than the first column on the retention data."""
    found: dict[str, list[str]] = {}
    for row in matrix.rows:
        for label, cell in zip(matrix.columns, row.cells, strict=True):
            if row.dataset == RETENTION and cell is not None and cell.verdict == "worse":
                found.setdefault(label, []).append(row.measure.label)
    return found


def shown(measure: Measure, value: float) -> str:
    """Return a value as people read it."""
    return f"{100 * value:.1f}" if measure.percent else f"{value:.3f}"


def matrix_json(matrix: Matrix) -> dict[str, Any]:
    """Return the matrix JSON-ready, numbers as they are."""
    return {
        "columns": list(matrix.columns),
        "rows": [
            {
                "dataset": row.dataset,
                "measure": row.measure.name,
                "better": row.measure.better,
                "num_examples": row.num_examples,
                "cells": {
                    label: _cell_json(cell)
                    for label, cell in zip(matrix.columns, row.cells, strict=True)
                    if cell is not None
                },
            }
            for row in matrix.rows
        ],
    }


def _cell_json(cell: Cell) -> Mapping[str, Any]:
    told: dict[str, Any] = {"value": cell.found.value, "interval": [cell.found.low, cell.found.high]}
    if cell.change is not None:
        change = {"value": cell.change.value, "interval": [cell.change.low, cell.change.high]}
        told |= {"difference": change, "verdict": cell.verdict}
    return told
