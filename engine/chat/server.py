"""An endpoint that speaks the OpenAI API, for programs on this machine.

    GET /v1/models      POST /v1/chat/completions      POST /v1/completions      whole or as server-sent events

One answer at a time: a thread generates, a few requests wait, more are told so (429).  Every request needs the token
that was made at the start, comes to a loopback address and from no stranger's page.  A client that leaves ends its
answer within a token.  Every failure has the form of the API's errors.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.chat.answering import answer_all
from engine.chat.api_answers import ChatForm, Form, TextForm, event_line, finish_of, usage_of
from engine.chat.api_requests import MAX_BODY_BYTES, ApiError, ApiRequest, chat_request, read_body, text_request
from engine.chat.models import ChatModels
from engine.chat.prompts import chat_prompt, text_prompt
from engine.chat.question import Answer, Question
from engine.contract.errors import UserError
from engine.contract.loopback import refusal
from engine.contract.speakers import Speaker

MAX_WAITING = 8
"""Requests that wait behind the one that is answered."""
LOOK_S = 0.5
"""How often a request looks whether its client is still there."""
ENDLESS = 4096
"""Longest answer of a model that does not say how much it can see."""
SINGLE = ("host", "origin", "authorization", "content-length")
"""Headers that may come once: two could be read differently by whoever reads them next."""
logger = logging.getLogger(__name__)


class Endpoint:
    """The models behind the endpoint and who waits for them.

    Args:
        models: Loads what is asked for.
        speakers: Name of a model -> who answers.
    """

    def __init__(self, models: ChatModels, speakers: Mapping[str, Speaker]) -> None:
        self.models, self.speakers = models, speakers
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")
        self.waiting = 0
        """Requests that are answered or wait."""
        self.stops: set[threading.Event] = set()

    async def list_models(self, _: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [_card(name, one) for name, one in self.speakers.items()]})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        name = request.path_params["name"]
        return JSONResponse(_card(name, self._speaker(name)))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._complete(request, chat_request(read_body(await _body(request))), ChatForm)

    async def text(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._complete(request, text_request(read_body(await _body(request))), TextForm)

    def close(self) -> None:
        """End what is being answered."""
        for stop in list(self.stops):
            stop.set()
        self.thread.shutdown(wait=True, cancel_futures=True)

    def _speaker(self, name: str) -> Speaker:
        if name not in self.speakers:
            known = ", ".join(list(self.speakers)[:20])
            message = f"There is no model `{name[:100]}`. There are: {known}."
            raise ApiError(message, status=404, param="model", code="model_not_found")
        return self.speakers[name]

    async def _complete(self, request: Request, asked: ApiRequest, kind: type[Form]) -> Response:
        speaker = self._speaker(asked.model)
        if self.waiting > MAX_WAITING:
            message = f"{self.waiting} requests are answered or wait already; try again later."
            raise ApiError(message, status=429, code="rate_limit_exceeded")
        heard = self._answer(speaker, asked)
        try:
            first = await heard.next(request)
        except BaseException:
            heard.close()
            raise
        if asked.stream:
            lines = _events(heard, request, kind(asked), first)
            return StreamingResponse(lines, media_type="text/event-stream", headers={"cache-control": "no-store"})
        try:
            while not isinstance(first, Answer):
                first = await heard.next(request)
        finally:
            heard.close()
        return JSONResponse(kind(asked).whole(first))

    def _answer(self, speaker: Speaker, asked: ApiRequest) -> _Heard:
        """Put a request into the queue of the thread."""
        heard = _Heard()

        def work() -> None:
            if not heard.stop.is_set():
                self._generate(speaker, asked, heard)

        def over(done: Future[None]) -> None:
            if not done.cancelled() and (error := done.exception()):
                heard.tell(_as_api_error(error))
            heard.in_loop(self._left, heard.stop)

        self.waiting += 1
        self.stops.add(heard.stop)
        heard.future = self.thread.submit(work)
        heard.future.add_done_callback(over)
        return heard

    def _left(self, stop: threading.Event) -> None:
        self.waiting -= 1
        self.stops.discard(stop)

    def _generate(self, speaker: Speaker, asked: ApiRequest, heard: _Heard) -> None:
        """Answer, in the thread: an empty text once the prompt is accepted, the pieces, then the answer."""
        self.models.bring([speaker])
        codec, context = self.models.codec(speaker), self.models.context(speaker)
        length: dict[str, Any] = {"context": context, "max_new_tokens": asked.max_new_tokens or context or ENDLESS}
        if asked.messages:
            prompt = chat_prompt(codec, asked.messages, **length)
        else:
            prompt = text_prompt(codec, asked.text, **length)
        if asked.max_new_tokens and prompt.max_new_tokens < asked.max_new_tokens:
            counts = f"The prompt has {len(prompt.ids)} tokens, max_tokens is {asked.max_new_tokens}"
            problem = f"{counts}; together they are more than the model can see, {context}."
            raise ApiError(problem, param="max_tokens", code="context_length_exceeded")
        heard.tell("")
        question = Question(speaker=speaker, prompt=prompt, sampling=asked.sampling)
        for _, answer in answer_all(self.models, [question], lambda _, text: heard.tell(text), heard.stop):
            heard.tell(answer)


class _Heard:
    """What the thread says to one request."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.future: Future[None] | None = None
        self._looked = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[str | Answer | ApiError] = asyncio.Queue()

    def in_loop(self, function: Callable[..., None], *values: Any) -> None:
        """Call a function in the loop of the request; nothing if that is over."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *values)

    def tell(self, item: str | Answer | ApiError) -> None:
        """Say something; from the thread."""
        self.in_loop(self._items.put_nowait, item)

    async def next(self, request: Request) -> str | Answer:
        """Return the next thing that is said.

        Args:
            request: Looked at meanwhile: nobody needs the answer once its client is gone.

        Raises:
            ApiError: If the request cannot be answered.
            ClientDisconnect: If the client leaves.
        """
        while True:
            if time.monotonic() - self._looked > LOOK_S:
                self._looked = time.monotonic()
                if await request.is_disconnected():
                    raise ClientDisconnect
            try:
                item = await asyncio.wait_for(self._items.get(), LOOK_S)
            except TimeoutError:
                continue
            if isinstance(item, ApiError):
                raise item
            return item

    def close(self) -> None:
        """End the answer if it is still made."""
        self.stop.set()
        if self.future is not None:
            self.future.cancel()


async def _events(heard: _Heard, request: Request, form: Form, first: str | Answer) -> AsyncIterator[bytes]:
    """Yield the lines of a stream; a failure in its middle is its last event."""
    item = first
    try:
        if opening := form.opening():
            yield event_line(form.chunk(opening))
        while not isinstance(item, Answer):
            if item:
                yield event_line(form.chunk(form.piece(item)))
            item = await heard.next(request)
        # only now is it proven who spoke
        yield event_line(form.chunk(form.piece(""), finish_of(item), system_fingerprint=item.speaker))
        if form.asked.include_usage:
            yield event_line({**form.head, "object": form.chunk_name, "choices": [], "usage": usage_of(item)})
        yield b"data: [DONE]\n\n"
    except ApiError as error:
        yield event_line(error.as_json())
    except ClientDisconnect:
        return
    finally:
        heard.close()


class _Door:
    """Lets in who has the token, comes to a loopback address and from no stranger's page."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self.app, self.expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope)):
            await _error_response(error)(scope, receive, send)
        elif scope["type"] != "websocket":
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(pairs)
        if any(sum(name == one for name, _ in pairs) > 1 for one in SINGLE):
            return ApiError("The request is ambiguous.")
        if reason := refusal(headers, method=scope["method"]):
            return ApiError(reason, status=403)
        if not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), self.expected):
            message = "The bearer token is missing or wrong; it was printed when the endpoint started."
            return ApiError(message, status=401, code="invalid_api_key")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > MAX_BODY_BYTES:
            return ApiError(f"The body is larger than {MAX_BODY_BYTES} bytes.", status=413)
        return None


