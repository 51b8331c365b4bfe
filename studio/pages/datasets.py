"""The Datasets page: drop files, see tasks, open one.  Layout and wiring; the thinking is in `studio.logic.datasets`.

Page-specific styles: `assets/datasets.css`, which the shell must put into the head on this route.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.context import StudioContext
from studio.islands import island
from studio.logic import dataset_store, datasets


def build(context: StudioContext) -> None:
    """Add the page to the open route."""
    root, project = context.root, context.project

    def table() -> dict[str, Any]:
        return {"rows": datasets.table(root, project), "selected": ""}

    with gr.Column(elem_classes="page-datasets"):
        head = island(project, "page_head", datasets.headline(root, project), elem_id="datasets-head")
        uploads = gr.File(
            label="Drop task files here, one per task: .jsonl, .json, .csv, .tsv, .parquet",
            file_count="multiple",
            elem_id="datasets-upload",
            height=148,
        )
        notes = island(project, "notes", {}, elem_id="datasets-notes")
        tasks = island(project, "task_table", {}, elem_id="datasets-table", classes="card-block")
        detail = island(project, "task_detail", {}, elem_id="datasets-detail")

    def refresh() -> tuple[dict[str, Any], dict[str, Any]]:
        return datasets.headline(root, project), table()

    def add(files: list[Any] | None, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008 - gradio's way
        named = [(Path(str(file)).name, Path(str(file))) for file in files or []]
        done = dataset_store.add_files(root, project, named, lambda share, text: progress(share, desc=text))
        return {"notes": [{"ok": note.ok, "text": note.text} for note in done]}, *refresh(), None

    def select(value: dict[str, Any]) -> dict[str, Any]:
        try:
            return datasets.detail(root, project, str((value or {}).get("selected", "")))
        except UserError as error:
            return {
                "name": "Gone",
                "state": "unusable",
                **datasets.EMPTY_DETAIL,
                "problem": error.problem,
                "fix": error.fix,
            }

    def delete(value: dict[str, Any]) -> tuple[Any, ...]:
        note = datasets.request_delete(root, str((value or {}).get("name", "")))
        return {"notes": [{"ok": note.ok, "text": note.text}]}, *refresh(), {}

    assert Context.root_block is not None  # pages are built inside the shell's Blocks
    Context.root_block.load(refresh, None, [head, tasks], show_progress="hidden", api_name="datasets_look")
    uploads.upload(add, uploads, [notes, head, tasks, uploads], show_progress_on=notes, api_name="datasets_add")
    tasks.select(select, tasks, detail, show_progress="hidden", api_name="datasets_detail")
    detail.delete(delete, detail, [notes, head, tasks, detail], show_progress="hidden", api_name="datasets_delete")
