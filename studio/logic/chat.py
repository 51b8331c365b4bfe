"""The Chat page: which runs can be talked to, their held-out prompts, and two conversations side by side.

    run + checkpoint -> sources(base model, adapter or second model)      a question -> views while both answer

The history of each side is its own: the base model never sees the tuned one's answers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.rundir import RunDir, list_runs, open_run
from engine.contract.taskfile import Example, iter_examples
from studio.chat_client import ChatClient, Done

PROMPTS_PER_TASK = 8
REDRAW_S = 0.15
"""A streaming answer is redrawn at most this often."""
SIDES = ("base", "tuned")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A held-out example to try."""

    task: str
    text: str
    system: str
    gold: str
    """The answer of the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 200
    seed: int = 0


def run_choices(root: DataRoot) -> list[tuple[str, str]]:
    """Return (label, id) of the runs that have something to talk to, newest first."""
    choices = []
    for run in list_runs(root.runs):
        if run.checkpoint_dirs():
            try:
                choices.append((f"{run.recipe().display_name} · {run.id[:13]}", run.id))
            except UserError:
                continue
    return choices


def weight_choices(root: DataRoot, run_id: str) -> list[str]:
    """Return the checkpoints and merged models of a run, the newest checkpoint first."""
    if not run_id:
        return []
    run = open_run(root.runs, run_id)
    merged = sorted(f"merged/{path.parent.name}" for path in run.merged.glob("*/config.json"))
    return [path.name for path in reversed(run.checkpoint_dirs())] + merged


def sources(run: RunDir, weights: str) -> dict[str, str | None]:
    """Return what the chat worker has to load: base model, adapter, or a second whole model.

    Raises:
        UserError: If the run has no such weights.
    """
    recipe = run.recipe()
    folder = run.path / weights if weights.startswith("merged/") else run.checkpoints / weights
    if weights not in {*(p.name for p in run.checkpoint_dirs()), *(f"merged/{p.name}" for p in run.merged.glob("*"))}:
        raise UserError(f"This run has no {weights or 'checkpoint'}.", fix="choose one from the list.")
    adapter = folder / "adapter_config.json"
    return {
        "model": recipe.model_name_or_path,
        "adapter": str(folder) if adapter.is_file() else None,
        "tuned_model": None if adapter.is_file() else str(folder),
    }


def prompts(root: DataRoot, run_id: str) -> list[Prompt]:
    """Return some held-out examples of every task; a task without a held-out file is passed over."""
    if not run_id:
        return []
    found = []
    for task in open_run(root.runs, run_id).recipe().tasks:
        if not task.eval_path:
            continue
        try:
            examples = list(itertools.islice(iter_examples(Path(task.eval_path), task.columns), PROMPTS_PER_TASK))
        except UserError:
            continue
        found += [_prompt(task.name, example) for example in examples]
    return found


def prompt_labels(items: list[Prompt]) -> list[tuple[str, int]]:
    """Return (label, index) for a list of prompts."""

    def first_words(text: str) -> str:
        return " ".join(text.split())[:70]

    return [(f"{item.task}: {first_words(item.text)}", index) for index, item in enumerate(items)]


def empty_view(note: str = "") -> dict[str, Any]:
    """Return the two columns before anything was said."""
    return view({side: [] for side in SIDES}, {}, note=note)


def view(
    histories: dict[str, list[dict[str, str]]],
    states: dict[str, str],
    *,
    note: str = "",
    problem: str = "",
    fix: str = "",
    gold: str = "",
    answering: str = "",
) -> dict[str, Any]:
    """Return the value of the columns' island."""
    titles = {"base": "Base model", "tuned": "Tuned model"}
    columns = [
        {"side": side, "title": titles[side], "state": states.get(side, ""), "turns": histories[side]} for side in SIDES
    ]
    return {"columns": columns, "note": note, "problem": problem, "fix": fix, "gold": gold, "answering": answering}


def answer(
    client: ChatClient,
    root: DataRoot,
    *,
    run_id: str,
    weights: str,
    question: str,
    system: str,
    gold: str,
    histories: dict[str, list[dict[str, str]]],
    sampling: Sampling,
) -> Iterator[dict[str, Any]]:
    """Ask both models one after the other, yielding the columns as the answers grow.

    Args:
        histories: Earlier turns of each side; grows in place.

    Yields:
        Values for the columns' island; the last one holds the whole answers, or the problem.
    """
    states: dict[str, str] = {}
    try:
        if not run_id:
            raise UserError("No run was chosen.", fix="train one first, or choose it above.")
        if not question.strip():
            raise UserError("There is no question.", fix="write one, or pick a held-out prompt.")
        wanted = sources(open_run(root.runs, run_id), weights)
        yield view(histories, states, note="Loading the models …", gold=gold)
        client.ensure_loaded(str(wanted["model"]), wanted["adapter"], wanted["tuned_model"])
        for side in SIDES:
            histories[side] += [{"role": "user", "content": question}, {"role": "assistant", "content": ""}]
        for side in SIDES:
            yield from _one_side(client, side, system, histories, states, sampling, gold)
    except UserError as error:
        for side in SIDES:
            if histories[side] and not histories[side][-1]["content"]:
                del histories[side][-2:]
        yield view(histories, states, problem=error.problem, fix=error.fix, gold=gold)
        return
    yield view(histories, states, gold=gold)


def _one_side(
    client: ChatClient,
    side: str,
    system: str,
    histories: dict[str, list[dict[str, str]]],
    states: dict[str, str],
    sampling: Sampling,
    gold: str,
) -> Iterator[dict[str, Any]]:
    turns = histories[side]
    start = [{"role": "system", "content": system}] if system.strip() else []
    drawn = 0.0
    yield view(histories, states, answering=side, gold=gold)
    for piece in client.stream(
        side,
        [*start, *turns[:-1]],
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        seed=sampling.seed,
    ):
        if isinstance(piece, Done):
            turns[-1]["content"] = piece.text
            states[side] = f"{piece.adapter} · {piece.num_tokens} tokens · {piece.seconds:.1f} s · {piece.stop_reason}"
            continue
        turns[-1]["content"] += piece
        if time.monotonic() - drawn > REDRAW_S:
            drawn = time.monotonic()
            yield view(histories, states, answering=side, gold=gold)


def _prompt(task: str, example: Example) -> Prompt:
    system = next((m.content for m in example.messages if m.role == "system"), "")
    question = next(m.content for m in example.messages if m.role == "user")
    gold = next(m.content for m in example.messages if m.role == "assistant")
    return Prompt(task, question, system, gold)
