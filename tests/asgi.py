"""One request straight into an ASGI application, without a server: what a client sees of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


async def reached(scope, receive, send):
    """Stand for the application behind: 200 and the scope's user, with a header that must not survive."""
    headers = [(b"x-frame-options", b"ALLOWALL"), (b"x-user", scope.get("studio_user", "").encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"reached"})


def ask(
    app: Any,
    path: str = "/",
    method: str = "GET",
    *,
    form: dict[str, str] | None = None,
    client: str = "127.0.0.1",
    scheme: str = "http",
    more: tuple[tuple[str, str], ...] = (),
    **headers: str,
) -> Answer:
    """Send one request; header names are written with underscores, `more` can repeat one."""
    return asyncio.run(ask_async(app, path, method, form=form, client=client, scheme=scheme, more=more, **headers))


async def ask_async(app, path="/", method="GET", *, form=None, client="127.0.0.1", scheme="http", more=(), **headers):
    """As `ask`, inside a running loop."""
    sent: list[dict] = []

    async def receive():
        return {"type": "http.request", "body": urlencode(form or {}).encode()}

    async def send(message):
        sent.append(message)

    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()] + list(more)
    bare, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": bare,
        "query_string": query.encode(),
        "scheme": scheme,
        "client": (client, 5000),
        "headers": [(name.encode(), value.encode()) for name, value in pairs],
    }
    await app(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]))
