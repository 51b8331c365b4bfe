"""Tasks of lm-evaluation-harness on a run's models, example by example, into the same files and table.

    names of tasks -> lm_eval.simple_evaluate over the model as it is loaded -> scores of each document -> eval/*.json

An optional extra (requirements-lm-eval.txt).  Kept are scores of single documents between 0 and 1 of which more is
better, such as acc, acc_norm and exact_match, because only those can be paired; a group of tasks is one data set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.eval_results import EvalExample, EvalInputs, EvalResult, Scores
from engine.evaluate.models import Models
from engine.evaluate.results import EvalStore

KIND = "lm-eval"
MAX_TEXT = 4000
"""Characters of a prompt or answer that are kept for people to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """What is asked of lm-evaluation-harness."""

    tasks: tuple[str, ...]
    """Names of tasks or groups."""
    path: str = ""
    """Folder with task files of one's own."""
    limit: int | None = None
    """Documents per task; None = all."""
    batch_size: int = 16


def measure_harness(
    wanted: Harness,
    store: EvalStore,
    models: Models,
    tokenizer: Any,
    subjects: Sequence[str],
    progress: Callable[[str, float | None], None],
) -> None:
    """Measure the tasks that are not there yet.

    Raises:
        UserError: If lm_eval is not installed, a task is unknown, or its data cannot be had.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        fix = "pip install -r requirements-lm-eval.txt"
        raise UserError("lm-evaluation-harness is not installed here.", fix=fix) from None
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    manager = TaskManager(include_path=wanted.path or None)
    if strangers := [name for name in wanted.tasks if name not in manager.all_tasks]:
        problem = f"lm-evaluation-harness {lm_eval.__version__} has no task `{strangers[0]}`."
        raise UserError(problem, fix="`lm_eval ls tasks` lists them; give files of your own by --lm-eval-path.")
    settings = {"limit": wanted.limit, "lm_eval": lm_eval.__version__}
    jobs = [(subject, task) for subject in subjects for task in wanted.tasks]
    for number, (subject, task) in enumerate(jobs):
        weights = models.fingerprint(subject)
        inputs = EvalInputs(subject=subject, dataset=task, kind=KIND, settings=settings, weights=weights)
        if store.find(inputs) is not None:
            continue
        progress(f"{subject}: {task} of lm-evaluation-harness", number / len(jobs))
        started = time.monotonic()
        with models.open(subject, precise=True) as model:
            try:
                found = lm_eval.simple_evaluate(
                    HFLM(pretrained=model, tokenizer=tokenizer, batch_size=wanted.batch_size),
                    tasks=[task],
                    limit=wanted.limit,
                    task_manager=manager,
                    bootstrap_iters=0,
                )
            except (OSError, ValueError) as error:  # as `datasets` puts what the hub or a file refuses
                first = (str(error).splitlines() or [type(error).__name__])[0][:300]
                fix = "check the connection to the hub, HF_TOKEN, and the task's own data files."
                raise UserError(f"The task {task} cannot be measured: {first}", fix=fix) from None
            dtype = str(model.dtype).removeprefix("torch.")
        made = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "seconds": round(time.monotonic() - started, 1)}
        examples, scores = read_samples(found)
        if not scores:
            fix = "choose one with acc, acc_norm or exact_match."
            raise UserError(f"The task {task} has no score of single documents that can be compared.", fix=fix)
        store.save(EvalResult(inputs=inputs, examples=examples, scores=scores, made={**made, "dtype": dtype}))


def read_samples(found: dict[str, Any]) -> tuple[tuple[EvalExample, ...], dict[str, Scores]]:
    """Return the documents of a result of `simple_evaluate`, and their scores by measure."""
    examples: dict[str, EvalExample] = {}
    values: dict[str, dict[str, float]] = {}
    for task, samples in sorted(found["samples"].items()):
        rising = {name for name, higher in found.get("higher_is_better", {}).get(task, {}).items() if higher}
        for sample in samples:
            name = f"{task}:{sample['doc_id']}"
            if name not in examples:
                examples[name] = _example(name, sample)
            for metric in rising:
                value = sample.get(metric)
                if isinstance(value, (bool, int, float)) and 0 <= value <= 1:
                    # several filters read one answer in several ways: the first one counts
                    values.setdefault(metric, {}).setdefault(name, float(value))
    scores = {metric: Scores.of([of.get(name) for name in examples]) for metric, of in sorted(values.items())}
    return tuple(examples.values()), scores


def _example(name: str, sample: dict[str, Any]) -> EvalExample:
    arguments = sample.get("arguments") or {}
    first = next(iter(arguments.values()), {}) if isinstance(arguments, dict) else {}
    prompt = first.get("arg_0", "") if isinstance(first, dict) else ""
    return EvalExample(
        id=name,
        prompt=str(prompt)[:MAX_TEXT],
        reference=str(sample.get("target", ""))[:MAX_TEXT],
        prediction=str(sample.get("filtered_resps", ""))[:MAX_TEXT],
    )


def harness_of(tasks: str, path: Path | None, limit: int | None, batch_size: int) -> Harness | None:
    """Return what a command line asks for, None if it names no task."""
    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    folder = str(path.expanduser().resolve()) if path else ""
    return Harness(tasks=names, path=folder, limit=limit, batch_size=batch_size) if names else None
