"""The Home page: the starter, presets, recent runs."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.context import StudioContext
from studio.islands import island
from studio.logic import home, presets
from studio.wiring import EACH, ONCE


def build(context: StudioContext) -> None:
    """Add the page to the open Blocks."""

    def look() -> dict[str, Any]:
        return home.look(context.root, context.project)

    def delete(value: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            note = {"ok": True, "text": presets.delete_preset(str((value or {}).get("chosen", "")), context.root)}
        except UserError as error:
            note = {"ok": False, "text": str(error)}
        return {"notes": [note]}, look()

    with gr.Column(elem_classes="page-home"):
        notes = island(context.project, "notes", {}, elem_id="home-notes")
        view = island(context.project, "home_page", {}, elem_id="home")
    assert Context.root_block is not None  # pages are built inside the shell's Blocks
    view.delete(delete, view, [notes, view], api_name="home_delete_preset", **EACH)
    Context.root_block.load(look, None, view, api_name="home_look", **ONCE)
