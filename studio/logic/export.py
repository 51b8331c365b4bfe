"""The Export page: merge a checkpoint into its base model, in a process of its own, and show how it went."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import read_json, slug, tail_text
from engine.contract.places import DataRoot, free_bytes
from engine.contract.rundir import RunDir, open_run
from engine.launch.jobs import JobStatus, start_job
from studio.logic.model_choice import look_up

GIB = 2**30
FACTS = {
    "checkpoint": "Checkpoint",
    "base_model": "Base model",
    "stored_in": "Stored in",
    "layer_difference": "Largest difference of a layer, merged to adapter",
    "stored_layer_difference": "The same after rounding",
    "stored_mean_logit_difference": "Mean logit difference, stored to adapter",
    "stored_max_logit_difference": "Largest logit difference, stored to adapter",
    "stored_same_greedy_tokens": "Same words when answering greedily",
    "parity": "Parity",
    "time": "Merged at",
}
"""What the page tells of `merge.json`, in this order."""


def look(root: DataRoot, run_id: str, checkpoint: str) -> dict[str, Any]:
    """Return the state of the export of a run, JSON-ready."""
    if not run_id:
        return {"empty": "No run has a checkpoint yet. Train one first."}
    try:
        run = open_run(root.runs, run_id)
        recipe = run.recipe()
    except UserError as error:
        return {"empty": error.problem}
    size = _merged_bytes(run, checkpoint, root)
    facts = [
        ("Base model", recipe.model_name_or_path),
        ("Checkpoint", checkpoint or "none"),
        ("Size of the result", f"about {size / GIB:.1f} GiB" if size else "unknown until the model is here"),
        ("Free disk", f"{free_bytes(run.path) / GIB:.0f} GiB"),
    ]
    job = JobStatus.read(_status_file(run))
    return {
        "facts": facts,
        "job": _job(run, job),
        "merged": [_merged(path) for path in sorted(run.merged.glob("*/merge.json"))],
    }


def request_merge(root: DataRoot, run_id: str, checkpoint: str, name: str) -> str:
    """Start the merge as a detached job and return a sentence.

    Raises:
        UserError: If it cannot be started.
    """
    run = open_run(root.runs, run_id)
    if checkpoint not in {path.name for path in run.checkpoint_dirs()}:
        raise UserError("Choose a checkpoint first.", fix="pick one from the list.")
    target = slug(name, fallback=f"merged-{checkpoint}")
    if (run.merged / target).exists():
        raise UserError(f"There is a merged model called {target} already.", fix="choose another name.")
    argv = [sys.executable, "-m", "engine", "merge", str(run.path), "--checkpoint", checkpoint, "--output", target]
    start_job(_status_file(run), [*argv, "--status-file", str(_status_file(run))], _log_file(run))
    return f"Merging {checkpoint} into {target}. You can close this page."


def _status_file(run: RunDir) -> Path:
    return run.merged / ".merge-job.json"


def _log_file(run: RunDir) -> Path:
    return run.path / "logs" / "merge.log"


def _job(run: RunDir, job: JobStatus | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {
        "state": job.state,
        "phase": job.phase,
        "fraction": job.fraction,
        "problem": job.problem,
        "fix": job.fix,
        "log": tail_text(_log_file(run), max_lines=40) if job.state in ("failed", "lost") else "",
    }


def _merged(file: Path) -> dict[str, Any]:
    told = read_json(file) or {}
    folder = str(file.parent)
    facts = {label: told[key] for key, label in FACTS.items() if isinstance(told.get(key), (str, int, float))}
    snippet = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({folder!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
    )
    return {
        "name": file.parent.name,
        "path": folder,
        "facts": facts,
        "transformers": snippet,
        "vllm": f"vllm serve '{folder}'",
    }


def _merged_bytes(run: RunDir, checkpoint: str, root: DataRoot) -> int:
    from engine.contract.model_facts import num_parameters

    recipe = run.recipe()
    config = look_up(recipe.model_name_or_path, recipe.model.revision, root).config
    return 2 * num_parameters(config) if config else 0
