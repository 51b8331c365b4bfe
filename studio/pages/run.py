"""The Run page: one run, live.  Curves and numbers come over `/studio/api/run.json`; buttons are events."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.contract.errors import UserError
from studio.context import StudioContext
from studio.islands import island
from studio.logic import run_checkpoints
from studio.logic.run import request_action
from studio.wiring import EACH


def build(context: StudioContext) -> None:
    """Add the page to the open route."""

    def act(value: dict[str, Any] | None) -> dict[str, Any]:
        asked = value or {}
        try:
            run_id, checkpoint = str(asked.get("id", "")), str(asked.get("checkpoint", ""))
            if asked.get("action") == "delete-checkpoint":
                text = run_checkpoints.request_delete(context.root, run_id, checkpoint)
            else:
                text = request_action(context.root, run_id, str(asked.get("action", "")))
        except UserError as error:
            return {"notes": [{"ok": False, "text": str(error)}]}
        return {"notes": [{"ok": True, "text": text}]}

    with gr.Column(elem_classes="page-run"):
        notes = island(context.project, "notes", {}, elem_id="run-notes")
        scripts = (
            "run_parts",
            "chart_data",
            "chart_marks",
            "task_shapes",
            "chart_touch",
            "run_chart",
            "run_lines",
            "run_balance",
            "run_checkpoints",
            "run_log",
            "run_diff",
            "run_samples",
            "run_notify",
            "run_view",
        )
        view = island(context.project, scripts, {}, elem_id="run")
    view.submit(act, view, notes, api_name="run_act", **EACH)
