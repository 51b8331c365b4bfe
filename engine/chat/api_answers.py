"""Answers in the form of the OpenAI API: whole, or as the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from engine.chat.api_requests import ApiRequest
from engine.chat.question import Answer

FINISH = {"length limit": "length"}
"""Our reason for an end -> the API's; all others are `stop`."""


class Form:
    """How one kind of answer is written down."""

    name = prefix = chunk_name = ""

    def __init__(self, asked: ApiRequest) -> None:
        self.asked = asked
        self.head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": asked.model}

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a whole answer."""
        choice = {"index": 0, **self.said(answer.text), "logprobs": None, "finish_reason": finish_of(answer)}
        head = {**self.head, "object": self.name, "system_fingerprint": answer.speaker}
        return {**head, "choices": [choice], "usage": usage_of(answer)}

    def chunk(self, piece: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        """Return one event of a stream."""
        choice = {"index": 0, **piece, "logprobs": None, "finish_reason": finish}
        return {**self.head, "object": self.chunk_name, "choices": [choice], **more}

    def said(self, text: str) -> dict[str, Any]:
        """Return where a whole text stands."""
        raise NotImplementedError

    def piece(self, text: str) -> dict[str, Any]:
        """Return where a piece stands."""
        raise NotImplementedError

    def opening(self) -> dict[str, Any] | None:
        """Return what stands before the first piece."""
        return None


class ChatForm(Form):
    """An answer in a chat."""

    name, prefix, chunk_name = "chat.completion", "chatcmpl", "chat.completion.chunk"

    def said(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def piece(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def opening(self) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}}


class TextForm(Form):
    """A text continued."""

    name, prefix, chunk_name = "text_completion", "cmpl", "text_completion"

    def said(self, text: str) -> dict[str, Any]:
        return {"text": text}

    piece = said


def finish_of(answer: Answer) -> str:
    """Return why an answer ended, in the API's words."""
    return FINISH.get(answer.stop_reason, "stop")


def usage_of(answer: Answer) -> dict[str, int]:
    """Return the number of tokens."""
    told = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.num_tokens}
    return {**told, "total_tokens": answer.prompt_tokens + answer.num_tokens}


def event_line(value: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
