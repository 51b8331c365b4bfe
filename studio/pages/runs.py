"""The Runs page: every run, one line each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.context import StudioContext
from studio.islands import island
from studio.logic import runs
from studio.wiring import EACH, ONCE


def build(context: StudioContext) -> None:
    """Add the page to the open route."""

    def look() -> dict[str, Any]:
        return {"runs": [asdict(line) for line in runs.look(context.root)]}

    def delete(value: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            note = {"ok": True, "text": runs.request_delete(context.root, str((value or {}).get("chosen", "")))}
        except UserError as error:
            note = {"ok": False, "text": str(error)}
        return {"notes": [note]}, look()

    def annotate(value: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        asked = value or {}
        try:
            note = {"ok": True, "text": runs.request_note(context.root, str(asked.get("chosen", "")), asked)}
        except UserError as error:
            note = {"ok": False, "text": str(error)}
        return {"notes": [note]}, look()

    with gr.Column(elem_classes="page-runs"):
        head = {
            "title": "Runs",
            "text": "Every run of this data root, newest first. A run goes on when you close the page.",
        }
        island(context.project, "page_head", head, elem_id="runs-head")
        notes = island(context.project, "notes", {}, elem_id="runs-notes")
        table = island(context.project, ("run_parts", "runs_table"), {}, elem_id="runs")
    assert Context.root_block is not None  # pages are built inside the shell's Blocks
    Context.root_block.load(look, None, table, api_name="runs_look", **ONCE)
    table.edit(annotate, table, [notes, table], api_name="runs_annotate", **EACH)
    table.delete(delete, table, [notes, table], api_name="runs_delete", **EACH)
