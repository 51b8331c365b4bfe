"""The Evaluate page: what was measured of a run's models as a table, samples side by side, and the job that measures.

eval/*.json of a run, and of another to compare with -> matrix -> cells with sign, word and interval
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.contract.best import best_checkpoint
from engine.contract.errors import UserError
from engine.contract.eval_export import Format, export
from engine.contract.eval_matrix import (
    RETENTION,
    Cell,
    Column,
    Row,
    build_matrix,
    columns_of,
    forgotten,
    sheets_of,
    shown,
)
from engine.contract.eval_metrics import SCORERS, Measure, measure_of
from engine.contract.eval_results import BASE, EvalResult, read_results
from engine.contract.files import tail_text
from engine.contract.places import DataRoot
from engine.contract.rundir import ProcessId, RunDir, open_run
from engine.launch.command import display_command
from engine.launch.jobs import JobStatus, start_job
from engine.launch.processes import send_signal
from studio.logic import published

MOST_SAMPLES = 50
_Stamp = tuple[tuple[str, int], ...]
"""Names and times of the files of results."""
SIGNS = {"better": "+", "worse": "−", "no difference shown": "="}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the form asks for."""

    checkpoints: tuple[str, ...] = ()
    """Empty = all."""
    tasks: tuple[str, ...] = ()
    """Empty = all."""
    scorers: tuple[str, ...] | None = None
    """None = as the recipe says."""
    num_examples: int | None = None
    retention: str = ""
    own_answers: bool = False
    """Whether the retention data are compared with the base model's own answers."""
    harness: str = ""
    """Tasks of lm-evaluation-harness, with commas."""
    humaneval: bool = False


def look(root: DataRoot, run_id: str, against: str = "") -> dict[str, Any]:
    """Return what is known of a run, JSON-ready.

    Args:
        root: The data root.
        run_id: The run.
        against: Another run whose models are shown beside; empty = none.
    """
    if not run_id:
        return {"empty": "No run has a checkpoint yet. Train one first."}
    try:
        run = open_run(root.runs, run_id)
        columns = _columns(root, run, against)
    except UserError as error:
        return {"empty": error.problem}
    matrix = build_matrix(columns)
    kinds = {(r.inputs.dataset, r.inputs.kind): None for c in columns for r in c.results if r.inputs.kind != "loss"}
    return {
        "run": run_id,
        "against": against,
        "columns": list(matrix.columns),
        "rows": [_row(row) for row in matrix.rows],
        "published": published.beside(matrix),
        "samples": [list(place) for place in kinds],
        "forgot": [_forgot(label, measures) for label, measures in forgotten(matrix).items()],
        "job": _job(run),
    }


def choices(root: DataRoot, run_id: str) -> tuple[list[str], list[str], list[str]]:
    """Return the checkpoints and merged models, the tasks, and the scorers that the recipe names.

    Raises:
        UserError: If there is no such run.
    """
    run = open_run(root.runs, run_id)
    recipe = run.recipe()
    merged = [f"merged/{path.parent.name}" for path in sorted(run.merged.glob("*/merge.json"))]
    steps = [path.name for path in reversed(run.checkpoint_dirs())]
    return [*steps, *merged], [task.name for task in recipe.tasks], list(recipe.evaluate.scorers)


def default_checkpoint(root: DataRoot, run_id: str) -> str:
    """Return the checkpoint to measure first: the best one, else the newest; empty if there is none."""
    run = open_run(root.runs, run_id)
    best = best_checkpoint(run) or next(reversed(run.checkpoint_dirs()), None)
    return best.name if best else ""


def scorer_choices() -> list[tuple[str, str]]:
    """Return (label, name) of the scorers that need no server."""
    return [(measure_of(name).label, name) for name in SCORERS if name != "judge"]


def command(run: RunDir, asked: Asked) -> list[str]:
    """Return the arguments after `evaluate` that do what the form asks."""
    found = [str(run.path)]
    if asked.checkpoints:
        found.append(f"--checkpoints={','.join(asked.checkpoints)}")
    if asked.tasks:
        found.append(f"--tasks={','.join(asked.tasks)}")
    if asked.scorers is not None:
        found.append(f"--scorers={','.join(asked.scorers)}")
    if asked.num_examples:
        found.append(f"--num-examples={asked.num_examples}")
    if asked.retention:
        found.append(f"--retention={asked.retention}")
        found.append(f"--retention-answers={'base' if asked.own_answers else 'given'}")
    if asked.harness:
        found.append(f"--lm-eval={asked.harness}")
    if asked.humaneval:
        found.append("--humaneval")
    return found


def command_line(root: DataRoot, run_id: str, asked: Asked) -> str:
    """Return the same as one line for a terminal, empty if there is no such run."""
    try:
        return display_command(["python", "-m", "engine", "evaluate", *command(open_run(root.runs, run_id), asked)])
    except UserError:
        return ""


def request_evaluation(root: DataRoot, run_id: str, asked: Asked) -> str:
    """Start the evaluation as a detached job and return a sentence.

    Raises:
        UserError: If it cannot be started.
    """
    run = open_run(root.runs, run_id)
    if not run.checkpoint_dirs():
        raise UserError("This run has no checkpoint yet.", fix="wait for the first one.")
    argv = [sys.executable, "-m", "engine", "evaluate", *command(run, asked)]
    run.evaluations.mkdir(exist_ok=True)
    start_job(_status_file(run), [*argv, f"--status-file={_status_file(run)}"], _log_file(run))
    return "The evaluation has started. You can close this page."


