"""The log-in in front of everything: pages, Gradio's routes, our JSON and static files.

request -> Guard -> Gate: a session? -> the application        no session: page -> /login, anything else -> 401
                          /login (GET, POST)  /logout (POST)

Without accounts the gate is open to browsers, and programs without `Origin` (curl, scripts) need the token of this
start to change anything: it lies in the data root, readable by its owner only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from hmac import compare_digest
from pathlib import Path
from urllib.parse import parse_qs, quote

from studio.access.opening import Access
from studio.access.page import LoginPage, bounce_page
from studio.access.sessions import LONGEST_S, Sessions
from studio.access.throttle import Throttle
from studio.guard import App, Receive, Scope, Send, headers_of

logger = logging.getLogger(__name__)
MAX_FORM_BYTES = 8192
READS = ("GET", "HEAD", "OPTIONS")
USER_KEY = "studio_user"
"""Where the scope of a request says who made it."""


class Gate:
    """Let people in who know a password.

    Args:
        app: The application behind.
        access: Who may log in, and whether they must.
        assets: Folder with the styles and the page.
    """

    def __init__(self, app: App, *, access: Access, assets: Path) -> None:
        self.app, self.access, self.accounts = app, access, access.accounts
        self.cookie = f"studio_session_{access.port}"  # cookies do not tell ports apart, so its name does
        self.sessions, self.throttle, self.page = Sessions(access.accounts), Throttle(), LoginPage(assets)
        self._one_check = asyncio.Semaphore(2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = headers_of(scope)
        path, method = scope.get("path", ""), scope.get("method", "GET")
        if not (self.access.exposed or self.accounts.is_used):
            await self._open(scope, receive, send, headers)
        elif path == "/login" and method in ("GET", "HEAD"):
            await self._show(scope, send, headers)
        elif path == "/login" and method == "POST":
            await self._log_in(scope, receive, send, headers)
        elif path == "/logout" and method == "POST":
            await self._log_out(send, headers, secure=scope.get("scheme") == "https")
        elif user := self.sessions.user_of(_cookie(headers, self.cookie)):
            scope[USER_KEY] = user
            await self.app(scope, receive, send)
        else:
            await self._refuse(scope, send, headers)

    async def _open(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        """No log-in is needed here."""
        changes = scope["type"] == "http" and scope.get("method", "GET") not in READS
        told, token = headers.get("x-studio-token", "").encode(), self.access.token.encode()
        known = token != b"" and compare_digest(told, token)
        if changes and "origin" not in headers and not known:
            text = "A program must send the token of this start: X-Studio-Token, from locks/studio.token."
            await answer(send, 403, text)
        else:
            await self.app(scope, receive, send)

    async def _show(self, scope: Scope, send: Send, headers: Mapping[str, str]) -> None:
        wanted = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("next", [""])[0]
        if self.sessions.user_of(_cookie(headers, self.cookie)):
            await answer(send, 303, "", location=local_address(wanted))
        else:
            ended = bool(_cookie(headers, self.cookie))
            page = self.page.html(wanted=local_address(wanted), accepts=_languages(headers), ended=ended)
            await answer(send, 200, page, kind="text/html")

    async def _log_in(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        if "origin" not in headers:
            await answer(send, 403, "A log-in must come from the log-in page.")
            return
        form = await _form(receive)
        user, password = form.get("user", "").strip().lower(), form.get("password", "")
        wanted = local_address(form.get("next", ""))
        address = str((scope.get("client") or ("unknown", 0))[0])
        if wait := self.throttle.wait_s(address, user):
            logger.warning("log-in from %s is locked for %.0f s", address, wait)
            page = self.page.html(wanted=wanted, accepts=_languages(headers), user=user, locked=True)
            await answer(send, 429, page, kind="text/html", retry_after=str(int(wait) + 1))
            return
        async with self._one_check:
            right = await asyncio.to_thread(self.accounts.check, user, password)
        if not right:
            logger.warning("log-in from %s failed", address)
            page = self.page.html(wanted=wanted, accepts=_languages(headers), user=user, wrong=True)
            await answer(send, 401, page, kind="text/html")
            return
        self.throttle.succeeded(address, user)
        self.sessions.end(_cookie(headers, self.cookie))  # a token from before the log-in is worth nothing after it
        token = self.sessions.begin(user)
        cookie = self._cookie(token, LONGEST_S, secure=scope.get("scheme") == "https")
        await answer(send, 303, "", location=wanted, set_cookie=cookie)

    async def _log_out(self, send: Send, headers: Mapping[str, str], *, secure: bool) -> None:
        if "origin" not in headers:
            await answer(send, 403, "Logging out must come from a page of the studio.")
            return
        self.sessions.end(_cookie(headers, self.cookie))
        await answer(send, 303, "", location="/login", set_cookie=self._cookie("", 0, secure=secure))

    async def _refuse(self, scope: Scope, send: Send, headers: Mapping[str, str]) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        is_page = scope.get("method") == "GET" and "text/html" in headers.get("accept", "")
        if not is_page:
            await answer(send, 401, '{"login": true}', kind="application/json")
            return
        query = scope.get("query_string", b"").decode("latin-1")
        here = local_address(scope.get("path", "/") + (f"?{query}" if query else ""))
        if headers.get("sec-fetch-site") == "cross-site":
            # a link from elsewhere comes without the strict cookie; the same address asked for by our own page has it
            await answer(send, 200, bounce_page(here), kind="text/html")
        else:
            await answer(send, 303, "", location=f"/login?next={quote(here, safe='')}")

    def _cookie(self, token: str, max_age_s: float, *, secure: bool) -> str:
        attributes = f"Max-Age={max_age_s:.0f}; Path=/; HttpOnly; SameSite=Strict"
        return f"{self.cookie}={token}; {attributes}{'; Secure' if secure else ''}"


def local_address(wanted: str) -> str:
    """Return an address of the studio to go on to; anything else becomes the home page."""
    plain = all(" " < character < "\x7f" for character in wanted) and "\\" not in wanted
    fine = wanted.startswith("/") and not wanted.startswith("//") and plain and len(wanted) < 2000
    return wanted if fine and not wanted.startswith(("/login", "/logout")) else "/"


async def answer(send: Send, status: int, body: str, *, kind: str = "text/plain", **headers: str) -> None:
    """Send a whole answer that nobody may keep."""
    pairs = {"content-type": f"{kind}; charset=utf-8", "cache-control": "no-store", **headers}
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body.encode()})


async def _form(receive: Receive) -> dict[str, str]:
    """Read a small form; one that is too large or broken is empty."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = bool(message.get("more_body")) and message["type"] == "http.request"
        if len(body) > MAX_FORM_BYTES:
            return {}
    try:
        return {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
    except ValueError:
        return {}


def _languages(headers: Mapping[str, str]) -> str:
    return headers.get("accept-language", "")


def _cookie(headers: Mapping[str, str], name: str) -> str:
    for part in headers.get("cookie", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return ""
