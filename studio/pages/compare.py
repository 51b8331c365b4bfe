"""The Compare page: `/compare?runs=a,b,c`."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.files import finite
from studio.context import StudioContext
from studio.islands import island
from studio.logic import compare
from studio.wiring import ONCE


def build(context: StudioContext) -> None:
    """Add the page to the open route."""

    def look(request: gr.Request) -> dict[str, Any]:
        found = compare.look(context.root, str(request.query_params.get("runs", "")))
        shown = finite(found)
        return dict(shown)

    with gr.Column(elem_classes="page-compare"):
        head = {"title": "Compare runs", "text": "The same curve of every run, and what their recipes do differently."}
        island(context.project, "page_head", head, elem_id="compare-head")
        scripts = ("run_parts", "chart_data", "chart_touch", "compare_view")
        view = island(context.project, scripts, {}, elem_id="compare")
    assert Context.root_block is not None  # pages are built inside the shell's Blocks
    Context.root_block.load(look, None, view, api_name="compare_look", **ONCE)
