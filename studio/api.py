"""JSON routes for what moves: the header and the live run.  Reads only; they cost the training nothing.

Gradio's own events carry what people do; these carry what pages poll, without a queue in between.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from engine.contract.errors import UserError
from engine.contract.files import read_rows, tail_text
from engine.contract.rundir import RunDir, open_run
from studio.access.gate import USER_KEY
from studio.context import StudioContext
from studio.head import COLORS
from studio.logic import datasets, evaluate, home, run_samples
from studio.logic.colors import known_colors, task_colors
from studio.logic.history import CHUNK
from studio.logic.run import RunWatcher
from studio.logic.run_failure import report_text
from studio.logic.run_log import read_log

DOWNLOAD_LINES = 100_000


def add_routes(app: FastAPI, context: StudioContext) -> None:
    """Add `/studio/api/*` to the application."""
    watcher = RunWatcher(context.root)
    _add_file_routes(app, context)
    _add_evaluation_routes(app, context)
    _add_run_streams(app, context)

    @app.get("/studio/api/header.json")
    def header(request: Request) -> Response:
        return _json({**asdict(home.header(context.root)), "user": request.scope.get(USER_KEY, "")})

    @app.get(COLORS)
    def colors() -> Response:
        known = json.dumps(shown_colors(context))
        text = f"window.studioColors = new Map(Object.entries(JSON.parse({json.dumps(known)})));"
        return Response(text, media_type="text/javascript", headers={"cache-control": "no-store"})

    @app.get("/studio/api/run.json")
    def run(id: str = "", cursor: str = "") -> Response:
        try:
            return _json(watcher.look(id, cursor=cursor))
        except UserError as error:
            return _json({"missing": error.problem, "fix": error.fix})

    @app.get("/studio/api/detail.json")
    def detail(id: str = "", axis: str = "step", low: float = 0.0, high: float = 0.0) -> Response:
        try:
            return _json(watcher.detail(id, axis=axis, low=low, high=high))
        except UserError as error:
            return _json({"missing": error.problem, "fix": error.fix})


def _add_run_streams(app: FastAPI, context: StudioContext) -> None:
    """What a run writes line by line, from an offset on."""

    @app.get("/studio/api/log.json")
    def log_lines(id: str = "", offset: int = -1) -> Response:
        try:
            return _json(read_log(open_run(context.root.runs, id), offset))
        except UserError as error:
            return _json({"missing": error.problem, "fix": error.fix})

    @app.get("/studio/api/run_samples.json")
    def samples(id: str = "", offset: int = 0) -> Response:
        try:
            return _json(run_samples.look(open_run(context.root.runs, id), offset))
        except UserError as error:
            return _json({"missing": error.problem, "fix": error.fix})


def shown_colors(context: StudioContext) -> dict[str, int]:
    """Return the colour of every task known so far; those on the Datasets page have one from the start."""
    task_colors(context.root, (row.name for row in datasets.look(context.root, context.project).rows))
    return known_colors(context.root)


def _add_file_routes(app: FastAPI, context: StudioContext) -> None:
    @app.get("/studio/api/metrics.csv")
    def metrics(id: str = "") -> Response:
        try:
            lines = metrics_csv(open_run(context.root.runs, id))
        except UserError as error:
            return PlainTextResponse(error.problem, status_code=404)
        headers = {"content-disposition": 'attachment; filename="metrics.csv"'}
        return StreamingResponse(lines, media_type="text/csv", headers=headers)

    @app.get("/studio/api/report.txt")
    def report(id: str = "") -> Response:
        try:
            return PlainTextResponse(report_text(open_run(context.root.runs, id)))
        except UserError as error:
            return PlainTextResponse(error.problem, status_code=404)

    @app.get("/studio/api/log.txt")
    def log(id: str = "") -> Response:
        try:
            text = tail_text(open_run(context.root.runs, id).log_file, max_lines=DOWNLOAD_LINES, max_bytes=64 * 2**20)
        except UserError as error:
            return PlainTextResponse(error.problem, status_code=404)
        return PlainTextResponse(text, headers={"content-disposition": 'attachment; filename="train.log"'})


def _add_evaluation_routes(app: FastAPI, context: StudioContext) -> None:
    @app.get("/studio/api/samples.json")
    def samples(id: str = "", dataset: str = "", kind: str = "", against: str = "") -> Response:
        try:
            return _json(evaluate.samples(context.root, id, dataset, kind, against))
        except UserError as error:
            return _json({"columns": [], "examples": [], "missing": error.problem})

    @app.get("/studio/api/evaluation")
    def evaluation(id: str = "", against: str = "", form: str = "json") -> Response:
        suffix = {"json": "json", "csv": "csv", "markdown": "md", "card": "md"}.get(form)
        try:
            if suffix is None:
                raise UserError("There is no such format.", fix="use json, csv, markdown or card.")
            text = evaluate.table(context.root, id, form, against)  # type: ignore[arg-type]
        except UserError as error:
            return PlainTextResponse(error.problem, status_code=404)
        name = f'attachment; filename="evaluation.{suffix}"'
        return PlainTextResponse(text, headers={"content-disposition": name})


def metrics_csv(run: RunDir) -> Iterator[str]:
    """Yield every row of a run's metrics as CSV, a part at a time; a cell is empty where a row lacks the metric."""
    columns = list(dict.fromkeys(key for rows in _metric_rows(run) for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    yield text.getvalue()
    for rows in _metric_rows(run):
        text.seek(0)
        text.truncate()
        writer.writerows(rows)
        yield text.getvalue()


def _metric_rows(run: RunDir) -> Iterator[list[dict[str, Any]]]:
    offset, before = 0, -1
    while offset > before:
        before = offset
        rows, offset = read_rows(run.metrics_file, offset, max_bytes=CHUNK, parse=orjson.loads)
        yield rows


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json", headers={"cache-control": "no-store"})