def build_app(models: ChatModels, speakers: Mapping[str, Speaker], *, token: str) -> _Door:
    """Return the application.

    Args:
        models: Loads what is asked for.
        speakers: Name of a model -> who answers.
        token: Every request brings it.
    """
    endpoint = Endpoint(models, speakers)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        endpoint.close()

    routes = [
        Route("/v1/models", endpoint.list_models),
        Route("/v1/models/{name:path}", endpoint.one_model),
        Route("/v1/chat/completions", endpoint.chat, methods=["POST"]),
        Route("/v1/completions", endpoint.text, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {ApiError: _on_error, HTTPException: _on_error, ClientDisconnect: _on_error}
    app = Starlette(routes=routes, exception_handlers={**handlers, Exception: _on_error}, lifespan=life)
    app.state.endpoint = endpoint
    return _Door(app, token=token)


async def _body(request: Request) -> bytes:
    """Read a body that may not say how long it is."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(f"The body is larger than {MAX_BODY_BYTES} bytes.", status=413)
    return bytes(body)


def _as_api_error(error: BaseException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(" ".join(filter(None, [error.problem, error.fix])))
    if isinstance(error, HTTPException):
        known = {404: "There is no such route.", 405: "This route does not take this method."}
        return ApiError(known.get(error.status_code, str(error.detail)), status=error.status_code)
    if isinstance(error, ClientDisconnect):
        return ApiError("The client has left.", status=499)
    logger.error("a request failed", exc_info=error)
    if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
        return ApiError("Out of memory.", status=503, code="out_of_memory")
    return ApiError("The request failed; the terminal of the endpoint says why.", status=500)


def _error_response(error: ApiError) -> Response:
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "2"}}.get(error.status)
    return JSONResponse(error.as_json(), status_code=error.status, headers=headers)


async def _on_error(_: Request, error: Exception) -> Response:
    return _error_response(_as_api_error(error))


def _card(name: str, speaker: Speaker) -> dict[str, Any]:
    created = int(Path(speaker.folder).stat().st_mtime) if speaker.folder and Path(speaker.folder).exists() else 0
    return {"id": name, "object": "model", "created": created, "owned_by": speaker.run or "base"}
