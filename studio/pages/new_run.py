"""The New run page: tasks and mix, model and method, a few settings, a summary with Start.  Layout and wiring only.

    any input -> look    -> summary, YAML, Start's state        Start -> start -> the run's page
    page load -> open -> the form filled from ?preset=, ?from= or ?continue=, else from this browser's draft
    Load -> load_yaml -> the form filled                       what people change -> edit -> look, and kept as the draft

Page-specific styles: `assets/new_run.css`, which the shell must put into the head on this route.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.context import StudioContext
from studio.forms import Widgets, element_id
from studio.islands import island
from studio.logic import form_fields, hub_search, kept_draft, new_run, presets
from studio.logic.draft import Draft, initial, load_yaml
from studio.logic.model_choice import model_choices
from studio.logic.new_run import ADVANCED_FIELDS, NewRunView
from studio.logic.task_choice import TaskChoice
from studio.wiring import EACH, NEWEST, ONCE

GO_TO_RUN = """(id) => {
  if (!id) return;
  window.studioDraft.clear();
  window.location.assign('/run?id=' + encodeURIComponent(id));
}"""
MEASURE_POLL_S = 1.5
QUERY = {"preset": "preset", "run_id": "from", "fix": "fix", "continued": "continue", "checkpoint": "checkpoint"}
READ_DRAFT = f"() => window.studioDraft.read({json.dumps([*QUERY.values()])})"
SECTIONS = {
    "": "Run",
    "model": "Model",
    "lora": "Adapter",
    "data": "Data",
    "mixing": "Mixing",
    "loss": "Loss",
    "weighting": "Task weights over time",
    "optim": "Optimizer",
    "record": "Logging, evaluation, checkpoints",
    "evaluate": "Comparison with the base model, after training",
    "launch": "Where it runs",
}


def build(context: StudioContext) -> None:
    """Add the page to the open route."""
    page = _Page(context)
    page.layout()
    page.wire()


class _Page:
    """The components of one built page and the handlers that join them to the logic."""

    def __init__(self, context: StudioContext) -> None:
        self.root, self.project = context.root, context.project
        self.form = Widgets()

    def layout(self) -> None:
        """Lay the parts out: tasks, model, settings and the recipe on the left, the sticky summary on the right."""
        self.head = island(self.project, "page_head", {"title": "New run", "text": ""}, elem_id="new-head")
        self.draft = island(self.project, "draft_note", {}, elem_id="new-draft")
        self.stored = gr.Textbox(visible="hidden", elem_id="new-stored", label="Draft of this browser")
        self.token, self.by_steps = gr.State(""), gr.State(False)
        with gr.Row(elem_classes="page-new", equal_height=False):
            with gr.Column(scale=7, min_width=320):
                self.notes = island(self.project, "notes", {}, elem_id="new-notes")
                with gr.Column(elem_classes="st-panel"):
                    _title("Tasks and mix", "1")
                    self._strategy()
                    waiting = {"tasks": [], "loading": True}
                    self.tasks = island(self.project, "task_editor", waiting, elem_id="new-tasks")
                    self.mix = island(self.project, "mix_preview", {}, elem_id="new-mix")
                    self.clock = gr.Timer(MEASURE_POLL_S, active=False)
                with gr.Column(elem_classes="st-panel"):
                    _title("Model and method", "2")
                    self._model()
                with gr.Column(elem_classes="st-panel"):
                    _title("Settings", "3")
                    self._settings()
                self._recipe()
            with gr.Column(scale=4, min_width=320, elem_classes="summary"):
                self._summary()

    def _model(self) -> None:
        choices = model_choices(self.root)
        model = gr.Dropdown(
            choices,
            value=None,
            label="Model",
            info="Choose one, or type a Hugging Face id, modelscope://org/name, a local folder or a .gguf file.",
            allow_custom_value=True,
            interactive=True,
            elem_id="field-model_name_or_path",
        )
        self.form.put("model_name_or_path", model)
        self.search = island(self.project, "hub_search", {}, elem_id="new-hub-search")
        titles = {"qlora": "QLoRA", "lora": "LoRA", "full": "Full"}
        field = form_fields.FIELDS["method"]
        method = gr.Radio(
            [(titles.get(name, name), name) for name in field.choices],
            value=field.default,
            label="Method",
            info=field.help.replace("`", ""),
            interactive=True,
            elem_id="field-method",
        )
        self.form.put("method", method)

    def _strategy(self) -> None:
        field = form_fields.FIELDS["mixing.strategy"]
        strategy = gr.Radio(
            [(name.replace("_", " ").capitalize(), name) for name in field.choices],
            value=field.default,
            label="How often each task is seen",
            interactive=True,
            elem_id="field-mixing-strategy",
        )
        self.form.put("mixing.strategy", strategy)

    def _settings(self) -> None:
        add = self.form.add
        with gr.Row():
            add("optim.learning_rate", min_width=150)
            add("optim.num_train_epochs", min_width=150)
            add("optim.max_steps", min_width=150, visible=False)
            add("data.max_length", min_width=150)
        with gr.Row():
            add("optim.per_device_train_batch_size", min_width=150)
            add("optim.gradient_accumulation_steps", min_width=150)
            add("lora.r", min_width=150)
        self.switch = gr.Button(_BY_STEPS, size="sm", elem_id="new-by-steps", elem_classes="linklike")
        with gr.Accordion("Advanced", open=False, elem_id="new-advanced") as self.advanced:
            for section, title in SECTIONS.items():
                paths = [path for path in ADVANCED_FIELDS if form_fields.FIELDS[path].section == section]
                with gr.Column(elem_classes="advanced-section"):
                    gr.Markdown(f"#### {title}", elem_classes="st-panel-h")
                    for start in range(0, len(paths), 2):
                        with gr.Row():
                            for path in paths[start : start + 2]:
                                add(path, min_width=240)

    def _summary(self) -> None:
        with gr.Column(elem_classes="st-panel"):
            _title("Start", "4")
            self.form.add("name", info=None, placeholder="made from the model and the method", max_lines=1)
            self.summary = island(self.project, "run_summary", {}, elem_id="new-summary")
            self.start = gr.Button("Start", variant="primary", interactive=False, elem_id="new-start")
            self.keep = gr.Button("Save as preset", size="sm", elem_id="new-save-preset", elem_classes="linklike")
            self.started = gr.Textbox(visible="hidden", elem_id="new-started", label="Started run")

    def _recipe(self) -> None:
        with gr.Column(elem_classes="st-panel"), gr.Tabs():
            with gr.Tab("Recipe"):
                self.yaml = gr.Code(
                    language="yaml",
                    interactive=False,
                    show_label=False,
                    label="Recipe as YAML",
                    max_lines=14,
                    elem_id="new-yaml",
                )
            with gr.Tab("Command"):
                self.command = gr.Code(
                    language="shell",
                    interactive=False,
                    show_label=False,
                    label="The same run in a terminal",
                    elem_id="new-command",
                )
            with gr.Tab("Paste"):
                self.pasted = gr.Textbox(
                    label="Recipe to load",
                    placeholder="schema_version: 1 ...",
                    lines=8,
                    max_lines=16,
                    elem_id="new-pasted",
                )
                self.load = gr.Button("Load into the form", interactive=False, elem_id="new-load")

    def wire(self) -> None:
        """Join inputs to `look`, Start to `start`, the address and pasted YAML to the form."""
        inputs = {*self.form.components, self.tasks}
        view = [
            self.summary,
            self.yaml,
            self.command,
            self.start,
            self.advanced,
            self.form.by_path["lora.r"],
            self.tasks,
            self.mix,
            self.clock,
        ]
        edited = [*view, self.draft]
        filled = [self.head, self.notes, self.tasks, self.token, self.advanced, self.load, *self.form.by_path.values()]
        length = [
            self.by_steps,
            self.form.by_path["optim.max_steps"],
            self.form.by_path["optim.num_train_epochs"],
            self.switch,
        ]
        assert Context.root_block is not None  # pages are built inside the shell's Blocks
        opened = Context.root_block.load(
            self.open, self.stored, [*filled, *length, self.draft], js=READ_DRAFT, api_name="new_run_open", **ONCE
        )
        loaded = self.load.click(
            self.load_yaml, self.pasted, [*filled, *length], api_name="new_run_load_yaml", show_progress_on=self.load
        )
        switched = self.switch.click(
            self.switch_length, self.by_steps, length, api_name="new_run_switch_length", **ONCE
        )
        triggers = [*self.form.inputs_of(self.form.by_path), self.tasks.input]
        # an answer takes milliseconds: no way around by the queue
        gr.on(triggers, self.edit, inputs, edited, queue=False, api_name="new_run_look", **NEWEST)
        self.clock.tick(self.look, inputs, view, queue=False, api_name="new_run_measured", **ONCE)
        changed = self.summary.submit(
            self.apply, self.summary, [*self.form.by_path.values()], api_name="new_run_apply_change", **EACH
        )
        opened.then(self.look, inputs, view, api_name="new_run_look_opened", **NEWEST)
        self.search.input(
            self.find, self.search, self.search, api_name="new_run_search", concurrency_limit=4, **NEWEST,
        )  # fmt: skip
        picked = self.search.submit(
            self.pick, self.search, self.form.by_path["model_name_or_path"], api_name="new_run_pick", **EACH
        )
        for event, name in ((loaded, "loaded"), (switched, "switched"), (changed, "changed"), (picked, "picked")):
            event.then(self.edit, inputs, edited, api_name=f"new_run_look_{name}", **NEWEST)
        begun = self.start.click(
            self.begin, {*inputs, self.token}, [self.started, self.notes, self.start], api_name="new_run_start",
            trigger_mode="once", show_progress_on=self.start,
        )  # fmt: skip
        self.keep.click(
            self.save_preset, inputs, self.notes, api_name="new_run_save_preset", show_progress_on=self.keep
        )
        begun.then(None, self.started, None, js=GO_TO_RUN, api_name="new_run_go")

    def look(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Show what the draft means."""
        draft = self._draft(values)
        view = new_run.look(draft, self.root, self.project)
        shown = self._show(draft, view)
        editor = values.get(self.tasks) or {}
        if any(editor.get(key) != shown[self.tasks][key] for key in ("uses_weights", "strategy")):
            return shown
        return {**shown, self.tasks: gr.skip()}  # an echo would undo what is dragged meanwhile

    def edit(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Show what the draft means, and let the browser keep it."""
        kept = kept_draft.keep(self._draft(values), self.root)
        return {**self.look(values), self.draft: {"keep": kept, "links": [*QUERY.values()]}}

    def open(self, stored: str | None, request: gr.Request) -> dict[Any, Any]:
        """Fill the form from the page's address, or from the draft that the browser kept."""
        query = request.query_params
        asked = {name: str(query.get(key, "")) for name, key in QUERY.items()}
        kept = None if any(asked.values()) else kept_draft.restore(stored or "", self.root, self.project)
        draft = kept or initial(self.root, self.project, **asked)
        return {**self._fill(draft), self.draft: {"restored": kept is not None}}

    def load_yaml(self, text: str) -> dict[Any, Any]:
        """Fill the form from pasted YAML, or say everything that is wrong with it."""
        try:
            return self._fill(load_yaml(text or "", self.root, self.project))
        except UserError as error:
            return {self.notes: _notes(error.problems)}

    def switch_length(self, by_steps: bool) -> dict[Any, Any]:
        """Show steps in place of epochs, or the other way; the one that is hidden does not count."""
        values = {} if not by_steps else {"optim.max_steps": form_fields.FIELDS["optim.max_steps"].default}
        return self._length(not by_steps, values)

    def begin(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Start the run; every problem becomes a note and nothing was started then."""
        try:
            run_id = new_run.request_start(self._draft(values), self.root, self.project, token=values[self.token])
        except UserError as error:
            return {self.started: "", self.notes: _notes(error.problems), self.start: gr.Button(interactive=True)}
        note = {"notes": [{"ok": True, "text": f"Run {run_id} is starting."}]}
        return {self.started: run_id, self.notes: note, self.start: gr.Button("Starting ...", interactive=False)}

    def apply(self, value: dict[str, Any] | None) -> dict[Any, Any]:
        """Set the fields of a change that makes the recipe fit."""
        chosen = (value or {}).get("apply")
        known = new_run.CHANGEABLE & set(chosen) if isinstance(chosen, dict) else set()
        return self.form.updates({path: chosen[path] for path in known}) or gr.skip()

    def find(self, value: dict[str, Any] | None) -> dict[str, Any]:
        """Search the hub for what was typed."""
        return hub_search.search(str((value or {}).get("asked") or "")).as_json()

    def pick(self, value: dict[str, Any] | None) -> Any:
        """Put a model that was found into the form."""
        return str((value or {}).get("picked") or "") or gr.skip()

    def save_preset(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Keep the form as a preset under the run's name."""
        try:
            view = new_run.look(self._draft(values), self.root, self.project)
            text = presets.save_preset(view.recipe, view.problems, self.root)
        except UserError as error:
            return {self.notes: _notes(error.problems)}
        return {self.notes: {"notes": [{"ok": True, "text": text}]}}

    def _draft(self, values: dict[Any, Any]) -> Draft:
        rows = (values.get(self.tasks) or {}).get("tasks", [])
        choices = tuple(choice for row in rows if (choice := TaskChoice.read(row)))
        return Draft(values=self.form.read(values), tasks=choices)

    def _fill(self, draft: Draft) -> dict[Any, Any]:
        source = draft.source or "Choose tasks, a model and a method; the summary says what it takes."
        return {
            self.head: {"title": "New run", "text": source, "marked": [element_id(path) for path in draft.marked]},
            self.notes: _notes(draft.notices),
            self.advanced: gr.Accordion(open=True) if set(draft.marked) & set(ADVANCED_FIELDS) else gr.skip(),
            self.tasks: _editor(draft),
            self.token: secrets.token_hex(16),
            self.load: gr.Button(interactive=True),  # a late answer to the opening would undo it
            **self.form.updates(draft.values),
            **self._length(draft.values["optim.max_steps"] is not None, {k: draft.values[k] for k in _LENGTH}),
        }

    def _length(self, by_steps: bool, values: dict[str, Any]) -> dict[Any, Any]:
        steps, epochs = (self.form.by_path[path] for path in _LENGTH)

        def show(path: str, visible: bool) -> Any:
            return gr.Number(visible=visible, **({"value": values[path]} if path in values else {}))

        text = _BY_EPOCHS if by_steps else _BY_STEPS
        shown = {steps: show(_LENGTH[0], by_steps), epochs: show(_LENGTH[1], not by_steps)}
        return {self.by_steps: by_steps, self.switch: gr.Button(text), **shown}

    def _show(self, draft: Draft, view: NewRunView) -> dict[Any, Any]:
        changed = f"Advanced: {view.num_changed} changed" if view.num_changed else "Advanced"
        return {
            self.summary: {
                "fit_state": view.fit_state,
                "fit_text": view.fit_text,
                "fit_parts": [list(part) for part in view.fit_parts],
                "facts": [list(fact) for fact in view.facts],
                "problems": [problem.as_json() for problem in view.problems],
                "notes": list(view.notes),
                "changes": [
                    {"labels": list(one.labels), "values": dict(one.values), "text": one.text} for one in view.changes
                ],
            },
            self.yaml: view.yaml,
            self.command: view.command,
            self.start: gr.Button("Add to queue" if view.waits else "Start", interactive=view.can_start),
            self.advanced: gr.Accordion(label=changed),
            self.form.by_path["lora.r"]: gr.Number(visible=draft.values.get("method") != "full"),
            self.tasks: _editor(draft),
            self.mix: dict(view.mix),
            self.clock: gr.Timer(MEASURE_POLL_S, active=view.is_measuring),
        }


_BY_STEPS, _BY_EPOCHS = "Set the length in steps instead of epochs", "Set the length in epochs instead of steps"
_LENGTH = ("optim.max_steps", "optim.num_train_epochs")


def _title(text: str, number: str) -> None:
    gr.Markdown(f"### {text}", elem_classes=["st-panel-h", "step", f"step-{number}"])


def _editor(draft: Draft) -> dict[str, Any]:
    uses_weights = str(draft.values.get("loss.reduction")).startswith("task_")
    strategy = draft.values.get("mixing.strategy")
    return {"tasks": [task.as_json() for task in draft.tasks], "uses_weights": uses_weights, "strategy": strategy}


def _notes(problems: Any) -> dict[str, Any]:
    texts = [f"{problem.problem} {problem.fix}".strip() for problem in problems]
    return {"notes": [{"ok": False, "text": text} for text in texts]}
