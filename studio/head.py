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


class InjectPage:
    """Insert HTML into every page the application sends.

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
        page = b""

        async def collect(message: MutableMapping[str, Any]) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                if kind.startswith(b"text/html"):
                    start = message
                    return
            if start is None:
                await send(message)
                return
            page += message.get("body", b"")
            if message.get("more_body"):
                return
            page = page.replace(b"</head>", self.head + b"</head>", 1)
            page = re.sub(rb"(<body[^>]*>)", lambda found: found.group(1) + self.body, page, count=1)
            kept = [(name, value) for name, value in start["headers"] if name != b"content-length"]
            start["headers"] = [*kept, (b"content-length", str(len(page)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, collect)
