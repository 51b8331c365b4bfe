"""`python -m engine.chat.worker`: one process that loads, answers, streams, cancels.  JSON lines on stdin and stdout.

    in   {"id", "op": "ask", "base", "rows": [{"speaker", "messages"}], "temperature", ..., "drop_oldest"}
         {"op": "cancel"}
    out  {"id", "event": "progress", "text"}                 what is being loaded
         {"id", "event": "loaded", "held_in", "seat", "memory_bytes", "gpu_bytes"}
         {"id", "event": "token", "row", "text"}             a piece of an answer, empty when nothing follows
         {"id", "event": "done", "row", ...Answer}           an answer
         {"id", "event": "end", "memory_bytes", "gpu_bytes"}    or    {"id", "event": "error", "problem", "fix"}

A thread reads requests, so that a cancel is heard during a generation.  The process ends when stdin closes: with the
studio.  Libraries may print what they like; it goes to stderr.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from dataclasses import asdict
from functools import cache, partial
from typing import Any

from engine.contract.errors import UserError
from engine.contract.places import data_root
from engine.contract.records import Message
from engine.contract.speakers import BaseModel, Speaker
from engine.launch.beside import take_seat
from engine.launch.processes import be_killed_first


class Worker:
    """The request loop.

    Args:
        out: Binary stream of the protocol.
    """

    def __init__(self, out: Any) -> None:
        self.out = out
        self.requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.stop = threading.Event()
        self.models: Any = None
        self.seat = cache(partial(take_seat, data_root()))  # once: torch looks for devices once

    def say(self, request: dict[str, Any], event: str, **values: Any) -> None:
        """Write one line of the protocol."""
        line = json.dumps({"id": request.get("id"), "event": event, **values}, ensure_ascii=False)
        self.out.write(line.encode("utf-8", "replace") + b"\n")
        self.out.flush()

    def read(self, stream: Any) -> None:
        """Take requests from a stream; a cancel acts at once, also on a request that is still loading."""
        for line in stream:
            try:
                request = json.loads(line)
            except ValueError:
                continue
            if not isinstance(request, dict):
                continue
            if request.get("op") == "cancel":
                self.stop.set()
            else:
                self.stop.clear()
                self.requests.put(request)
        self.stop.set()
        self.requests.put(None)

    def serve(self) -> None:
        """Answer requests until stdin closes."""
        while (request := self.requests.get()) is not None:
            try:
                if request.get("op") != "ask":
                    raise UserError(f"There is no operation {request.get('op')!r}.")
                self.ask(request)
            except UserError as error:
                self.say(request, "error", problem=error.problem, fix=error.fix)
            except Exception as error:  # noqa: BLE001 - the request loop: one bad request must not end the conversation
                self.failed(request, error)

    def failed(self, request: dict[str, Any], error: Exception) -> None:
        """Say in a sentence what is no fault of the user's; the log has the rest."""
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        memory = "out of memory" in str(error).lower() or isinstance(error, MemoryError)
        if memory:
            self.models = None  # what was half loaded goes; the next question loads again
        problem = "Out of memory." if memory else f"{type(error).__name__}: {str(error)[:300]}"
        fix = "hold the base model in 4 bit, or choose a smaller one." if memory else "read the chat log."
        self.say(request, "error", problem=problem, fix=fix)

    def ask(self, request: dict[str, Any]) -> None:
        """Load what the rows need and stream their answers."""
        base = BaseModel(**request["base"])
        if self.models is None:
            self.say(request, "progress", text="starting the libraries")
            if reason := self.seat():
                self.say(request, "progress", text=reason)
        from engine.chat.answering import answer_all
        from engine.chat.models import ChatModels
        from engine.chat.prompts import chat_prompt
        from engine.chat.question import Question, read_sampling

        if self.models is None or self.models.wanted != base:
            self.models = None
            self.models = ChatModels(base, tell=lambda _: None)
        models = self.models
        models.tell = lambda text: self.say(request, "progress", text=text)
        speakers = [Speaker(**row["speaker"]) for row in request["rows"]]
        models.bring(speakers)
        self.say(request, "loaded", held_in=models.held_in, seat=self.seat(), **models.memory())
        sampling = read_sampling(request)
        questions = [
            Question(
                speaker=speaker,
                sampling=sampling,
                prompt=chat_prompt(
                    models.codec(speaker),
                    [Message(turn["role"], turn["content"]) for turn in row["messages"]],
                    context=models.context(speaker),
                    max_new_tokens=int(request.get("max_new_tokens", 256)),
                    drop_oldest=bool(request.get("drop_oldest", False)),
                ),
            )
            for speaker, row in zip(speakers, request["rows"], strict=True)
        ]
        heard = answer_all(
            models, questions, lambda row, text: self.say(request, "token", row=row, text=text), self.stop
        )
        for row, answer in heard:
            self.say(request, "done", row=row, **asdict(answer))
        self.say(request, "end", **models.memory())


def main() -> int:
    """Keep stdout for the protocol and serve."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    be_killed_first()
    worker = Worker(protocol)
    threading.Thread(target=worker.read, args=(sys.stdin,), daemon=True).start()
    worker.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
