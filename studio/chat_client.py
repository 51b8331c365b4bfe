"""The life of the chat worker: start, load, stream, cancel, end.  The model lives in that process, never in this one.

One worker, one generation at a time.  A worker that dies - out of memory, killed - is a sentence, and the next question
starts a new one.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.speakers import BaseModel, Speaker
from engine.launch.processes import PROJECT, child_environment

LOAD_TIMEOUT_S = 1800.0
PIECE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Something is being loaded."""

    text: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything is loaded."""

    held_in: str
    """How the base model is held; empty if it is not needed."""
    seat: str = ""
    """Why it answers where it does; empty if no run is in the way."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next words of an answer; empty when nothing follows, while others of its batch may still be made."""

    row: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A finished answer and how it was made."""

    row: int
    text: str
    num_tokens: int
    prompt_tokens: int
    seconds: float
    speaker: str
    """Who spoke, as the worker read it from the model."""
    stop_reason: str
    notes: Sequence[str] = ()
    together: bool = False


Said = Progress | Loaded | Piece | Done


@dataclass(frozen=True, slots=True)
class Memory:
    """What the worker holds, in bytes."""

    memory_bytes: int = 0
    gpu_bytes: int = 0


class ChatClient:
    """Owns at most one worker process.

    Args:
        log_file: Where the worker's stderr goes.
    """

    def __init__(self, log_file: Path) -> None:
        self.log_file = log_file
        self.memory = Memory()
        """As of the last answer; nothing while no worker lives."""
        self._busy = threading.Lock()
        self._ids = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def ask(
        self, base: BaseModel, rows: Sequence[tuple[Speaker, list[dict[str, str]]]], **settings: Any
    ) -> Iterator[Said]:
        """Load what these speakers need and yield what is said; one question at a time, whoever asks.

        Args:
            base: The base model.
            rows: Speaker and messages of each answer.
            settings: temperature, top_p, max_new_tokens, seed, drop_oldest.

        Raises:
            UserError: If the worker says so, dies, or answers another question.
        """
        if not self._busy.acquire(blocking=False):
            raise UserError("The model is answering another question.", fix="wait for it, or press Stop.")
        finished = False
        try:
            asked = [{"speaker": asdict(speaker), "messages": messages} for speaker, messages in rows]
            for said in self._ask({"op": "ask", "base": asdict(base), "rows": asked, **settings}):
                event = said.pop("event")
                if "memory_bytes" in said:
                    self.memory = Memory(said.pop("memory_bytes"), said.pop("gpu_bytes"))
                if event == "end":
                    finished = True
                    return
                yield _KINDS[event](**said)
        finally:
            if not finished:  # the page went away in the middle of an answer
                self.cancel()
            self._busy.release()

    def cancel(self) -> None:
        """End the answer that is being made, within a token."""
        if self._process is not None and self._process.poll() is None:
            self._send({"op": "cancel"})

    def unload(self) -> None:
        """End the worker and give its memory back."""
        process, self._process = self._process, None
        self.memory = Memory()
        if process is not None:
            process.kill()
            process.wait()

    def _ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Send a request and yield what the worker says to it; answers to older requests are dropped."""
        process = self._start()
        answers, number, timeout = self._answers, next(self._ids), LOAD_TIMEOUT_S
        self._send({"id": number, **request})
        while True:
            try:
                answer = answers.get(timeout=timeout)
            except queue.Empty:
                raise UserError("The model does not answer.", fix="unload it and ask again.") from None
            if answer is None:
                if self._process is not process:
                    raise UserError("The models were unloaded while they answered.", fix="ask again.")
                code = process.wait()
                self._process, self.memory = None, Memory()
                reason = "it was killed, most likely out of memory" if code == -9 else f"status {code}"
                raise UserError(
                    f"The chat process ended: {reason}.", fix=f"ask again; its log is {self.log_file.name}."
                )
            if answer.pop("id", None) != number:
                continue
            if answer["event"] == "error":
                raise UserError(answer["problem"], fix=answer.get("fix", ""))
            timeout = LOAD_TIMEOUT_S if answer["event"] == "progress" else PIECE_TIMEOUT_S
            yield answer

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._answers = queue.Queue()
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.chat.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=PROJECT,
                env=child_environment(),
            )
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()
        return self._process

    def _send(self, request: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, OSError):
            return  # it is dead; the reader says so


_KINDS: dict[str, Callable[..., Said]] = {"progress": Progress, "loaded": Loaded, "token": Piece, "done": Done}


def _read(stream: Any, answers: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stream:
        try:
            answers.put(json.loads(line))
        except ValueError:
            continue
    answers.put(None)