def request_stop(root: DataRoot, run_id: str) -> str:
    """Ask a running evaluation to end and return a sentence.

    Raises:
        UserError: If none runs.
    """
    job = JobStatus.read(_status_file(open_run(root.runs, run_id)))
    process = ProcessId.read(job.process) if job and job.state == "running" else None
    if process is None or not send_signal(process, signal.SIGTERM):
        raise UserError("No evaluation of this run is under way.", fix="start one.")
    return "The evaluation ends. What is measured is kept; the next one goes on from there."


def samples(root: DataRoot, run_id: str, dataset: str, kind: str, against: str = "") -> dict[str, Any]:
    """Return the first answers to the prompts of a data set, of all models side by side.

    Raises:
        UserError: If there is no such run.
    """
    columns = _columns(root, open_run(root.runs, run_id), against)
    sheet = sheets_of(columns, dataset, kind) or []
    known = next((result for result in sheet if result is not None), None)
    if known is None:
        return {"columns": [], "examples": []}
    places = [{e.id: n for n, e in enumerate(result.examples)} if result else {} for result in sheet]
    examples = []
    for example in known.examples[:MOST_SAMPLES]:
        answers = [
            _answer(result, place[example.id]) if result is not None and example.id in place else None
            for result, place in zip(sheet, places, strict=True)
        ]
        examples.append({"prompt": example.prompt, "reference": example.reference, "answers": answers})
    return {"columns": [column.label for column in columns], "examples": examples, "all": len(known.examples)}


def table(root: DataRoot, run_id: str, form: Format, against: str = "") -> str:
    """Return the table for a file.

    Raises:
        UserError: If there is no such run.
    """
    run = open_run(root.runs, run_id)
    matrix = build_matrix(_columns(root, run, against))
    return export(matrix, form, title=f"Run {run.id}, {run.recipe().display_name}.")


def forgetting(run: RunDir) -> list[str]:
    """Return sentences about what the models of a run forgot, empty if nothing is known or shown."""
    return list(_forgetting(run.evaluations, _stamp(run))) if run.evaluations.is_dir() else []


@lru_cache(maxsize=16)
def _forgetting(folder: Path, stamp: _Stamp) -> tuple[str, ...]:
    retained = [result for result in _read(folder, stamp) if result.inputs.dataset == RETENTION]
    found = forgotten(build_matrix(columns_of(retained)))
    return tuple(_forgot(label, measures) for label, measures in found.items())


def _stamp(run: RunDir) -> _Stamp:
    files = []
    for path in run.evaluations.glob("[!.]*.json"):
        try:
            files.append((path.name, path.stat().st_mtime_ns))
        except OSError:  # replaced this moment
            continue
    return tuple(sorted(files))


@lru_cache(maxsize=16)
def _read(folder: Path, _: _Stamp) -> list[EvalResult]:
    """Read the results again only when a file came or changed."""
    return read_results(folder)


def _columns(root: DataRoot, run: RunDir, against: str) -> list[Column]:
    mine = columns_of(_read(run.evaluations, _stamp(run)))
    if not against or against == run.id:
        return mine
    other = open_run(root.runs, against)
    beside = [column for column in columns_of(_read(other.evaluations, _stamp(other))) if column.label != BASE]
    return [*mine, *(Column(label=f"{other.id}: {column.label}", results=column.results) for column in beside)]


def _row(row: Row) -> dict[str, Any]:
    return {
        "dataset": row.dataset,
        "retention": row.dataset == RETENTION,
        "measure": row.measure.label,
        "help": row.measure.help,
        "better": row.measure.better,
        "num_examples": row.num_examples,
        "cells": [_cell(row.measure, cell, forgets=row.dataset == RETENTION) for cell in row.cells],
    }


def _cell(measure: Measure, cell: Cell | None, *, forgets: bool) -> dict[str, Any] | None:
    if cell is None:
        return None
    told: dict[str, Any] = {
        "value": shown(measure, cell.found.value),
        "interval": f"[{shown(measure, cell.found.low)}, {shown(measure, cell.found.high)}]",
    }
    if cell.change is not None and cell.verdict is not None:
        scale, digits = (100, 1) if measure.percent else (1, 3)
        low, high = scale * cell.change.low, scale * cell.change.high
        tone = {"better": "good", "worse": "bad" if forgets else "warn"}.get(cell.verdict, "")
        told |= {
            "sign": SIGNS[cell.verdict],
            "word": "forgotten" if forgets and cell.verdict == "worse" else cell.verdict,
            "tone": tone,
            "change": f"[{low:+.{digits}f}, {high:+.{digits}f}]".replace("-", "−"),
        }
    return told


def _forgot(label: str, measures: Sequence[str]) -> str:
    return f"{label} forgot something: it is worse than the base model on the retention data ({', '.join(measures)})."


def _answer(result: EvalResult, place: int) -> dict[str, Any]:
    example = result.examples[place]
    scores = [
        [measure_of(name).label, shown(measure_of(name), scores.values[place] / scores.counts[place])]
        for name, scores in result.scores.items()
        if scores.counts[place]
    ]
    told = {"text": example.prediction, "end": example.end, "num_tokens": example.num_tokens}
    return {**told, "scores": scores, "notes": list(example.notes.values())}


def _status_file(run: RunDir) -> Path:
    return run.evaluations / ".job.json"


def _log_file(run: RunDir) -> Path:
    return run.path / "logs" / "evaluate.log"


def _job(run: RunDir) -> dict[str, Any] | None:
    job = JobStatus.read(_status_file(run))
    if job is None:
        return None
    broken = job.state in ("failed", "lost") and job.phase != "stopped"
    return {
        "state": "stopped" if job.phase == "stopped" else job.state,
        "phase": job.phase,
        "fraction": job.fraction,
        "problem": job.problem,
        "fix": job.fix,
        "log": tail_text(_log_file(run), max_lines=40) if broken else "",
    }
