"""What every page gets, and the page in place of a bare "not found"."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from studio.head import InjectPage

PAGE = b"<html><head></head><body class='x'>said</body></html>"


def answer(
    kind: str, body: bytes, *, status: int = 200, accept: str = "text/html"
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, headers and body of an application's answer as they leave the middleware."""
    sent: list[dict[str, Any]] = []

    async def app(scope, receive, send):
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"accept", accept.encode())]}
    asyncio.run(InjectPage(app, head="<link>", body="<nav>ours</nav>")(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def test_a_page_gets_head_and_header():
    status, headers, page = answer("text/html", PAGE)
    assert page == b"<html><head><link></head><body class='x'><nav>ours</nav>said</body></html>"
    assert (status, int(headers[b"content-length"])) == (200, len(page))


def test_a_browser_that_finds_nothing_gets_a_page_with_the_way_back():
    status, headers, page = answer("application/json", b'{"detail":"Not Found"}', status=404)
    assert status == 404 and headers[b"content-type"] == b"text/html; charset=utf-8"
    assert b"There is no page at this address." in page and b"<nav>ours</nav>" in page and b"<link>" in page
    assert int(headers[b"content-length"]) == len(page)


@pytest.mark.parametrize(
    ("kind", "status", "accept"),
    [("application/json", 404, "*/*"), ("text/plain", 404, "text/html"), ("application/json", 200, "text/html")],
)
def test_everything_else_stays_as_it_is(kind, status, accept):
    assert answer(kind, b"{}", status=status, accept=accept)[::2] == (status, b"{}")
