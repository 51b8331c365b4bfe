"""The Chat page: who can answer, held-out prompts, and two conversations side by side.

    run -> speakers (base model, checkpoints, merged models, those of other runs on the same base)
    a question -> values of the columns while both answer, in one batch where the worker can

The history of each side is its own: the base model never sees the tuned one's answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from engine.contract.best import best_checkpoint
from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.rundir import RunDir, list_runs, open_run
from engine.contract.speakers import (
    BASE,
    BaseModel,
    Precision,
    Speaker,
    base_of,
    find_speaker,
    newest,
    runs_on_the_same_base,
    speakers_of,
)
from studio.chat_client import ChatClient, Done, Loaded, Piece, Progress, Said

REDRAW_S = 0.15
"""A streaming answer is redrawn at most this often."""
SIDES = ("left", "right")
OTHER_RUNS = 20
"""Runs on the same base whose checkpoints can be chosen besides."""
Turn = dict[str, Any]
"""`role`, `content`; an answer has `over` once nothing follows and `state`, how it was made, when it is proven."""
Talk = dict[str, list[Turn]]
"""The turns of both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How answers are drawn."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 200
    seed: int = 0
    drop_oldest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question and who is asked."""

    run_id: str
    left: str
    right: str
    question: str
    system: str = ""
    gold: str = ""
    precision: Precision = "as trained"
    settings: Settings = Settings()


def run_choices(root: DataRoot) -> list[tuple[str, str]]:
    """Return (label, id) of the runs that have something to talk to, newest first."""
    choices = []
    for run in list_runs(root.runs):
        if run.checkpoint_dirs():
            try:
                choices.append((f"{run.recipe().display_name} · {run.id[:15]}", run.id))
            except UserError:
                continue
    return choices


def weight_choices(root: DataRoot, run_id: str) -> list[str]:
    """Return the checkpoints and merged models of a run, the newest checkpoint first."""
    if not run_id:
        return []
    return [speaker.name for speaker in speakers_of(open_run(root.runs, run_id)) if speaker.name != BASE]


def speaker_choices(root: DataRoot, run_id: str) -> tuple[list[tuple[str, str]], str]:
    """Return (label, name) of everything that can answer beside a run's base model, and the newest checkpoint.

    Raises:
        UserError: If there is no such run.
    """
    if not run_id:
        return [], ""
    run = open_run(root.runs, run_id)
    own = speakers_of(run)
    last, best = newest(own), best_checkpoint(run)
    choices = [("Base model", BASE)]
    for speaker in own[1:]:
        marks = [
            mark for mark, it_is in (("newest", speaker == last), ("best", best and best.name == speaker.name)) if it_is
        ]
        choices.append((f"{speaker.name} ({', '.join(marks)})" if marks else speaker.name, speaker.name))
    for other in runs_on_the_same_base(root.runs, run)[:OTHER_RUNS]:
        name = f"{other.recipe().display_name} · {other.id[:15]}"
        choices += [(f"{name}: {item.name}", f"{other.id}:{item.name}") for item in speakers_of(other)[1:]]
    return choices, last.name if last else BASE


def sources(root: DataRoot, ask: Ask) -> tuple[BaseModel, list[Speaker]]:
    """Return the base model and both speakers of a question.

    Raises:
        UserError: If there is no such run or speaker.
    """
    run: RunDir = open_run(root.runs, ask.run_id)
    sides = [find_speaker(run, name, runs_root=root.runs) for name in (ask.left, ask.right)]
    return base_of(run, ask.precision), sides


def new_talk() -> Talk:
    """Return a conversation before its first question."""
    return {side: [] for side in SIDES}


def view(talk: Talk, names: tuple[str, str] = ("", ""), **more: Any) -> dict[str, Any]:
    """Return the value of the columns' island.

    Args:
        talk: The turns so far.
        names: Who answers left and right.
        more: phase, problem, fix, note, empty, gold, held_in, seat, memory, answering, finished.
    """
    columns = [{"side": side, "name": name, "turns": talk[side]} for side, name in zip(SIDES, names, strict=True)]
    return {"columns": columns, **{key: value for key, value in more.items() if value}}


def memory_of(client: ChatClient) -> dict[str, int]:
    """Return what the worker holds, empty if there is none."""
    return asdict(client.memory) if client.memory.memory_bytes else {}


def take_back(talk: Talk) -> str:
    """Remove the last question and its answers from both sides and return the question, empty if there is none."""
    asked = [turns[-2]["content"] for turns in talk.values() if len(turns) > 1]
    for turns in talk.values():
        del turns[-2:]
    return str(asked[0]) if asked else ""


def answer(client: ChatClient, root: DataRoot, ask: Ask, talk: Talk) -> Iterator[dict[str, Any]]:
    """Ask both speakers, yielding the columns as the answers grow.

    Args:
        client: Owns the worker.
        root: Where runs lie.
        ask: The question.
        talk: Earlier turns of each side; grows in place, and stays as it was if there is a problem.

    Yields:
        Values for the columns' island; the last one holds the whole answers, or the problem.
    """
    names = (ask.left, ask.right)
    known: dict[str, Any] = {"gold": ask.gold}
    before = {side: len(talk[side]) for side in SIDES}
    try:
        if not ask.run_id:
            raise UserError("No run was chosen.", fix="train one first, or choose it above.")
        if not ask.question.strip():
            raise UserError("There is no question.", fix="write one, or pick a held-out prompt.")
        base, speakers = sources(root, ask)
        start = [{"role": "system", "content": ask.system}] if ask.system.strip() else []
        for side in SIDES:
            talk[side] += [{"role": "user", "content": ask.question}, {"role": "assistant", "content": ""}]
        rows = [
            (speaker, [*start, *({"role": turn["role"], "content": turn["content"]} for turn in talk[side][:-1])])
            for side, speaker in zip(SIDES, speakers, strict=True)
        ]
        yield view(talk, names, phase="starting", **known)
        drawn = 0.0
        for said in client.ask(base, rows, **asdict(ask.settings)):
            important = _hear(said, talk, known, ask)
            if important or time.monotonic() - drawn > REDRAW_S:
                drawn = time.monotonic()
                yield view(talk, names, **known)
    except UserError as error:
        for side in SIDES:
            del talk[side][before[side] :]
        kept = {key: known[key] for key in ("gold", "held_in", "seat") if key in known}
        yield view(talk, names, problem=error.problem, fix=error.fix, memory=memory_of(client), **kept)
        return
    known |= {"phase": "", "answering": False, "finished": True, "memory": memory_of(client)}
    yield view(talk, names, **known)


def _hear(said: Said, talk: Talk, known: dict[str, Any], ask: Ask) -> bool:
    """Take in what the worker says; return whether it is worth drawing at once."""
    match said:
        case Progress(text):
            known["phase"] = text
        case Loaded(held_in, seat):
            known |= {"held_in": held_in, "seat": seat, "phase": "", "answering": True}
        case Piece(row, text):
            turn = talk[SIDES[row]][-1]
            turn["content"] += text
            turn["over"] = not text
            return not text
        case Done():
            state = {"speaker": said.speaker, "tokens": said.num_tokens, "seconds": round(said.seconds, 1)}
            state |= {"stop_reason": said.stop_reason, "seed": ask.settings.seed, "notes": list(said.notes)}
            state |= {"sampled": ask.settings.temperature > 0, "together": said.together}
            talk[SIDES[said.row]][-1] |= {"content": said.text, "state": state}
    return True
