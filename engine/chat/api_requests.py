"""What a program may ask the endpoint: bodies of the OpenAI API to requests of ours, or all that is wrong with them.

bytes -> strict JSON -> ApiRequest      what would change an answer and is not known here is refused, never ignored
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.contract.records import Message
from engine.contract.strict_json import BadJson, parse_strict, text_problem
from engine.generate.row import Sampling

MAX_BODY_BYTES = 8 * 2**20
MAX_MESSAGES = 2000
MAX_STOPS = 4
COMPLETION_TOKENS = 16
"""Default length of a text completion, as the OpenAI API has it; a chat answer may fill the context."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
WITHOUT_EFFECT = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Parameters that change no answer."""
ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "logprobs": (False, 0), "top_logprobs": (0,), "echo": (False,), "suffix": ("",),
    "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "tools": ([],), "tool_choice": ("none",),
    "functions": ([],), "function_call": ("none",), "response_format": ({"type": "text"},), "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
}  # fmt: skip
"""Parameters that are not supported, and the values with which they change nothing; null is always one."""


class ApiError(Exception):
    """An answer in the form of the OpenAI API's errors.

    Args:
        message: For people.
        status: Of HTTP.
        param: The parameter that is to blame.
        code: The API's word for it.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code

    def as_json(self) -> dict[str, Any]:
        """Return the body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """A checked request."""

    model: str
    messages: tuple[Message, ...] = ()
    """Of a chat; empty for a text completion."""
    text: str = ""
    """Of a text completion."""
    max_new_tokens: int | None = None
    """None = as many as the context leaves."""
    sampling: Sampling = Sampling()
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with the number of tokens."""


@dataclass(slots=True)
class _Fields:
    """The fields of a body, each taken once; problems are collected."""

    values: Mapping[str, Any]
    problems: list[tuple[str, str]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def take(self, name: str, default: Any, is_right: Callable[[Any], bool], wanted: str) -> Any:
        """Return a field, or its default if it is absent, null or wrong."""
        self.taken.add(name)
        value = self.values.get(name)
        if value is None:
            return default
        if is_right(value):
            return value
        self.wrong(name, f"`{name}` must be {wanted}")
        return default

    def wrong(self, name: str, problem: str) -> None:
        """Remember a problem."""
        self.problems.append((name, problem))

    def check_rest(self) -> None:
        """Refuse what was not taken, unless it changes nothing."""
        for name in self.values.keys() - self.taken - WITHOUT_EFFECT:
            value = self.values[name]
            if name not in ONLY:
                self.wrong(name, f"`{name[:60]}` is not known here")
            elif value is not None and not any(value == only and type(value) is type(only) for only in ONLY[name]):
                if not (isinstance(value, float) and value in ONLY[name]):
                    self.wrong(name, f"`{name}` is not supported here")


def read_body(raw: bytes) -> Mapping[str, Any]:
    """Parse a request body.

    Raises:
        ApiError: If it is no JSON object.
    """
    try:
        value = parse_strict(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ApiError("The body is not UTF-8.") from None
    except BadJson as reason:
        raise ApiError(f"The body cannot be read: {reason}.") from None
    if not isinstance(value, dict):
        raise ApiError("The body must be a JSON object.")
    return value


def chat_request(body: Mapping[str, Any]) -> ApiRequest:
    """Read the body of /v1/chat/completions.

    Raises:
        ApiError: With all that is wrong.
    """
    fields = _Fields(body)
    turns = fields.take("messages", None, lambda v: isinstance(v, list) and len(v) > 0, "a list of messages")
    if turns is None and not fields.problems:
        fields.wrong("messages", "`messages` is missing")
    messages = tuple(_message(fields, number, turn) for number, turn in enumerate((turns or [])[:MAX_MESSAGES]))
    if len(turns or ()) > MAX_MESSAGES:
        fields.wrong("messages", f"`messages` has more than {MAX_MESSAGES} items")
    newer = fields.take("max_completion_tokens", None, _is_count, "a whole number above 0")
    return _finish(fields, newer, messages=messages)


def text_request(body: Mapping[str, Any]) -> ApiRequest:
    """Read the body of /v1/completions.

    Raises:
        ApiError: With all that is wrong.
    """
    fields = _Fields(body)
    prompt = fields.take("prompt", None, _is_prompt, "a text, or a list with one")
    if prompt is None and not fields.problems:
        fields.wrong("prompt", "`prompt` is missing")
    text = prompt[0] if isinstance(prompt, list) else prompt or ""
    if problem := text_problem(text):
        fields.wrong("prompt", f"`prompt` holds {problem}")
    return _finish(fields, COMPLETION_TOKENS, text=text)


def _finish(fields: _Fields, default_tokens: int | None, **more: Any) -> ApiRequest:
    model = fields.take("model", "", lambda v: isinstance(v, str), "a name")
    if fields.values.get("model") is None:
        fields.wrong("model", "`model` is missing")
    tokens = fields.take("max_tokens", default_tokens, _is_count, "a whole number above 0")
    temperature = fields.take("temperature", 1.0, _is_within(0, 2), "a number from 0 to 2")
    top_p = fields.take("top_p", 1.0, _is_within(1e-6, 1), "a number above 0 and at most 1")
    seed = fields.take("seed", None, lambda v: _is_int(v) and -(2**63) <= v < 2**63, "a whole number")
    stops = fields.take("stop", [], _is_stops, f"a text, or up to {MAX_STOPS} of them, none empty")
    stream = fields.take("stream", False, lambda v: isinstance(v, bool), "true or false")
    options = fields.take("stream_options", {}, _is_stream_options, 'an object with "include_usage"')
    fields.check_rest()
    if fields.problems:
        message = "; ".join(problem for _, problem in fields.problems[:10])
        raise ApiError(f"This request cannot be used: {message}.", param=fields.problems[0][0])
    sampling = Sampling(
        temperature=float(temperature),
        top_p=float(top_p),
        seed=secrets.randbits(62) if seed is None else seed % 2**63,
        stop=(stops,) if isinstance(stops, str) else tuple(stops),
    )
    usage = bool(options.get("include_usage"))
    return ApiRequest(model=model, max_new_tokens=tokens, sampling=sampling, stream=stream, include_usage=usage, **more)


def _message(fields: _Fields, number: int, turn: Any) -> Message:
    where = f"messages[{number}]"
    if not isinstance(turn, dict):
        fields.wrong("messages", f"`{where}` must be an object")
        return Message("user", "")
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or role not in ROLES:
        fields.wrong("messages", f"the role of `{where}` must be one of: {', '.join(ROLES)}")
    if unknown := sorted(key for key in turn.keys() - {"role", "content"} if turn[key] is not None):
        fields.wrong("messages", f"`{unknown[0][:60]}` of `{where}` is not supported here")
    text = _text_of(content)
    if text is None:
        fields.wrong("messages", f"the content of `{where}` must be a text, or a list of parts of type `text`")
    elif problem := text_problem(text):
        fields.wrong("messages", f"`{where}` holds {problem}")
    return Message(ROLES.get(role, "user") if isinstance(role, str) else "user", text or "")


def _text_of(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_int(value) and 0 < value < 2**31


def _is_within(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: (_is_int(value) or isinstance(value, float)) and low <= value <= high


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and len(value) == 1 and isinstance(value[0], str))


def _is_stops(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and len(texts) <= MAX_STOPS and all(isinstance(t, str) and t for t in texts)


def _is_stream_options(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(item, bool) and key in ("include_usage", "include_obfuscation") for key, item in value.items()
    )
