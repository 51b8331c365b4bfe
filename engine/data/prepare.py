"""Recipe -> tasks ready to train: read, encode (or take from the cache), split, cut, pack; with a report of every row.

    file -> store -> choose (max_samples) -> held-out split -> length policy -> rows -> packs -> Task

Every record that is not trained has a reason and is counted; a task without a usable row is an error, not a gap.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from engine.contract.errors import Problem, UserError
from engine.contract.recipe import DataSection, Recipe, TaskSection
from engine.data.codec import Codec
from engine.data.encode import EncodeSettings, open_store
from engine.data.pack import Packs, pack
from engine.data.preview import MixPreview, TaskFacts, preview, with_packs
from engine.data.rows import Rows, choose, cut_rows, split_heldout
from engine.data.scramble import IntArray
from engine.data.store import TokenStore
from engine.data.tokenize import Encoded

logger = logging.getLogger(__name__)
MAX_HISTOGRAM = 64
"""Bars of the report's histogram of lengths."""


class StoredRows(Sequence[Encoded]):
    """The rows of a task as encoded examples, read from the memory-mapped store when asked for."""

    def __init__(self, store: TokenStore, rows: Rows) -> None:
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | Sequence[Encoded]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        rows = self.rows
        return self.store.encoded(int(rows.example[index]), int(rows.start[index]), int(rows.stop[index]))


class StoredUnits(Sequence[Sequence[Encoded]]):
    """What a batch counts: single rows, or packs of them."""

    def __init__(self, rows: Sequence[Encoded], packs: Packs | None = None) -> None:
        self.rows, self.packs = rows, packs

    def __len__(self) -> int:
        return len(self.rows) if self.packs is None else len(self.packs)

    @overload
    def __getitem__(self, index: int) -> Sequence[Encoded]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[Encoded]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self.packs is None:
            return [self.rows[index]]
        return [self.rows[int(row)] for row in self.packs.of(index)]


@dataclass(frozen=True, slots=True)
class Task:
    """One task ready for training."""

    name: str
    weight: float
    train: Sequence[Sequence[Encoded]]
    """Units of a batch: each a row, or the rows of a pack."""
    heldout: Sequence[Encoded]
    lengths: IntArray | None = None
    """Tokens of each unit, shape (len(train),); needed only to group by length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All tasks of a recipe, and what became of their files."""

    tasks: tuple[Task, ...]
    facts: tuple[TaskFacts, ...]
    preview: MixPreview
    notes: tuple[tuple[str, ...], ...]
    """Warnings of each task."""
    sources: tuple[dict[str, Any], ...]
    """Path, hash and cache state of each task's file."""


def prepare(
    recipe: Recipe, codec: Codec, cache: Path, progress: Callable[[str, float], None] = lambda *_: None
) -> Prepared:
    """Prepare all tasks of a recipe.

    Args:
        recipe: With absolute paths.
        codec: Tokenizer and chat template of the model.
        cache: Folder of the token stores.
        progress: Called with a phrase and the share done.

    Raises:
        UserError: With the problems of all tasks at once.
    """
    made, problems = [], []
    for index, section in enumerate(recipe.tasks):
        done = index / len(recipe.tasks)
        progress(f"{section.name}: reading", done)

        def tell(text: str, _: float, name: str = section.name, done: float = done) -> None:
            progress(f"{name}: {text}", done)

        try:
            made.append(_prepare_task(section, recipe, EncodeSettings(codec=codec, **_turns(recipe)), cache, tell))
        except UserError as error:
            field = f"tasks.{index}.path"
            problems += [
                Problem(problem=f"Task `{section.name}`: {p.problem}", fix=p.fix, field=p.field or field)
                for p in error.problems
            ]
    if problems:
        raise UserError.of(problems)
    facts = tuple(item[1] for item in made)
    return Prepared(
        tasks=tuple(item[0] for item in made),
        facts=facts,
        preview=preview(recipe, facts),
        notes=tuple(item[2] for item in made),
        sources=tuple(item[3] for item in made),
    )


def measure_task(section: TaskSection, recipe: Recipe, codec: Codec, cache: Path) -> tuple[TaskFacts, tuple[str, ...]]:
    """Return the facts and warnings of a single task.

    Raises:
        UserError: If it cannot be used.
    """
    settings = EncodeSettings(codec=codec, **_turns(recipe))
    _, facts, notes, _ = _prepare_task(section, recipe, settings, cache, lambda *_: None)
    return facts, notes


