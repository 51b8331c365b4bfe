"""`python -m engine.chat.worker`: one process that loads, answers, streams, cancels.  JSON lines on stdin and stdout.

    in   {"id", "op": "load", "model", "adapter", "tuned_model"}   {"id", "op": "generate", "side", "messages", ...}
         {"op": "cancel"}
    out  {"id", "event": "progress" | "loaded" | "token" | "done" | "error", ...}

A thread reads requests, so that a cancel is heard during a generation.  The process ends when stdin closes: with the
studio.  Libraries may print what they like; it goes to stderr.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from typing import Any

from engine.contract.errors import UserError
from engine.contract.records import Message


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
        self.loaded: tuple[Any, ...] | None = None

    def say(self, request: dict[str, Any], event: str, **values: Any) -> None:
        """Write one line of the protocol."""
        line = json.dumps({"id": request.get("id"), "event": event, **values}, ensure_ascii=False)
        self.out.write(line.encode("utf-8", "replace") + b"\n")
        self.out.flush()

    def read(self, stream: Any) -> None:
        """Take requests from a stream; a cancel acts at once."""
        for line in stream:
            try:
                request = json.loads(line)
            except ValueError:
                continue
            if request.get("op") == "cancel":
                self.stop.set()
            else:
                self.requests.put(request)
        self.stop.set()
        self.requests.put(None)

    def serve(self) -> None:
        """Answer requests until stdin closes."""
        while (request := self.requests.get()) is not None:
            try:
                self.answer(request)
            except UserError as error:
                self.say(request, "error", problem=error.problem, fix=error.fix)
            except Exception as error:  # noqa: BLE001 - the request loop: one bad request must not end the conversation
                memory = "out of memory" in str(error).lower() or isinstance(error, MemoryError)
                problem = "Out of memory." if memory else f"{type(error).__name__}: {str(error)[:300]}"
                fix = "unload other models or choose a smaller one." if memory else "read the chat log."
                print(problem, file=sys.stderr, flush=True)
                self.say(request, "error", problem=problem, fix=fix)

    def answer(self, request: dict[str, Any]) -> None:
        """Carry out one request."""
        operation = request.get("op")
        if operation == "load":
            self.load(request)
        elif operation == "generate":
            self.generate(request)
        else:
            raise UserError(f"There is no operation {operation!r}.")

    def load(self, request: dict[str, Any]) -> None:
        """Load the models of a request unless they are loaded already."""
        wanted = (request["model"], request.get("adapter"), request.get("tuned_model"))
        if wanted != self.loaded:
            self.say(request, "progress", text="starting the libraries")
            from engine.chat.models import ChatModels

            self.models, self.loaded = None, None
            self.models = ChatModels(*wanted, tell=lambda text: self.say(request, "progress", text=text))
            self.loaded = wanted
        self.say(request, "loaded")

    def generate(self, request: dict[str, Any]) -> None:
        """Stream one answer."""
        if self.models is None:
            raise UserError("No model is loaded.", fix="load one first.")
        self.stop.clear()
        answer = self.models.answer(
            request["side"],
            [Message(turn["role"], turn["content"]) for turn in request["messages"]],
            emit=lambda text: self.say(request, "token", text=text),
            stop=self.stop,
            temperature=float(request.get("temperature", 0.0)),
            top_p=float(request.get("top_p", 1.0)),
            max_new_tokens=int(request.get("max_new_tokens", 256)),
            seed=int(request.get("seed", 0)),
        )
        self.say(request, "done", **asdict(answer))


def main() -> int:
    """Keep stdout for the protocol and serve."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    worker = Worker(protocol)
    threading.Thread(target=worker.read, args=(sys.stdin,), daemon=True).start()
    worker.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
