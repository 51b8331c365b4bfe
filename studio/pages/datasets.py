"""The Datasets page: drop files, see tasks, open one, look closer.  Layout and wiring only.

Thinking: `studio.logic.datasets` (table, detail), `dataset_store` (files), `task_look` (tokens, text, duplicates).
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
from studio.logic import catalogue, dataset_store, datasets, task_look
from studio.logic.dataset_store import Note
from studio.logic.model_choice import model_choices, model_that_is_here
from studio.wiring import EACH, NEWEST, ONCE

POLL_S = 1.5
UPLOAD_LABEL = "Drop task files here, one per task: .jsonl, .json, .csv, .tsv, .parquet, .arrow"


def build(context: StudioContext) -> None:
    """Add the page to the open route."""
    page = _Page(context)
    page.layout()
    page.wire()


class _Page:
    """The components of one built page and the handlers that join them to the logic."""

    def __init__(self, context: StudioContext) -> None:
        self.root, self.project = context.root, context.project

    def layout(self) -> None:
        """Lay the page out: upload, notes, table, the opened task, the closer look."""
        root, project = self.root, self.project
        with gr.Column(elem_classes="page-datasets"):
            self.head = island(project, "page_head", datasets.headline(root, project), elem_id="datasets-head")
            self.uploads = gr.File(label=UPLOAD_LABEL, file_count="multiple", elem_id="datasets-upload", height=148)
            self._hub()
            self.notes = island(project, "notes", {}, elem_id="datasets-notes")
            self.tasks = island(project, "task_table", {}, elem_id="datasets-table", classes="card-block")
            self.detail = island(project, "task_detail", {}, elem_id="datasets-detail")
            with gr.Row(visible=False, elem_classes="look-with") as self.choose:
                self.model = gr.Dropdown(
                    model_choices(root),
                    value=model_that_is_here(root) or None,
                    label="Seen through the tokenizer of",
                    allow_custom_value=True,
                    interactive=True,
                    elem_id="datasets-model",
                    scale=3,
                    min_width=280,
                )
                self.length = gr.Number(
                    1024, label="Max length", interactive=True, elem_id="datasets-max-length", min_width=120
                )
            self.closer = island(project, "task_look", {}, elem_id="datasets-look")
            self.clock = gr.Timer(POLL_S, active=False)

    def _hub(self) -> None:
        """Add the part that downloads: the catalogue, and any other data set by its name."""
        with gr.Accordion("Known data sets, and the hub", open=False, elem_id="datasets-hub"):
            self.catalogue = island(self.project, "catalogue", {}, elem_id="datasets-catalogue")
            with gr.Row(elem_classes="look-with"):
                self.wanted = gr.Textbox(
                    label="Another data set",
                    placeholder="org/name, hf://org/name?config=python&split=train or modelscope://org/name",
                    elem_id="datasets-wanted",
                    max_lines=1,
                    scale=3,
                )
                self.fetch = gr.Button("Download", elem_id="datasets-fetch", scale=1)
        self.hub_clock = gr.Timer(2 * POLL_S, active=False)

    def wire(self) -> None:
        """Join uploads to the store, rows to the opened task, the opened task to the closer look."""
        overview, changed = [self.head, self.tasks], [self.notes, self.head, self.tasks, self.detail]
        inputs, shown = [self.detail, self.model, self.length], [self.closer, self.choose, self.clock]
        assert Context.root_block is not None  # pages are built inside the shell's Blocks
        loaded = Context.root_block.load(self.open, None, [*overview, self.detail], api_name="datasets_look", **ONCE)
        self._wire_hub(overview)
        self.uploads.upload(
            self.add, self.uploads, [self.notes, *overview, self.uploads], show_progress_on=self.notes,
            api_name="datasets_add", trigger_mode="multiple",
        )  # fmt: skip
        opened = self.tasks.select(self.select, self.tasks, self.detail, api_name="datasets_detail", **NEWEST)
        deleted = self.detail.delete(self.delete, self.detail, changed, api_name="datasets_delete", **EACH)
        applied = self.detail.apply(self.apply, self.detail, changed, api_name="datasets_columns", **EACH)
        for event, name in ((loaded, "loaded"), (opened, "opened"), (deleted, "deleted"), (applied, "applied")):
            event.then(self.look, inputs, shown, api_name=f"datasets_look_{name}", **NEWEST)
        self.detail.clear(self.look, inputs, shown, api_name="datasets_look_closed", **NEWEST)
        gr.on(
            [self.model.change, self.length.change], self.look, inputs, shown, api_name="datasets_look_closer", **NEWEST
        )
        self.clock.tick(self.look, inputs, shown, api_name="datasets_look_again", **ONCE)
        self.closer.retry(self.search, inputs, shown, api_name="datasets_insight", **EACH)
        self.closer.edit(
            self.clean, self.closer, [self.notes, *overview], show_progress_on=self.closer,
            api_name="datasets_clean", trigger_mode="multiple",
        )  # fmt: skip

    def _wire_hub(self, overview: list[Any]) -> None:
        shown = [self.catalogue, self.hub_clock]
        assert Context.root_block is not None
        Context.root_block.load(self.look_hub, None, shown, api_name="datasets_catalogue", **ONCE)
        told = [self.notes, *shown]
        self.catalogue.download(self.download, self.catalogue, told, api_name="datasets_download", **EACH)
        gr.on([self.fetch.click, self.wanted.submit], self.download_named, self.wanted, told, api_name="datasets_fetch")
        self.hub_clock.tick(self.arrive, None, [*told, *overview], api_name="datasets_arrive", **ONCE)

    def look_hub(self) -> tuple[dict[str, Any], Any]:
        """Show the catalogue; the clock runs while something is on its way."""
        value = catalogue.look(self.root, self.project)
        return value, gr.Timer(2 * POLL_S, active=value["is_busy"])

    def download(self, value: dict[str, Any]) -> tuple[Any, ...]:
        """Start the download of an entry of the catalogue."""
        return self.download_named(str((value or {}).get("wanted", "")))

    def download_named(self, wanted: str) -> tuple[Any, ...]:
        """Start the download of any data set."""
        note = catalogue.request(self.root, wanted or "")
        return _notes(note), *self.look_hub()[:1], gr.Timer(2 * POLL_S, active=note.ok)

    def arrive(self) -> tuple[Any, ...]:
        """Make tasks of what has arrived."""
        notes = catalogue.adopt(self.root, self.project)
        if not notes:
            return gr.skip(), *self.look_hub(), gr.skip(), gr.skip()
        return _notes(*notes), *self.look_hub(), *self.refresh()

    def open(self, request: gr.Request) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Show headline and table; `?task=` opens a task."""
        name = str(request.query_params.get("task", ""))
        head, table = self.refresh()
        return head, {**table, "selected": name}, self.select({"selected": name}) if name else {}

    def refresh(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Show headline and table anew."""
        rows = datasets.table(self.root, self.project)
        return datasets.headline(self.root, self.project), {"rows": rows, "selected": ""}

    def add(self, files: list[Any] | None, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008 - gradio's way
        """Make tasks of uploaded files."""
        named = [(Path(str(file)).name, Path(str(file))) for file in files or []]
        done = dataset_store.add_files(self.root, self.project, named, lambda share, text: progress(share, desc=text))
        return _notes(*done), *self.refresh(), None

    def select(self, value: dict[str, Any]) -> dict[str, Any]:
        """Open a task."""
        try:
            return datasets.detail(self.root, self.project, str((value or {}).get("selected", "")))
        except UserError as error:
            gone = {"name": "Gone", "state": "unusable", "problem": error.problem, "fix": error.fix}
            return {**datasets.EMPTY_DETAIL, **gone}

    def delete(self, value: dict[str, Any]) -> tuple[Any, ...]:
        """Delete the opened task."""
        return _notes(datasets.request_delete(self.root, _name(value))), *self.refresh(), {}

    def apply(self, value: dict[str, Any]) -> tuple[Any, ...]:
        """Read the opened task again with other columns."""
        note = dataset_store.name_columns(self.root, _name(value), (value or {}).get("columns") or {})
        return _notes(note), *self.refresh(), self.select({"selected": _name(value)})

    def look(self, value: dict[str, Any], model: str, max_length: Any) -> tuple[Any, ...]:
        """Look closer at the opened task."""
        shown = task_look.look(_name(value), model or "", max_length, self.root, self.project)
        waits = task_look.is_waiting(shown)
        return shown, gr.Row(visible=bool(shown)), gr.Timer(POLL_S, active=waits)

    def search(self, value: dict[str, Any], model: str, max_length: Any) -> tuple[Any, ...]:
        """Start the search for duplicates."""
        task_look.search(_name(value), self.root, self.project)
        return self.look(value, model, max_length)

    def clean(self, value: dict[str, Any]) -> tuple[Any, ...]:
        """Make a cleaned task."""
        actions = [str(action) for action in (value or {}).get("remove", ())]
        return _notes(task_look.clean_task(_name(value), actions, self.root, self.project)), *self.refresh()


def _name(value: Any) -> str:
    return str((value or {}).get("name", ""))


def _notes(*notes: Note) -> dict[str, Any]:
    return {"notes": [{"ok": note.ok, "text": note.text} for note in notes]}
