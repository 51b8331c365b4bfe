"""The Home page: the starter, presets, recent runs."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from studio.context import StudioContext
from studio.islands import island
from studio.logic import home


def build(context: StudioContext) -> None:
    """Add the page to the open Blocks."""

    def look() -> dict[str, Any]:
        return home.look(context.root, context.project)

    with gr.Column(elem_classes="page-home"):
        view = island(context.project, "home_page", {}, elem_id="home")
    assert Context.root_block is not None  # pages are built inside the shell's Blocks
    Context.root_block.load(look, None, view, show_progress="hidden", api_name="home_look")