def report_json(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    """Return the content of `data/report.json`: what became of every record, the split, the shares, the order."""
    tasks = []
    for facts, notes, source in zip(prepared.facts, prepared.notes, prepared.sources, strict=True):
        told = facts.as_json()
        for name in ("lengths", "counts"):
            told.pop(name)
        lengths = {"p50": facts.percentile(0.5), "p95": facts.percentile(0.95), "max": facts.percentile(1.0)}
        tasks.append({**source, **told, "length": lengths, "warnings": list(notes)})
    rule = "by content hash and seed; exact copies stay on one side"
    return {
        "schema_version": 1,
        "tasks": tasks,
        "mixture": prepared.preview.as_json(),
        "split": {"eval_split": recipe.data.eval_split, "seed": recipe.seed, "rule": rule},
        "order": {"seed": recipe.seed, "strategy": recipe.mixing.strategy, "packing": recipe.data.packing},
    }


def _turns(recipe: Recipe) -> dict[str, Any]:
    return {"assistant_turns": recipe.data.assistant_turns}


def _prepare_task(
    section: TaskSection, recipe: Recipe, settings: EncodeSettings, cache: Path, progress: Callable[[str, float], None]
) -> tuple[Task, TaskFacts, tuple[str, ...], dict[str, Any]]:
    data, columns = recipe.data, section.columns
    store, from_cache = open_store(Path(section.path), columns, settings, cache, progress)
    chosen = choose(store.keys, section.max_samples, recipe.seed)
    heldout_store = store
    if section.eval_path:
        heldout_store, _ = open_store(Path(section.eval_path), columns, settings, cache, progress)
        training, heldout = chosen, np.arange(len(heldout_store))
    else:
        held = split_heldout(store.keys[chosen], share=data.eval_split, seed=recipe.seed)
        training, heldout = chosen[~held], chosen[held]
    # measured as they are trained: an example that is dropped there is dropped here
    evaluated = cut_rows(heldout_store, heldout, max_length=data.max_length, truncation=data.truncation)
    evaluated = _limited(evaluated, heldout_store, data, recipe.seed)
    rows = cut_rows(store, training, max_length=data.max_length, truncation=data.truncation)
    if not len(rows) and section.weight > 0:
        raise _nothing_left(store, rows, data)
    train = StoredRows(store, rows)
    packs = pack(rows.lengths, data.max_length, seed=recipe.seed) if data.packing == "bfd" else None
    task = Task(
        section.name,
        section.weight,
        StoredUnits(train, packs),
        StoredRows(heldout_store, evaluated),
        rows.lengths if packs is None else packs.sums(rows.lengths),
    )
    facts = with_packs(_facts(section.name, store, rows, len(evaluated)), recipe)
    source = {
        "path": section.path,
        "sha256": store.meta["sha256"],
        "format": store.meta["format"],
        "from_cache": from_cache,
        "refused": [list(item) for item in store.meta["refused"]],
    }
    logger.info("task %s: %d rows to train, %d held out", section.name, len(rows), len(evaluated))
    return task, facts, tuple(_notes(store, facts, data)), source


def _limited(rows: Rows, store: TokenStore, data: DataSection, seed: int) -> Rows:
    """Keep at most `max_eval_samples` held-out rows."""
    kept = choose(store.keys[rows.example], data.max_eval_samples, seed)
    return Rows(rows.example[kept], rows.start[kept], rows.stop[kept], rows.num_supervised[kept])


def _facts(name: str, store: TokenStore, rows: Rows, num_heldout: int) -> TaskFacts:
    lengths, counts = np.unique(rows.lengths, return_counts=True)
    return TaskFacts(
        name=name,
        num_records=store.meta["num_records"],
        num_skipped=store.meta["num_skipped"],
        num_refused=store.meta["num_refused"],
        num_heldout=num_heldout,
        num_too_long=rows.num_too_long,
        num_unsupervised=rows.num_unsupervised,
        num_rows=len(rows),
        num_tokens=int(rows.lengths.sum()),
        num_supervised_tokens=int(rows.num_supervised.sum()),
        lengths=tuple(lengths.tolist()),
        counts=tuple(counts.tolist()),
        all_lengths=histogram(store.lengths),
    )


def histogram(lengths: IntArray) -> tuple[tuple[int, int], ...]:
    """Return at most `MAX_HISTOGRAM` bars of equal width: (upper end in tokens, examples)."""
    if not len(lengths):
        return ()
    width = max(1, -(-int(lengths.max()) // MAX_HISTOGRAM))
    counts = np.bincount((np.maximum(lengths, 1) - 1) // width)
    return tuple(((index + 1) * width, int(count)) for index, count in enumerate(counts))


def _notes(store: TokenStore, facts: TaskFacts, data: DataSection) -> Iterator[str]:
    yield from store.meta["warnings"]
    if not facts.num_heldout:
        yield "nothing is held out, so this task has no evaluation loss"
    if facts.num_too_long:
        done = {"drop": "dropped", "truncate": "truncated", "split": "split"}[data.truncation]
        yield f"{facts.num_too_long} examples above {data.max_length} tokens: {done}"
    if facts.num_refused:
        line, reason = store.meta["refused"][0]
        yield f"{facts.num_refused} examples are refused by the chat template (first: line {line}: {reason})"
    if facts.num_unsupervised - facts.num_refused > 0:
        yield f"{facts.num_unsupervised - facts.num_refused} rows hold nothing to learn and are dropped"
    if store.meta["num_rewritten"]:
        text = "the chat template rewrites earlier turns, so only the last answer is learned"
        yield f"{store.meta['num_rewritten']} examples: {text}"


def _nothing_left(store: TokenStore, rows: Rows, data: DataSection) -> UserError:
    """Return why a task has nothing to train on."""
    if rows.num_too_long:
        shortest = int(store.lengths.min())
        why = f"all {rows.num_too_long} examples are longer than {data.max_length} tokens (the shortest: {shortest})"
        fix = "raise data.max_length, or set data.truncation to truncate or split."
        return UserError(f"no example is left to train on: {why}.", fix=fix, field="data.max_length")
    if store.meta["num_refused"]:
        line, reason = store.meta["refused"][0]
        fix = "set data.chat_template to mftcoder or to a file of your own, or change the examples."
        return UserError(f"no example can be used: line {line}: {reason}.", fix=fix, field="data.chat_template")
    return UserError("no example is left to train on: none has an answer to learn.", fix="use another file.")


def all_units(tasks: Sequence[Task]) -> Iterator[tuple[int, int]]:
    """Yield (task, unit) of every unit that is trained, in the order of the mixture's list of rows."""
    for index, task in enumerate(tasks):
        if task.weight > 0:
            yield from zip(itertools.repeat(index), range(len(task.train)))
