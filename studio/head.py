"""Put our styles, the theme switch and the header into the HTML that the server sends.

Gradio adds its `head=` from JavaScript after it has started: too late for a theme, and the page would flash.  What is
inserted is constant text; the header fills itself from `/studio/api/header.json`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from studio.guard import App, Receive, Scope, Send

STYLES = (
    "vendor/uplot/uPlot.min.css",
    "studio.css",
    "datasets.css",
    "new_run.css",
    "run.css",
    "run_samples.css",
    "runs.css",
    "chat.css",
    "evaluate.css",
    "settings.css",
)
SCRIPTS = ("vendor/uplot/uPlot.iife.min.js", "header.js", "draft.js")
STATIC = "/studio-static"
COLORS = "/studio/api/colors.js"

THEME_BOOT = """<script>(function(){try{
var wanted=localStorage.getItem('studio.theme')||'system';
var dark=wanted==='dark'||(wanted==='system'&&matchMedia('(prefers-color-scheme: dark)').matches);
document.documentElement.classList.toggle('dark',dark);
var url=new URL(location.href);
if(!url.searchParams.has('__theme')&&wanted!=='system'){url.searchParams.set('__theme',wanted);history.replaceState(null,'',url);}
}catch(e){}})()</script>"""


def head_html(assets: Path) -> str:
    """Return what goes before `</head>`; a changed file gets a new address, so that no old copy is used."""

    def address(name: str) -> str:
        digest = hashlib.sha256((assets / name).read_bytes()).hexdigest()[:12]
        return f"{STATIC}/{name}?v={digest}"

    styles = "".join(f'<link rel="stylesheet" href="{address(name)}">' for name in STYLES)
    language = f'<script src="{address("language.js")}"></script>'  # at once: a page is hidden until it can be read
    colors = f'<script src="{COLORS}"></script>'  # before anything is drawn
    scripts = "".join(f'<script src="{address(name)}" defer></script>' for name in SCRIPTS)
    return language + colors + styles + THEME_BOOT + scripts


MISSING = b"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>MFT Studio</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head><body><div class="gradio-container">
<main class="contain" id="studio-main"><div class="st"><section class="card empty">
<h1>There is no page at this address.</h1>
<p>The line above leads to every page.</p><a href="/">Home</a></section></div></main></div></body></html>"""


class InjectPage:
    """Insert HTML into every page the application sends, and put a page in place of its bare "not found".

    Args:
        app: The application behind.
        head: HTML for the end of the head.
        body: HTML for the start of the body.
    """

    def __init__(self, app: App, *, head: str, body: str) -> None:
        self.app, self.head, self.body = app, head.encode(), body.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        wants_html = scope["type"] == "http" and b"text/html" in dict(scope["headers"]).get(b"accept", b"")
        if not wants_html:
            await self.app(scope, receive, send)
            return
        start: MutableMapping[str, Any] | None = None
        page, is_missing = b"", False

        async def collect(message: MutableMapping[str, Any]) -> None:
            nonlocal start, page, is_missing
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                is_missing = message["status"] == 404 and kind.startswith(b"application/json")
                if is_missing or kind.startswith(b"text/html"):
                    start = message
                    return
            if start is None:
                await send(message)
                return
            page += message.get("body", b"")
            if message.get("more_body"):
                return
            page = (MISSING if is_missing else page).replace(b"</head>", self.head + b"</head>", 1)
            page = re.sub(rb"(<body[^>]*>)", lambda found: found.group(1) + self.body, page, count=1)
            kept = [pair for pair in start["headers"] if pair[0] not in (b"content-length", b"content-type")]
            own = (b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(page)).encode())
            start["headers"] = [*kept, *own]
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, collect)
