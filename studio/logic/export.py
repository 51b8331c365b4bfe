"""The Export page: a checkpoint for other programs, adapters combined, results pushed or deleted; jobs of their own.

    run + checkpoint + format -> what it takes, the command, the job, what there is

One job per run at a time; it goes on when the page is closed.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.contract.combinations import COMBINATIONS
from engine.contract.errors import UserError
from engine.contract.export_formats import FORMATS, OF_MERGED, export_bytes, find_format, find_result, merged_of
from engine.contract.files import read_json, slug, tail_text
from engine.contract.models import is_local_path
from engine.contract.places import DataRoot, free_bytes
from engine.contract.rundir import RunDir, open_run
from engine.contract.serving import snippets
from engine.contract.speakers import BASE, runs_on_the_same_base, speakers_of
from engine.launch.jobs import JobStatus, start_job
from studio.logic.model_choice import look_up

GIB = 2**30
PLACES = (("merged", "merge.json"), ("exports", "export.json"), ("adapters", "export.json"))
FACTS = {
    "checkpoint": "Checkpoint",
    "made_of": "Made of",
    "combined": "Combined by",
    "difference_from_sum": "Difference from the sum of the updates",
    "stored_in": "Stored in",
    "group_size": "Weights that share a scale",
    "layer_difference": "Largest difference of a layer, merged to adapter",
    "stored_layer_difference": "The same after rounding",
    "stored_mean_logit_difference": "Mean logit difference, merged to adapter",
    "stored_max_logit_difference": "Largest logit difference, merged to adapter",
    "stored_same_greedy_tokens": "Same words when answering greedily, merged to adapter",
    "stored_changed_token_lead": "Lead of a first changed word in logits, at most, merged to adapter",
    "mean_logit_difference": "Mean logit difference, this to merged",
    "relative_logit_difference": "The same as a share of their spread",
    "same_greedy_tokens": "Same words when answering greedily, this to merged",
    "changed_token_lead": "Lead of a first changed word in logits, at most, this to merged",
    "seconds": "Seconds it took",
    "time": "Made at",
}
"""What the page tells of merge.json and export.json, in this order."""
STEPS = {"export": "Exporting", "combine": "Combining", "push": "Pushing"}


def look(root: DataRoot, run_id: str, checkpoint: str, key: str = "merged") -> dict[str, Any]:
    """Return the state of the exports of a run, JSON-ready."""
    if not run_id:
        return {"empty": "No run has a checkpoint yet. Train one first."}
    try:
        run = open_run(root.runs, run_id)
        recipe = run.recipe()
        form = find_format(key)
    except UserError as error:
        return {"empty": error.problem}
    first = key in OF_MERGED and bool(checkpoint) and merged_of(run, checkpoint) is None
    size = _bytes(run, checkpoint, key, root) + (_bytes(run, checkpoint, "merged", root) if first else 0)
    facts = [
        ["Base model", recipe.model_name_or_path],
        ["Size of the result", f"about {_size(size)}" if size else "unknown until the model is here"],
        ["Free disk", _size(free_bytes(run.path))],
    ]
    words = ["python", "-m", "engine", "export", run.id, "--format", key, "--checkpoint", checkpoint or "latest"]
    missing = form.rounding and importlib.util.find_spec("auto_round") is None
    return {
        "about": form.text,
        "facts": facts,
        "first": first,
        "needs": "pip install -r requirements-export.txt" if missing else "",
        "command": shlex.join(words),
        "job": _job(run, JobStatus.read(_status_file(run))),
        "results": [
            _result(run, kind, file)
            for kind, name in PLACES
            for file in sorted((run.path / kind).glob(f"*/{name}"))
            if not file.parent.name.startswith(".")
        ],
    }


def format_choices() -> list[tuple[str, str]]:
    """Return (title, key) of the formats."""
    return [(form.title, form.key) for form in FORMATS.values()]


def method_choices() -> list[tuple[str, str]]:
    """Return (name and what it is, name) of the ways to combine adapters."""
    return [(f"{name}: {text}", name) for name, text in COMBINATIONS.items()]


def source_choices(root: DataRoot, run_id: str) -> list[str]:
    """Return what of a run can be exported: checkpoints, the newest first, and combined adapters."""
    if not run_id:
        return []
    names = [speaker.name for speaker in speakers_of(open_run(root.runs, run_id)) if speaker.name != BASE]
    return [name for name in names if not name.startswith("merged/")]


def adapter_choices(root: DataRoot, run_id: str) -> list[tuple[str, str]]:
    """Return (label, RUN:CHECKPOINT) of the adapters that may go with those of a run."""
    if not run_id:
        return []
    run = open_run(root.runs, run_id)
    return [
        (f"{one.recipe().display_name} · {one.id[:15]}: {speaker.name}", f"{one.id}:{speaker.name}")
        for one in (run, *runs_on_the_same_base(root.runs, run))
        for speaker in speakers_of(one)
        if speaker.kind == "adapter"
    ]


def request_export(root: DataRoot, run_id: str, checkpoint: str, key: str, name: str) -> str:
    """Start an export as a detached job and return a sentence.

    Raises:
        UserError: If it cannot be started.
    """
    run = open_run(root.runs, run_id)
    form = find_format(key)
    if checkpoint not in source_choices(root, run_id):
        raise UserError("Choose a checkpoint first.", fix="pick one from the list.")
    short = checkpoint.removeprefix("adapters/")
    target = slug(name, fallback=f"merged-{short}" if key == "merged" else f"{short}-{key}")
    folder = {"merged": run.merged, "adapter": run.adapters}.get(key, run.exports)
    if (folder / target).exists():
        raise UserError(f"There is an export called {target} already.", fix="choose another name.")
    _start(run, ["export", str(run.path), "--format", key, "--checkpoint", checkpoint, "--output", target])
    return f"Exporting {checkpoint} as {form.title}, into {target}. You can close this page."


def request_combine(
    root: DataRoot, run_id: str, adapters: Sequence[str], method: str, weights: str, density: float, name: str
) -> str:
    """Start combining adapters and return a sentence.

    Raises:
        UserError: If it cannot be started.
    """
    run = open_run(root.runs, run_id)
    known = {value for _, value in adapter_choices(root, run_id)}
    if len(adapters) < 2 or not set(adapters) <= known:
        raise UserError("Choose two adapters or more.", fix="pick them from the list.")
    if method not in COMBINATIONS:
        raise UserError("Choose how to combine them.", fix="pick one from the list.")
    ordered = sorted(adapters, key=lambda value: not value.startswith(f"{run.id}:"))
    if weights.strip() and list(adapters) != ordered:
        raise UserError("The weights are in the order of the adapters.", fix=f"begin with an adapter of {run.id}.")
    if not ordered[0].startswith(f"{run.id}:"):
        raise UserError("The result belongs to the chosen run.", fix="choose one of its adapters too.")
    argv = ["combine", *ordered, "--method", method, "--density", str(density), f"--weights={weights.strip()}"]
    _start(run, [*argv, f"--output={slug(name, fallback='combined')}"])
    return f"Combining {len(adapters)} adapters. You can close this page."


def request_push(root: DataRoot, run_id: str, result: str, repo: str, public: bool) -> str:
    """Start a push to the hub and return a sentence.

    Raises:
        UserError: If it cannot be started.
    """
    run = open_run(root.runs, run_id)
    find_result(run, result)
    if not repo.strip() or repo.strip().startswith("-"):
        raise UserError("The repository on the hub needs a name.", fix="write `name` or `owner/name`.")
    _start(run, ["push", str(run.path), result, repo.strip(), *(["--public"] if public else [])])
    return f"Pushing {result} to {repo.strip()}. You can close this page."


def request_delete(root: DataRoot, run_id: str, result: str) -> str:
    """Move a result to the trash and return a sentence.

    Raises:
        UserError: If there is none, or a job is at work on this run.
    """
    run = open_run(root.runs, run_id)
    folder = find_result(run, result)
    job = JobStatus.read(_status_file(run))
    if job is not None and job.state == "running":
        raise UserError("An export of this run is being made.", fix="wait until it is done.")
    trash = root.path / "trash"
    trash.mkdir(mode=0o700, exist_ok=True)
    os.rename(folder, trash / f"{run.id[:40]}-{folder.name[:60]}-{time.time_ns()}")
    return f"{result} is in the trash folder of the data root."


def _start(run: RunDir, words: list[str]) -> None:
    log = _log_file(run)
    job = JobStatus.read(_status_file(run))
    if job is None or job.state != "running":
        log.unlink(missing_ok=True)  # the log of this job alone
    argv = [sys.executable, "-m", "engine", *words, "--status-file", str(_status_file(run))]
    start_job(_status_file(run), argv, log)


def _status_file(run: RunDir) -> Path:
    return run.exports / ".job.json"


def _log_file(run: RunDir) -> Path:
    return run.path / "logs" / "export.log"


def dismiss(root: DataRoot, run_id: str) -> None:
    """Forget how the last job of a run ended; one that is at work stays.

    Raises:
        UserError: If there is no such run.
    """
    run = open_run(root.runs, run_id)
    job = JobStatus.read(_status_file(run))
    if job is not None and job.state != "running":
        _status_file(run).unlink(missing_ok=True)


def _job(run: RunDir, job: JobStatus | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {
        "state": job.state,
        "phase": job.phase,
        "fraction": job.fraction,
        "problem": job.problem,
        "fix": job.fix,
        "address": str(job.result.get("address", "")),
        "log": tail_text(_log_file(run), max_lines=40) if job.state != "done" else "",
    }


def _result(run: RunDir, kind: str, file: Path) -> dict[str, Any]:
    told = read_json(file)
    told = told if isinstance(told, dict) else {}
    folder, key = file.parent, "merged" if kind == "merged" else str(told.get("format", ""))
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    facts = [["Size", _size(size)]]
    facts += [[label, told[name]] for name, label in FACTS.items() if isinstance(told.get(name), (str, int, float))]
    measured = isinstance(told.get("mean_logit_difference", told.get("stored_mean_logit_difference")), float)
    note = str(told.get("parity", ""))
    base = run.recipe().model_name_or_path
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")[:20_000]
    except (OSError, UnicodeDecodeError):
        card = ""
    return {
        "id": f"{kind}/{folder.name}",
        "name": folder.name,
        "title": FORMATS[key].title if key in FORMATS else kind,
        "compared": measured,
        "note": note,
        "path": str(folder),
        "facts": facts,
        "card": card,
        "snippets": snippets(str(folder), key if key in FORMATS else "merged", base, files=folder),
        "repo": f"{slug(run.recipe().display_name, fallback='model')[:40]}-{folder.name}"[:90],
        "local_base": is_local_path(base),
    }


def _bytes(run: RunDir, checkpoint: str, key: str, root: DataRoot) -> int:
    """About how large a result will be; 0 if that cannot be told."""
    recipe = run.recipe()
    if key == "adapter":
        folder = run.path / checkpoint if checkpoint.startswith("adapters/") else run.checkpoints / checkpoint
        file = folder / "adapter_model.safetensors"
        return file.stat().st_size if file.is_file() else 0
    config = look_up(recipe.model_name_or_path, recipe.model.revision, root).config
    return export_bytes(config, FORMATS[key]) if config else 0


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
