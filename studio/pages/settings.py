"""The Settings page.  Layout and wiring; the thinking is in `studio.logic.settings`."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.context import StudioContext
from studio.islands import island
from studio.logic import settings
from studio.wiring import EACH, ONCE

REFRESH_S = 2.0


def build(context: StudioContext) -> None:
    """Add the page to the open route."""

    def look() -> dict[str, Any]:
        return settings.look(context.root)

    def act(value: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            text = settings.request(context.root, value or {})
            notes = [{"ok": True, "text": text}] if text else []
        except UserError as error:
            notes = [{"ok": False, "text": str(error)}]
        return {"notes": notes}, look()

    def follow(value: dict[str, Any] | None) -> dict[str, Any] | Any:
        """Look anew while the doctor works; at other times nothing changes by itself."""
        told = (value or {}).get("doctor") or {}
        return look() if told.get("state") == "running" else gr.skip()

    with gr.Column(elem_classes="page-settings"):
        island(context.project, "page_head", {"title": "Settings", "text": ""}, elem_id="settings-head")
        notes = island(context.project, "notes", {}, elem_id="settings-notes")
        view = island(context.project, "settings_view", {}, elem_id="settings")
    assert Context.root_block is not None  # pages are built inside the shell's Blocks
    Context.root_block.load(look, None, view, api_name="settings_look", **ONCE)
    view.submit(act, view, [notes, view], api_name="settings_act", **EACH)
    gr.Timer(REFRESH_S).tick(follow, view, view, queue=False, api_name="settings_follow", **ONCE)
