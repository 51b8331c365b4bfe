"""What a model is measured on: the held-out rows of the training, and the prompts and wanted answers in them.

    recipe -> the very rows that the trainer evaluates -> loss
                                                       -> prompt (tokens up to the last answer), wanted answer -> scores

Prompts are cut out of the encoded examples, so that a model is asked exactly as it was trained.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.eval_matrix import RETENTION
from engine.contract.eval_results import EvalExample, Scores
from engine.contract.recipe import Recipe, TaskSection
from engine.contract.records import BadRecord, Example, parse_record
from engine.contract.sources import find_source, read_source
from engine.data.codec import Codec
from engine.data.prepare import StoredRows, prepare
from engine.data.tokenize import Encoded
from engine.generate.row import Decoding

TEST_COLUMNS = ("tests", "test_list", "unit_tests", "test")
SETUP_COLUMNS = ("test_imports", "test_setup_code")
Scored = tuple[Sequence[EvalExample], dict[str, Scores]]
"""Examples, with notes where there are some, and scores by name."""
Score = Callable[[Sequence[EvalExample]], Scored]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question."""

    id: str
    """Of the example: the same in every run."""
    ids: Sequence[int]
    """Tokens that the model sees."""
    text: str
    """The question as people read it."""
    reference: str
    tests: str = ""
    """Python that fails unless the answer is right, from the record; empty = none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One row of the matrix; a benchmark brings prompts only, and scores of its own."""

    name: str
    prompts: tuple[Prompt, ...] = ()
    rows: Sequence[Encoded] = ()
    """Examples whose loss is measured."""
    row_ids: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    """Names of `engine.evaluate.scorers`."""
    decoding: Decoding | None = None
    """How it is answered; None = as the recipe says."""
    kind: str = "answers"
    """Kind of its file of answers."""
    score: Score | None = None
    """Scores of its own instead of `scorers`."""
    settings: dict[str, object] = field(default_factory=dict)
    """What else its answers and scores depend on."""


def heldout_datasets(
    recipe: Recipe, codec: Codec, cache: Path, *, names: Sequence[str], progress: Callable[[str, float], None]
) -> list[Dataset]:
    """Return the held-out data of some tasks of a recipe.

    Args:
        recipe: With paths on this disk.
        codec: Tokenizer and chat template of the run.
        cache: Folder of the token stores.
        names: Of the tasks.
        progress: Told what is being read.

    Raises:
        UserError: If data cannot be used, or nothing is held out.
    """
    tasks = [task for task in recipe.tasks if task.name in names]
    # what is only evaluated is no recipe to train, and `prepare` also plans the training
    counted = tuple(task.model_copy(update={"weight": 1.0, "mixing_weight": 1.0}) for task in tasks)
    chosen = recipe.model_copy(update={"tasks": counted})
    if recipe.evaluate.num_examples is not None:
        data = recipe.data.model_copy(update={"max_eval_samples": recipe.evaluate.num_examples})
        chosen = chosen.model_copy(update={"data": data})
    prepared = prepare(chosen, codec, cache, progress)
    found = []
    for section, task in zip(tasks, prepared.tasks, strict=True):
        if not len(task.heldout):
            fix = "give it an eval_path, or leave it out with --tasks."
            raise UserError(f"Task `{task.name}` has no held-out examples to measure.", fix=fix)
        assert isinstance(task.heldout, StoredRows)
        found.append(task_dataset(section, task.heldout, recipe))
    return found


def retention_task(path: Path) -> TaskSection:
    """Return a task that is only evaluated."""
    return TaskSection(name=RETENTION, path=str(path), eval_path=str(path), weight=0.0)


def task_dataset(section: TaskSection, heldout: StoredRows, recipe: Recipe) -> Dataset:
    """Return what a model is measured on with some held-out rows of a task; plain text has no prompts.

    Args:
        section: The task, with its path on this disk: the texts are read again, for the store holds tokens only.
        heldout: The rows.
        recipe: Of the run.
    """
    rows, store = heldout.rows, heldout.store
    ids = _distinct(
        f"{int(store.keys[example]):016x}" + (f"-{start}" if start else "")
        for example, start in zip(rows.example, rows.start, strict=True)
    )
    texts, tests = _texts(section, heldout)
    prompts, done = [], set()
    for number, example in enumerate(map(int, rows.example)):
        spans = store.spans(example)
        written = texts.get(store.source(example))
        if example in done or written is None or not len(spans) or written.kind == "text":
            continue
        done.add(example)
        start = int(spans[-1][0])
        last = written.messages[-1]
        if last.role != "assistant" or start > recipe.data.max_length:
            continue
        prompts.append(
            Prompt(
                id=ids[number],
                ids=store.input_ids(example)[:start].tolist(),
                text=_question(written),
                reference=last.content,
                tests=tests.get(store.source(example), ""),
            )
        )
    return Dataset(
        name=section.name,
        prompts=tuple(prompts),
        rows=heldout,
        row_ids=tuple(ids),
        scorers=recipe.evaluate.scorers_of(section.name),
        settings={"tests": digest(prompt.tests for prompt in prompts)} if any(p.tests for p in prompts) else {},
    )


def digest(texts: Iterable[str]) -> str:
    """Return a short name of some texts in their order."""
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


Place = tuple[str, int]
"""File within the task's folder, and line."""


def _texts(section: TaskSection, heldout: StoredRows) -> tuple[dict[Place, Example], dict[Place, str]]:
    """Read the examples of some rows again, for the store holds tokens only; return them and the tests beside them."""
    wanted = {heldout.store.source(int(example)) for example in heldout.rows.example}
    found: dict[Place, Example] = {}
    tests: dict[Place, str] = {}
    for file, line, record in read_source(find_source(Path(section.eval_path or section.path)), [], lambda *_: None):
        if (file, line) not in wanted or isinstance(record, BadRecord):
            continue
        found[file, line] = parse_record(record, line, section.columns, file=file)[0]
        if text := record_tests(record):
            tests[file, line] = text
        if len(found) == len(wanted):
            break
    return found, tests


def record_tests(record: Mapping[str, Any]) -> str:
    """Return the Python tests of a record: a text, or a list of them, in one of `TEST_COLUMNS`.

    As MBPP has it, one of `SETUP_COLUMNS` comes before; as HumanEval has it, `check` is called with `entry_point`.
    """
    text = next(filter(None, (_lines(record.get(name)) for name in TEST_COLUMNS)), "")
    if not text:
        return ""
    setup = next(filter(None, (_lines(record.get(name)) for name in SETUP_COLUMNS)), "")
    parts, entry_point = [setup, text] if setup else [text], record.get("entry_point")
    if re.search(r"^def check\(", text, re.M) and not re.search(r"^check\(", text, re.M):
        if isinstance(entry_point, str) and entry_point.isidentifier():
            parts.append(f"check({entry_point})")
    return "\n".join(parts)


def _lines(value: Any) -> str:
    """Return a text, or a list of texts as lines; empty if it is something else."""
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        value = "\n".join(value)
    return value if isinstance(value, str) and value.strip() else ""


def _question(example: Example) -> str:
    """Return what comes before the last answer; roles are named where there is more than one question."""
    before = example.messages[:-1]
    if len(before) == 1:
        return before[0].content
    return "\n\n".join(f"[{message.role}] {message.content}" for message in before)


def _distinct(names: Iterable[str]) -> list[str]:
    """Number exact copies, so that every example has an id of its own."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return found
