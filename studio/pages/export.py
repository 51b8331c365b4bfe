"""The Export page: merge with a parity check.  Layout and wiring; the thinking is in `studio.logic.export`."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.context import StudioContext
from studio.islands import island
from studio.logic import chat, export

REFRESH_S = 2.0


def build(context: StudioContext) -> None:
    """Add the page to the open route."""
    root, project = context.root, context.project

    def checkpoints(run_id: str | None) -> list[str]:
        return [name for name in chat.weight_choices(root, run_id or "") if name.startswith("step-")]

    def open_page(request: gr.Request) -> tuple[Any, Any, dict[str, Any]]:
        choices = chat.run_choices(root)
        ids = [run_id for _, run_id in choices]
        wanted = request.query_params.get("run", "")
        run_id = wanted if wanted in ids else (ids[0] if ids else "")
        names = checkpoints(run_id)
        first = names[0] if names else None
        return (
            gr.Dropdown(choices, value=run_id or None),
            gr.Dropdown(names, value=first),
            export.look(root, run_id, first or ""),
        )

    def choose(run_id: str | None) -> Any:
        try:
            names = checkpoints(run_id)
        except UserError:
            names = []
        return gr.Dropdown(names, value=names[0] if names else None)

    def look(run_id: str | None, checkpoint: str | None) -> dict[str, Any]:
        return export.look(root, run_id or "", checkpoint or "")

    def merge(run_id: str | None, checkpoint: str | None, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            note = {"ok": True, "text": export.request_merge(root, run_id or "", checkpoint or "", name or "")}
        except UserError as error:
            note = {"ok": False, "text": str(error)}
        return {"notes": [note]}, look(run_id, checkpoint)

    with gr.Column(elem_classes="page-export"):
        head = {"title": "Export", "text": "Merge the adapter into the base model: one folder that any tool can load."}
        island(project, "page_head", head, elem_id="export-head")
        notes = island(project, "notes", {}, elem_id="export-notes")
        with gr.Column(elem_classes="st-panel"):
            with gr.Row():
                run = gr.Dropdown([], label="Run", elem_id="export-run", interactive=True, scale=3)
                checkpoint = gr.Dropdown([], label="Checkpoint", elem_id="export-checkpoint", interactive=True, scale=2)
                name = gr.Textbox(
                    "",
                    label="Name of the result",
                    placeholder="merged",
                    elem_id="export-name",
                    interactive=True,
                    scale=2,
                )
            start = gr.Button("Merge", variant="primary", elem_id="export-merge")
        view = island(project, "export_view", {}, elem_id="export-view")

    assert Context.root_block is not None  # pages are built inside the shell's Blocks
    quiet: dict[str, Any] = {"show_progress": "hidden"}
    Context.root_block.load(open_page, None, [run, checkpoint, view], api_name="export_open", **quiet)
    run.input(choose, run, checkpoint, api_name="export_choose", **quiet).then(
        look, [run, checkpoint], view, api_name="export_after_choice", **quiet
    )
    start.click(merge, [run, checkpoint, name], [notes, view], api_name="export_merge", **quiet)
    gr.Timer(REFRESH_S).tick(look, [run, checkpoint], view, queue=False, api_name="export_look", **quiet)
