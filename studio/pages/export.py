"""The Export page: formats, combined adapters, results.  The thinking is in `studio.logic.export`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.address import address_js
from studio.context import StudioContext
from studio.islands import island
from studio.logic import chat, export
from studio.wiring import EACH, NEWEST, ONCE

REFRESH_S = 2.0
View = dict[str, Any]


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
                "text": "Take a checkpoint to other programs: as an adapter, as a whole model, or in few bits.",
            }
            island(self.project, "page_head", head, elem_id="export-head")
            notes = island(self.project, "notes", {}, elem_id="export-notes")
            with gr.Column(elem_classes="st-panel"):
                with gr.Row():
                    run = gr.Dropdown([], label="Run", elem_id="export-run", interactive=True, scale=3)
                    checkpoint = gr.Dropdown(
                        [], label="Checkpoint", elem_id="export-checkpoint", interactive=True, scale=2
                    )
                    key = gr.Dropdown(
                        export.format_choices(), value="merged", label="Format", elem_id="export-format",
                        interactive=True, scale=2,
                    )  # fmt: skip
                    name = gr.Textbox(
                        label="Name of the result", placeholder="chosen for you", elem_id="export-name",
                        interactive=True, scale=2,
                    )  # fmt: skip
                start = gr.Button("Export", variant="primary", elem_id="export-start")
            view = island(self.project, "export_view", {}, elem_id="export-view")
            with gr.Accordion("Combine adapters", open=False, elem_id="export-combine", elem_classes="st-panel"):
                combining, combine = self.combine_form()
            results = island(self.project, "export_results", {}, elem_id="export-results")

        assert Context.root_block is not None  # pages are built inside the shell's Blocks
        chosen, shown = [run, checkpoint, key], [view, results]
        address: dict[str, Any] = {"fn": None, "inputs": chosen, "js": address_js("run", "checkpoint", "format")}
        Context.root_block.load(self.open, None, [*chosen, combining[0], *shown], api_name="export_open", **ONCE)
        run.input(self.choose, run, [checkpoint, combining[0]], api_name="export_choose", **NEWEST).then(
            self.look, chosen, shown, api_name="export_after_choice", **NEWEST
        ).then(**address, api_name="export_run_address")
        gr.on([checkpoint.input, key.input], self.look, chosen, shown, api_name="export_format", **NEWEST).then(
            **address, api_name="export_address"
        )
        told = [notes, *shown]
        start.click(self.start, [*chosen, name], told, api_name="export_start", **ONCE)
        combine.click(self.combine, [*chosen, *combining], told, api_name="export_combine", **ONCE)
        view.clear(self.dismiss, chosen, shown, api_name="export_dismiss", **EACH)
        results.submit(self.push, [*chosen, results], told, api_name="export_push", **EACH)
        results.delete(self.delete, [*chosen, results], told, api_name="export_delete", **EACH)
        gr.Timer(REFRESH_S).tick(self.look, chosen, shown, queue=False, api_name="export_look", **ONCE)

    def combine_form(self) -> tuple[list[Any], gr.Button]:
        """Lay out what combining adapters needs."""
        adapters = gr.Dropdown(
            [], multiselect=True, label="Adapters of one base model", elem_id="combine-adapters", interactive=True
        )
        with gr.Row():
            method = gr.Dropdown(
                export.method_choices(), value="cat", label="How", elem_id="combine-method", interactive=True, scale=3
            )
            weights = gr.Textbox(
                label="Weights", placeholder="equal; or for example 0.7, 0.3", elem_id="combine-weights",
                interactive=True, scale=2,
            )  # fmt: skip
            density = gr.Number(
                0.5, label="Density", info="Share of values that TIES and DARE keep.", minimum=0.01, maximum=1,
                elem_id="combine-density", interactive=True, scale=1,
            )  # fmt: skip
            name = gr.Textbox(
                label="Name of the result", placeholder="combined", elem_id="combine-name", interactive=True, scale=2
            )
        return [adapters, method, weights, density, name], gr.Button("Combine", elem_id="combine-start")

    def sources(self, run_id: str | None) -> tuple[list[str], list[Any]]:
        """Return what can be exported and combined; nothing for a run that is gone."""
        try:
            return export.source_choices(self.root, run_id or ""), export.adapter_choices(self.root, run_id or "")
        except UserError:
            return [], []

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Fill the pickers; `?run=`, `?checkpoint=` and `?format=` choose."""
        choices = chat.run_choices(self.root)
        ids = [run_id for _, run_id in choices]
        wanted = request.query_params.get("run", "")
        run_id = wanted if wanted in ids else (ids[0] if ids else "")
        names, adapters = self.sources(run_id)
        asked = request.query_params.get("checkpoint", "")
        first = asked if asked in names else (names[0] if names else None)
        form = request.query_params.get("format", "")
        key = form if form in {name for _, name in export.format_choices()} else "merged"
        pickers = gr.Dropdown(choices, value=run_id or None), gr.Dropdown(names, value=first), gr.Dropdown(value=key)
        return *pickers, gr.Dropdown(adapters, value=[]), *self.look(run_id, first, key)

    def choose(self, run_id: str | None) -> tuple[Any, Any]:
        """Fill the checkpoints and adapters of a run."""
        names, adapters = self.sources(run_id)
        return gr.Dropdown(names, value=names[0] if names else None), gr.Dropdown(adapters, value=[])

    def look(self, run_id: str | None, checkpoint: str | None, key: str | None) -> tuple[View, View]:
        """Return the state of the exports: above, and the results."""
        state = export.look(self.root, run_id or "", checkpoint or "", key or "merged")
        return state, {"results": state.pop("results", [])}

    def told(self, ask: Callable[[], str], *chosen: str | None) -> tuple[View, View, View]:
        """Do something and return a note with the state after it."""
        try:
            note = {"ok": True, "text": ask()}
        except UserError as error:
            note = {"ok": False, "text": str(error)}
        return {"notes": [note]}, *self.look(*chosen)

    def dismiss(self, run_id: str | None, checkpoint: str | None, key: str | None) -> tuple[View, View]:
        """Take away the card of a job that failed."""
        try:
            export.dismiss(self.root, run_id or "")
        except UserError:
            pass  # the run is gone, and its card with it
        return self.look(run_id, checkpoint, key)

    def start(self, run_id: str | None, checkpoint: str | None, key: str | None, name: str) -> tuple[View, View, View]:
        """Start an export."""
        asked = (run_id or "", checkpoint or "", key or "merged", name or "")
        return self.told(lambda: export.request_export(self.root, *asked), run_id, checkpoint, key)

    def combine(
        self, run_id: str | None, checkpoint: str | None, key: str | None, *form: Any
    ) -> tuple[View, View, View]:
        """Start combining."""
        adapters, method, weights, density, name = form
        asked = (adapters or [], method or "", weights or "", float(density or 0.5), name or "")
        return self.told(lambda: export.request_combine(self.root, run_id or "", *asked), run_id, checkpoint, key)

    def push(self, run_id: str | None, checkpoint: str | None, key: str | None, value: View) -> tuple[View, View, View]:
        """Start a push."""
        asked = (str(value.get("chosen", "")), str(value.get("repo", "")), value.get("public") is True)
        return self.told(lambda: export.request_push(self.root, run_id or "", *asked), run_id, checkpoint, key)

    def delete(
        self, run_id: str | None, checkpoint: str | None, key: str | None, value: View
    ) -> tuple[View, View, View]:
        """Move a result to the trash."""
        chosen = str(value.get("chosen", ""))
        return self.told(lambda: export.request_delete(self.root, run_id or "", chosen), run_id, checkpoint, key)
