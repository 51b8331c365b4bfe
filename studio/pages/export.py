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
    _Page(context).build()


class _Page:
    """The components of the page and the handlers between them and the logic."""

    def __init__(self, context: StudioContext) -> None:
        self.root, self.project = context.root, context.project

    def build(self) -> None:
        """Lay out and wire."""
        with gr.Column(elem_classes="page-export"):
            head = {
                "title": "Export",
                "text": "Merge the adapter into the base model: one folder that any tool can load.",
            }
            island(self.project, "page_head", head, elem_id="export-head")
            notes = island(self.project, "notes", {}, elem_id="export-notes")
            with gr.Column(elem_classes="st-panel"):
                with gr.Row():
                    run = gr.Dropdown([], label="Run", elem_id="export-run", interactive=True, scale=3)
                    checkpoint = gr.Dropdown(
                        [], label="Checkpoint", elem_id="export-checkpoint", interactive=True, scale=2
                    )
                    name = gr.Textbox(
                        label="Name of the result",
                        placeholder="merged",
                        elem_id="export-name",
                        interactive=True,
                        scale=2,
                    )
                start = gr.Button("Merge", variant="primary", elem_id="export-merge")
            view = island(self.project, "export_view", {}, elem_id="export-view")

        assert Context.root_block is not None  # pages are built inside the shell's Blocks
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        chosen = [run, checkpoint]
        Context.root_block.load(self.open, None, [*chosen, view], api_name="export_open", **quiet)
        run.input(self.choose, run, checkpoint, api_name="export_choose", **quiet).then(
            self.look, chosen, view, api_name="export_after_choice", **quiet
        )
        start.click(self.merge, [*chosen, name], [notes, view], api_name="export_merge", **quiet)
        gr.Timer(REFRESH_S).tick(self.look, chosen, view, queue=False, api_name="export_look", **quiet)

    def checkpoints(self, run_id: str | None) -> list[str]:
        """Return what can be merged; nothing for a run that is gone."""
        try:
            return [name for name in chat.weight_choices(self.root, run_id or "") if name.startswith("step-")]
        except UserError:
            return []

    def open(self, request: gr.Request) -> tuple[Any, Any, dict[str, Any]]:
        """Fill the pickers; `?run=` chooses a run."""
        choices = chat.run_choices(self.root)
        ids = [run_id for _, run_id in choices]
        wanted = request.query_params.get("run", "")
        run_id = wanted if wanted in ids else (ids[0] if ids else "")
        names = self.checkpoints(run_id)
        first = names[0] if names else None
        return gr.Dropdown(choices, value=run_id or None), gr.Dropdown(names, value=first), self.look(run_id, first)

    def choose(self, run_id: str | None) -> Any:
        """Fill the checkpoints of a run."""
        names = self.checkpoints(run_id)
        return gr.Dropdown(names, value=names[0] if names else None)

    def look(self, run_id: str | None, checkpoint: str | None) -> dict[str, Any]:
        """Return the state of the export."""
        return export.look(self.root, run_id or "", checkpoint or "")

    def merge(self, run_id: str | None, checkpoint: str | None, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start the merge."""
        try:
            note = {"ok": True, "text": export.request_merge(self.root, run_id or "", checkpoint or "", name or "")}
        except UserError as error:
            note = {"ok": False, "text": str(error)}
        return {"notes": [note]}, self.look(run_id, checkpoint)
