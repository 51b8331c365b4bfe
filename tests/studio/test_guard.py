"""The guard: only our own pages speak to the studio, and every answer carries safe headers."""

from __future__ import annotations

import asyncio

import pytest

from studio.guard import Guard

HOST = "127.0.0.1:7860"


def send_request(path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    """Send one request through the guard; return the status and headers. 200 = it reached the application."""
    sent: list[dict] = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOWALL")]})
        await send({"type": "http.response.body", "body": b""})

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(Guard(application)(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860"])
def test_our_own_names_pass(host):
    assert send_request(host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["rebind.test", "127.0.0.1.evil.test:7860", "", "evil.test:7860", "localhost.evil:7860"]
)
def test_other_names_are_refused(host):
    assert send_request(host=host)[0] == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.test", "http://127.0.0.1:9999", "null", "http://localhost:7860", "http://127.0.0.1:7860.evil.test"],
)
def test_other_origins_are_refused_also_on_the_same_host(origin):
    assert send_request("/gradio_api/queue/join", "POST", host=HOST, origin=origin)[0] == 403


def test_our_own_origin_and_tools_without_one_pass():
    assert send_request("/gradio_api/queue/join", "POST", host=HOST, origin=f"http://{HOST}")[0] == 200
    assert send_request("/studio/api/header.json", host=HOST)[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_may_link_to_us_and_nothing_else(site):
    assert send_request(host=HOST, sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 200
    assert (
        send_request("/gradio_api/upload", "POST", host=HOST, sec_fetch_site=site, sec_fetch_mode="no-cors")[0] == 403
    )
    assert send_request("/studio/api/run.json", host=HOST, sec_fetch_site=site, sec_fetch_mode="cors")[0] == 403


@pytest.mark.parametrize(
    "path", ["/gradio_api/token", "/gradio_api/proxy=http://x", "/gradio_api/file=http://127.0.0.1/"]
)
def test_routes_that_nobody_needs_are_closed(path):
    assert send_request(path, host=HOST)[0] == 403


@pytest.mark.parametrize("length", [str(2**40), "many", "-1"])
def test_bodies_without_a_sane_length_are_refused(length):
    assert send_request("/", "POST", host=HOST, content_length=length)[0] == 403


def test_every_answer_carries_the_headers_once():
    for request in ({"host": HOST}, {"host": "evil.test"}):
        headers = send_request(**request)[1]
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
