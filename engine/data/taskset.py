"""Task files -> encoded training and held-out examples, with a report of what became of every row.

    read -> choose (max_samples) -> split (by content hash, the same on every machine) -> encode -> drop or truncate

T = tasks.  Every dropped example has a reason and is counted; a task without a usable example is an error, not a gap.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from engine.contract.errors import Problem, UserError
from engine.contract.recipe import DataSection, Recipe, TaskSection
from engine.contract.taskfile import Example, load_examples
from engine.data.tokenize import IGNORE, Encoded, encode_example

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """One task ready for training."""

    name: str
    weight: float
    train: list[Encoded]
    heldout: list[Encoded]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """What became of a task's rows; one entry of `data/report.json`."""

    name: str
    path: str
    sha256: str
    num_records: int
    num_skipped: int
    num_train: int
    num_heldout: int
    num_too_long: int
    """Examples above `max_length`: dropped or truncated, as the recipe says."""
    num_tokens: int
    """Training tokens, prompts included."""
    num_supervised_tokens: int
    longest: int
    """Tokens of the longest training example."""
    warnings: tuple[str, ...]


def load_tasks(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, progress: Callable[[str, float], None] = lambda *_: None
) -> tuple[list[Task], list[TaskReport]]:
    """Read, split and encode all tasks of a recipe.

    Args:
        recipe: With absolute paths.
        tokenizer: With a chat template.
        progress: Called with a phrase and the share done.

    Raises:
        UserError: With the problems of all tasks at once.
    """
    tasks, reports, problems = [], [], []
    for index, section in enumerate(recipe.tasks):
        progress(f"reading {section.name}", index / len(recipe.tasks))
        try:
            task, report = _load_task(section, recipe, tokenizer)
        except UserError as error:
            field = f"tasks.{index}.path"
            problems += [
                Problem(problem=f"Task `{section.name}`: {p.problem}", fix=p.fix, field=p.field or field)
                for p in error.problems
            ]
            continue
        tasks.append(task)
        reports.append(report)
    if problems:
        raise UserError.of(problems)
    return tasks, reports


def report_json(reports: Sequence[TaskReport]) -> dict[str, object]:
    """Return the content of `data/report.json`."""
    return {"schema_version": 1, "tasks": [asdict(report) for report in reports]}


def split_heldout(examples: Sequence[Example], *, share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Hold out a share of the examples, at least one, chosen by content.

    The choice depends on the text and the seed alone - not on order, machine or world size - and copies of one example
    always fall on the same side, so nothing leaks.

    Returns:
        Training and held-out examples, each in file order. Nothing is held out if that would leave nothing to train.
    """
    keys = [_content_key(example, seed) for example in examples]
    wanted = max(1, round(share * len(examples))) if share > 0 else 0
    copies = Counter(keys)
    held: set[str] = set()
    count = 0
    for key in sorted(copies):
        if count >= wanted:
            break
        held.add(key)
        count += copies[key]
    if len(held) == len(copies):
        held = set()
    train = [example for example, key in zip(examples, keys, strict=True) if key not in held]
    return train, [example for example, key in zip(examples, keys, strict=True) if key in held]


def _content_key(example: Example, seed: int) -> str:
    text = json.dumps([seed, [[m.role, m.content] for m in example.messages]], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _choose(examples: list[Example], limit: int | None, seed: int) -> list[Example]:
    """Keep at most `limit` examples, chosen by content hash, in file order."""
    if limit is None or len(examples) <= limit:
        return examples
    ranked = sorted(range(len(examples)), key=lambda i: (_content_key(examples[i], seed + 1), i))
    return [examples[i] for i in sorted(ranked[:limit])]


def _load_task(section: TaskSection, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[Task, TaskReport]:
    examples, scan = load_examples(Path(section.path), section.columns)
    examples = _choose(examples, section.max_samples, recipe.seed)
    if section.eval_path:
        train, heldout = examples, load_examples(Path(section.eval_path), section.columns)[0]
    else:
        train, heldout = split_heldout(examples, share=recipe.data.eval_split, seed=recipe.seed)
    heldout = _choose(heldout, recipe.data.max_eval_samples, recipe.seed)
    encoded, too_long = _encode_all(train, recipe.data, tokenizer)
    encoded_heldout, _ = _encode_all(heldout, recipe.data, tokenizer)
    if not encoded and section.weight > 0:
        longest = f"all {too_long} are longer than {recipe.data.max_length} tokens"
        raise UserError(
            f"no example is left to train on: {longest if too_long else 'none has an answer to learn'}.",
            fix="raise data.max_length, set data.truncation to truncate, or use another file.",
            field="data.max_length" if too_long else "",
        )
    warnings = list(scan.warnings)
    if not encoded_heldout:
        warnings.append("nothing is held out, so this task has no evaluation loss")
    if too_long:
        warnings.append(f"{too_long} examples above {recipe.data.max_length} tokens: {recipe.data.truncation}")
    lengths = [len(example.input_ids) for example in encoded]
    report = TaskReport(
        name=section.name,
        path=section.path,
        sha256=scan.sha256,
        num_records=scan.num_records,
        num_skipped=scan.num_skipped,
        num_train=len(encoded),
        num_heldout=len(encoded_heldout),
        num_too_long=too_long,
        num_tokens=sum(lengths),
        num_supervised_tokens=sum(example.num_supervised for example in encoded),
        longest=max(lengths, default=0),
        warnings=tuple(warnings),
    )
    counts = (report.num_train, report.num_heldout, too_long)
    logger.info("task %s: %d to train, %d held out, %d too long", report.name, *counts)
    return Task(section.name, section.weight, encoded, encoded_heldout), report


def _encode_all(
    examples: Sequence[Example], data: DataSection, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Encoded], int]:
    """Encode examples under the length policy; return them and how many were too long."""
    kept, too_long = [], 0
    for example in examples:
        encoded = encode_example(tokenizer, example)
        if len(encoded.input_ids) > data.max_length:
            too_long += 1
            if data.truncation == "drop":
                continue
            encoded = Encoded(encoded.input_ids[: data.max_length], encoded.labels[: data.max_length])
        if encoded.num_supervised and encoded.labels[0] == IGNORE:
            kept.append(encoded)
    return kept, too_long
