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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.launch.processes import PROJECT, child_environment

BUSY_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 1800.0
PIECE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a stream: the whole answer and how it was made."""

    text: str
    num_tokens: int
    seconds: float
    adapter: str
    stop_reason: str


class ChatClient:
    """Owns at most one worker process.

    Args:
        log_file: Where the worker's stderr goes.
    """

    def __init__(self, log_file: Path) -> None:
        self.log_file = log_file
        self._busy = threading.Lock()
        self._ids = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def ensure_loaded(
        self,
        model: str,
        adapter: str | None,
        tuned_model: str | None = None,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make sure that exactly these models are loaded.

        Raises:
            UserError: If they cannot be loaded, or another question is being answered.
        """
        with self._alone():
            request = {"op": "load", "model": model, "adapter": adapter, "tuned_model": tuned_model}
            for answer in self._ask(request, timeout=LOAD_TIMEOUT_S):
                if answer["event"] == "progress":
                    on_progress(answer["text"])
                if answer["event"] == "loaded":
                    return

    def stream(self, side: str, messages: list[dict[str, str]], **sampling: Any) -> Iterator[str | Done]:
        """Yield the pieces of an answer and, last, a `Done`.

        Raises:
            UserError: If the worker says so, dies, or is busy.
        """
        with self._alone():
            finished = False
            try:
                request = {"op": "generate", "side": side, "messages": messages, **sampling}
                for answer in self._ask(request, timeout=PIECE_TIMEOUT_S):
                    if answer["event"] == "token":
                        yield answer["text"]
                    elif answer["event"] == "done":
                        finished = True
                        keys = ("text", "num_tokens", "seconds", "adapter", "stop_reason")
                        yield Done(*(answer[key] for key in keys))
                        return
            finally:
                if not finished:  # the page went away in the middle of an answer
                    self.cancel()

    def cancel(self) -> None:
        """End the answer that is being made, within a token."""
        if self._process is not None and self._process.poll() is None:
            self._send({"op": "cancel"})

    def unload(self) -> None:
        """End the worker and give its memory back."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _alone(self) -> Any:
        if not self._busy.acquire(timeout=BUSY_TIMEOUT_S):
            raise UserError("The model is answering another question.", fix="wait for it, or press Stop.")
        return _Releasing(self._busy)

    def _ask(self, request: dict[str, Any], *, timeout: float) -> Iterator[dict[str, Any]]:
        """Send a request and yield what the worker says to it; answers to older requests are dropped."""
        self._start()
        number = next(self._ids)
        self._send({"id": number, **request})
        while True:
            try:
                answer = self._answers.get(timeout=timeout)
            except queue.Empty:
                raise UserError("The model does not answer.", fix="unload it and ask again.") from None
            if answer is None:
                code = self._process.wait() if self._process else None
                self._process = None
                reason = "it was killed, most likely out of memory" if code == -9 else f"status {code}"
                raise UserError(
                    f"The chat process ended: {reason}.", fix=f"ask again; its log is {self.log_file.name}."
                )
            if answer.get("id") != number:
                continue
            if answer["event"] == "error":
                raise UserError(answer["problem"], fix=answer.get("fix", ""))
            yield answer

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
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

    def _send(self, request: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, OSError):
            return  # it is dead; the reader says so


class _Releasing:
    """Releases a lock that is already held."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def _read(stream: Any, answers: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stream:
        try:
            answers.put(json.loads(line))
        except ValueError:
            continue
    answers.put(None)
