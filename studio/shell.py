"""The frame around the pages: routes, theme, header, static files, guard.

browser -> Guard (who may speak) -> Gate (log-in) -> InjectPage (styles, header) -> our JSON routes | Gradio's pages
"""

from __future__ import annotations

import warnings

import gradio as gr
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware

from engine.contract.places import free_bytes
from studio.access.gate import Gate
from studio.access.opening import Access
from studio.api import add_routes
from studio.context import StudioContext
from studio.guard import Guard
from studio.head import STATIC, InjectPage, head_html
from studio.language import add_catalogues
from studio.pages import chat, compare, datasets, evaluate, export, home, new_run, run, runs, settings
from studio.theme import studio_theme

PAGES = (
    ("Datasets", "/datasets", datasets.build),
    ("New run", "/new", new_run.build),
    ("Runs", "/runs", runs.build),
    ("Run", "/run", run.build),
    ("Compare", "/compare", compare.build),
    ("Chat", "/chat", chat.build),
    ("Evaluate", "/evaluate", evaluate.build),
    ("Export", "/export", export.build),
    ("Settings", "/settings", settings.build),
)
"""Title, route and builder of every page but Home."""

HEADER = """<header id="studio-header"><a class="skip" href="#studio-main">Skip to the page</a>
<a class="brand" href="/" aria-label="MFT Studio, home"><svg width="24" height="24" viewBox="0 0 24 24" fill="none"
stroke-linecap="round" stroke-width="2.4" aria-hidden="true"><path d="M3 5c6 0 6 7 11 7" stroke="var(--st-t1)"/>
<path d="M3 19c6 0 6-7 11-7" stroke="var(--st-t2)"/><path d="M3 12h18" stroke="var(--st-accent)"/></svg>
<span>MFT Studio</span></a>
<nav aria-label="Pages"><a href="/">Home</a><a href="/datasets">Datasets</a><a href="/new">New run</a>
<a href="/runs">Runs</a><a href="/chat">Chat</a><a href="/evaluate">Evaluate</a><a href="/export">Export</a>
<a href="/settings">Settings</a></nav>
<div class="grow"></div><a id="studio-live" class="live-chip" hidden></a>
<span id="studio-machine" class="machine"></span>
<button type="button" class="language-switch" translate="no"></button>
<button id="studio-theme" type="button" aria-label="Switch between light and dark"><svg width="18" height="18"
viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"
aria-hidden="true"><path d="M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5Z"/></svg></button>
<form id="studio-logout" method="post" action="/logout" hidden><button type="submit">Log out</button></form></header>
<a id="studio-main" tabindex="-1"></a>"""
"""Constant markup; `assets/header.js` marks the current page and fills the chip and the machine."""


def build_blocks(context: StudioContext) -> gr.Blocks:
    """Lay out all pages."""
    with gr.Blocks(title="MFT Studio", fill_width=True, analytics_enabled=False) as blocks:
        gr.Navbar(visible=False)
        home.build(context)
    for title, route, build in PAGES:
        with blocks.route(title, route):
            gr.Navbar(visible=False)
            build(context)
    blocks.queue(default_concurrency_limit=8, max_size=64)
    return blocks


def build_app(context: StudioContext, access: Access) -> FastAPI:
    """Return the whole web application.

    Args:
        context: Where things lie.
        access: Who may reach it, and how.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.mount(STATIC, StaticFiles(directory=context.project / "assets"))
    add_routes(app, context)
    add_catalogues(app)
    blocks = build_blocks(context)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SSR mode is not supported")  # it is off, as we ask
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            theme=studio_theme(),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            show_error=False,
            allowed_paths=[],
            max_file_size="2gb",
            mcp_server=False,
            pwa=False,
        )
    # the last one added is the outermost
    app.add_middleware(InjectPage, head=head_html(context.project / "assets"), body=HEADER)
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    app.add_middleware(Gate, access=access, assets=context.project / "assets")
    app.add_middleware(Guard, hosts=access.hosts, free=lambda: free_bytes(context.root.temporary))
    return app
