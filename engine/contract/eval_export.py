"""The matrix as JSON, CSV, a Markdown table, and a section of a model card."""

from __future__ import annotations

import csv
import io
import json
from typing import Literal

from engine.contract.eval_matrix import Cell, Matrix, matrix_json, shown
from engine.contract.eval_metrics import Measure

Format = Literal["json", "csv", "markdown", "card"]
SIGNS = {"better": "+", "worse": "-", "no difference shown": "="}
LEGEND = (
    "+ better and - worse than the first column, = no difference shown: paired bootstrap over the same examples, "
    "95 % of each comparison by itself, on at least 5 examples. Scores in percent."
)


def export(matrix: Matrix, form: Format, *, title: str = "") -> str:
    """Return the matrix as text.

    Args:
        matrix: What to write.
        form: json, csv, markdown, or card: the Markdown table under a heading, for a model card.
        title: What the card's section says it is about.
    """
    if form == "json":
        return json.dumps(matrix_json(matrix), indent=1, ensure_ascii=False) + "\n"
    if form == "csv":
        return _csv(matrix)
    table = _markdown(matrix)
    return table if form == "markdown" else f"## Evaluation\n\n{title}\n\n{table}\n{LEGEND}\n"


def cell_text(measure: Measure, cell: Cell | None) -> str:
    """Return a cell in one line: value, sign, and by how much it differs."""
    if cell is None:
        return ""
    if cell.change is None or cell.verdict is None:
        return f"{shown(measure, cell.found.value)} [{_span(measure, cell.found.low, cell.found.high)}]"
    scale = 100 if measure.percent else 1
    digits = 1 if measure.percent else 3
    low, high = scale * cell.change.low, scale * cell.change.high
    sign = SIGNS[cell.verdict]
    return f"{shown(measure, cell.found.value)} {sign} ({low:+.{digits}f} to {high:+.{digits}f})"


def _span(measure: Measure, low: float, high: float) -> str:
    return f"{shown(measure, low)} to {shown(measure, high)}"


def _markdown(matrix: Matrix) -> str:
    head = ["data", "measure", "n", *matrix.columns]
    lines = [head, ["---", "---", "--:", *["---"] * len(matrix.columns)]]
    for row in matrix.rows:
        cells = [cell_text(row.measure, cell) for cell in row.cells]
        lines.append([row.dataset, row.measure.label, str(row.num_examples), *cells])
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def _csv(matrix: Matrix) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("value", "low", "high", "difference", "difference_low", "difference_high", "verdict")
    writer.writerow(["dataset", "measure", "num_examples", "model", *names])
    for row in matrix.rows:
        for label, cell in zip(matrix.columns, row.cells, strict=True):
            if cell is None:
                continue
            change = cell.change
            numbers = [cell.found.value, cell.found.low, cell.found.high]
            numbers += [change.value, change.low, change.high] if change else ["", "", ""]  # type: ignore[list-item]
            told = [row.dataset, row.measure.name, row.num_examples, _plain(label), *numbers, cell.verdict or ""]
            writer.writerow(told)
    return out.getvalue()


def _plain(label: str) -> str:
    """Keep a spreadsheet from taking a name for a formula."""
    return f"'{label}" if label[:1] in ("=", "+", "-", "@") else label
