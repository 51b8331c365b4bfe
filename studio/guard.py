"""The ASGI guard in front of Gradio: who may speak to the studio, and what a browser may do with its pages.

Gradio checks no Host (DNS rebinding), lets other origins in once the page is not on localhost, and serves a few routes
that nobody needs.  This refuses all of that and adds the headers that limit what injected text could do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from engine.contract.loopback import LOOPBACK_HOSTS, refusal
from engine.contract.places import MIN_FREE_BYTES

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 4 * 2**30
DENIED_PREFIXES = ("/gradio_api/token", "/gradio_api/proxy=", "/gradio_api/file=http", "/proxy=", "/file=http")
CLAIMS = (b"x-forwarded-", b"forwarded", b"x-real-ip")
SINGLE = (b"host", b"origin", b"content-length", b"sec-fetch-site")
"""Headers that may come once: two could be read differently by whoever reads them next."""

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # gradio needs both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer a form of ours would be sent with `Origin: null`
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Refuse foreign requests, pass the others on with safe headers.

    What a proxy claims about the sender (`Forwarded`, `X-Forwarded-*`) is taken off: anybody can write it.

    Args:
        app: The application behind.
        free: Bytes that are free where uploads go.
        hosts: Names under which the studio may be addressed, without port, IPv6 in brackets, lower case.
    """

    def __init__(
        self, app: App, *, hosts: frozenset[str] = LOOPBACK_HOSTS, free: Callable[[], int] = lambda: MIN_FREE_BYTES
    ) -> None:
        self.app, self.hosts, self.free = app, hosts, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        reason = self._refusal(scope)
        if reason:
            await _refuse(scope, send, reason)
            return
        scope["headers"] = [pair for pair in scope["headers"] if not pair[0].lower().startswith(CLAIMS)]

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                ours = {name for name, _ in HEADERS}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in ours]
                message["headers"] = [*kept, *HEADERS]
            await send(message)

        await self.app(scope, _capped(receive), with_headers)

    def _refusal(self, scope: Scope) -> str:
        """Return why a request is refused, or an empty string."""
        names = [name.lower() for name, _ in scope["headers"]]
        if any(names.count(name) > 1 for name in SINGLE):
            return "The request is ambiguous."
        headers, said = headers_of(scope), str(scope.get("scheme", "http"))
        scheme = {"ws": "http", "wss": "https"}.get(said, said)
        if reason := refusal(headers, method=str(scope.get("method", "")), hosts=self.hosts, scheme=scheme):
            return reason
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > MAX_BODY_BYTES:
            return "The request is too large."
        if scope.get("path", "").lower().startswith(DENIED_PREFIXES):
            return "This route is closed."
        if scope.get("path", "").endswith("/upload") and self.free() < MIN_FREE_BYTES:
            return "The disk is nearly full. Free some space, then upload again."
        return ""


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers of a request, names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _capped(receive: Receive) -> Receive:
    """Count what arrives: a body that came without its length ends where it gets too large."""
    seen = 0

    async def counting() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= MAX_BODY_BYTES else {"type": "http.disconnect"}

    return counting


async def _refuse(scope: Scope, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
