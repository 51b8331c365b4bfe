"""The guard: only our own pages speak to the studio, and every answer carries safe headers."""

from __future__ import annotations

import asyncio

import pytest

from engine.contract.loopback import LOOPBACK_HOSTS
from studio import guard
from studio.guard import Guard
from tests.asgi import ask, reached

HOST, OURS = "127.0.0.1:7860", "http://127.0.0.1:7860"
CALL, UPLOAD, JSON = "/gradio_api/queue/join", "/gradio_api/upload", "/studio/api/run.json"
JSON_TYPE, FORM_TYPE, TEXT_TYPE = "application/json", "multipart/form-data; boundary=x", "text/plain"


def at(site: str, mode: str, dest: str = "") -> dict[str, str]:
    """Return the headers by which a browser says where a request comes from."""
    more = {"sec_fetch_dest": dest} if dest else {}
    return {"host": HOST, "sec_fetch_site": site, "sec_fetch_mode": mode, **more}


def of(origin: str, kind: str = JSON_TYPE) -> dict[str, str]:
    """Return the headers of a page's request that carries a body."""
    return {"host": HOST, "origin": origin, "content_type": kind}


EVIL = "http://evil.test"
# what, passes, path, method, headers
CASES = [
    ("our page opens", True, "/", "GET", {"host": HOST}),
    ("localhost is us", True, "/", "GET", {"host": "localhost:7860"}),
    ("through a tunnel with another port", True, "/", "GET", {"host": "localhost:9000"}),
    ("IPv6", True, "/", "GET", {"host": "[::1]:7860"}),
    ("IPv6 without port", True, "/", "GET", {"host": "[::1]"}),
    ("upper case", True, "/", "GET", {"host": "LOCALHOST:7860"}),
    ("our page calls", True, CALL, "POST", of(OURS, JSON_TYPE)),
    ("our page uploads", True, UPLOAD, "POST", of(OURS, FORM_TYPE)),
    ("our page over IPv6", True, CALL, "POST", {"host": "[::1]:7860", "origin": "http://[::1]:7860"}),
    ("our page polls", True, JSON, "GET", at("same-origin", "cors")),
    ("a typed address", True, "/", "GET", at("none", "navigate")),
    ("a link elsewhere", True, "/", "GET", at("cross-site", "navigate")),
    ("rebinding", False, "/", "GET", {"host": "rebind.test"}),
    ("rebinding with our port", False, JSON, "GET", {"host": "rebind.test:7860"}),
    ("our name as a label", False, "/", "GET", {"host": "127.0.0.1.evil.test:7860"}),
    ("our name as a beginning", False, "/", "GET", {"host": "localhost.evil:7860"}),
    ("no host", False, "/", "GET", {"host": ""}),
    ("another loopback address", False, "/", "GET", {"host": "127.0.0.2:7860"}),
    ("IPv6 without brackets", False, "/", "GET", {"host": "::1"}),
    ("IPv4 mapped", False, "/", "GET", {"host": "[::ffff:127.0.0.1]:7860"}),
    ("user in host", False, "/", "GET", {"host": "127.0.0.1@evil.test"}),
    ("a strange page calls", False, CALL, "POST", of(EVIL, JSON_TYPE)),
    ("as text", False, CALL, "POST", of(EVIL, TEXT_TYPE)),
    ("a strange page uploads", False, UPLOAD, "POST", of(EVIL, FORM_TYPE)),
    ("same host, other port", False, CALL, "POST", {"host": HOST, "origin": "http://127.0.0.1:9999"}),
    ("localhost for 127.0.0.1", False, CALL, "POST", {"host": HOST, "origin": "http://localhost:7860"}),
    ("no origin to name", False, CALL, "POST", {"host": HOST, "origin": "null"}),
    ("other scheme", False, CALL, "POST", {"host": HOST, "origin": f"https://{HOST}"}),
    ("origin that begins like ours", False, CALL, "POST", {"host": HOST, "origin": f"{OURS}.evil.test"}),
    ("a strange page reads", False, JSON, "GET", {"host": HOST, "origin": "http://evil.test"}),
    ("a strange page posts without saying who", False, UPLOAD, "POST", at("cross-site", "no-cors")),
    ("a neighbour's page reads", False, JSON, "GET", at("same-site", "cors")),
    ("a strange image", False, JSON, "GET", at("cross-site", "no-cors", "image")),
    ("a strange frame", False, "/", "GET", at("cross-site", "navigate", "iframe")),
    ("a strange form", False, "/login", "POST", at("cross-site", "navigate")),
    ("a forwarded host does not help", False, "/", "GET", {"host": "evil.test", "x_forwarded_host": HOST}),
]  # fmt: skip


@pytest.mark.parametrize(("passes", "path", "method", "headers"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_only_our_own_origin_passes(passes, path, method, headers):
    assert ask(Guard(reached), path, method, **headers).status == (200 if passes else 403)


def test_there_are_enough_cases():
    assert len(CASES) >= 34 and sum(case[1] for case in CASES) >= 10


def test_two_hosts_or_origins_are_refused():
    for name, value in (("host", "evil.test"), ("origin", OURS), ("origin", "http://evil.test")):
        assert ask(Guard(reached), host=HOST, origin=OURS, more=((name, value),)).status == 403


def test_a_named_host_passes_with_its_own_origin_only():
    app = Guard(reached, hosts=LOOPBACK_HOSTS | {"gpu-box.lab"})
    assert ask(app, host="gpu-box.lab:7860").status == 200
    assert ask(app, CALL, "POST", host="gpu-box.lab:7860", origin="http://gpu-box.lab:7860").status == 200
    assert ask(app, CALL, "POST", host="gpu-box.lab:7860", origin="http://gpu-box.lab:18000").status == 403
    secure = {"host": "gpu-box.lab", "scheme": "https"}
    assert ask(app, CALL, "POST", origin="https://gpu-box.lab", **secure).status == 200
    assert ask(app, CALL, "POST", origin="http://gpu-box.lab", **secure).status == 403


def test_what_a_proxy_claims_never_reaches_the_application():
    seen: list[bytes] = []

    async def application(scope, receive, send):
        seen.extend(name for name, _ in scope["headers"])
        await reached(scope, receive, send)

    claims = {"x_forwarded_for": "10.0.0.1", "x_forwarded_host": "evil.test", "forwarded": "host=evil.test"}
    assert ask(Guard(application), host=HOST, **claims).status == 200
    assert seen == [b"host"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/token",
        "/gradio_api/proxy=http://x",
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/file=HTTP://x",
    ],
)
def test_routes_that_nobody_needs_are_closed(path):
    assert ask(Guard(reached), path, host=HOST).status == 403


@pytest.mark.parametrize("length", [str(2**40), "many", "-1", "9" * 10_000, "²"])
def test_bodies_without_a_sane_length_are_refused(length):
    assert ask(Guard(reached), "/", "POST", host=HOST, content_length=length).status == 403


def test_a_body_that_hides_its_length_ends_at_the_limit(monkeypatch):
    monkeypatch.setattr(guard, "MAX_BODY_BYTES", 25)
    read: list[dict] = []

    async def application(scope, receive, send):
        for _ in range(4):
            read.append(await receive())

    async def receive():
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", HOST.encode())]}
    asyncio.run(Guard(application)(scope, receive, lambda message: None))
    assert [message["type"] for message in read] == ["http.request"] * 2 + ["http.disconnect"] * 2


def test_every_answer_carries_the_headers_once():
    for host in (HOST, "evil.test"):
        headers = ask(Guard(reached), host=host).headers
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
