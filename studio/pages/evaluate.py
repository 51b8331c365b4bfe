"""The Evaluate page: a run's models against the base model.  Layout and wiring; the thinking is in
`studio.logic.evaluate`."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.context import StudioContext
from studio.islands import island
from studio.logic import chat, evaluate
from studio.wiring import NEWEST, ONCE

REFRESH_S = 2.0


def build(context: StudioContext) -> None:
    """Add the page to the open route."""
    page = _Page(context)
    page.layout()
    page.wire()


class _Page:
    """The components of the page and the handlers between them and the logic."""

    def __init__(self, context: StudioContext) -> None:
        self.root, self.project = context.root, context.project

    def layout(self) -> None:
        """Lay the parts out."""
        with gr.Column(elem_classes="page-evaluate"):
            head = {"title": "Evaluate", "text": "Is the tuned model better at each task, and what did it forget?"}
            island(self.project, "page_head", head, elem_id="evaluate-head")
            self.notes = island(self.project, "notes", {}, elem_id="evaluate-notes")
            with gr.Column(elem_classes="st-panel"):
                with gr.Row():
                    self.run = gr.Dropdown([], label="Run", elem_id="evaluate-run", interactive=True, scale=3)
                    self.against = gr.Dropdown(
                        [], label="Show another run beside", elem_id="evaluate-against", interactive=True, scale=3
                    )
                with gr.Row():
                    self.checkpoints = self._several("Checkpoints", "evaluate-checkpoints")
                    self.tasks = self._several("Tasks", "evaluate-tasks")
                    self.scorers = self._several("Scores", "evaluate-scorers")
                with gr.Accordion("More", open=False, elem_id="evaluate-more"):
                    with gr.Row():
                        self.number = gr.Number(
                            label="Examples per task", info="Empty = those that the training evaluates on.",
                            value=None, placeholder="as in the training", precision=0, minimum=1,
                            elem_id="evaluate-number", interactive=True,
                        )  # fmt: skip
                        self.retention = gr.Textbox(
                            label="Retention data", placeholder="/data/general.jsonl",
                            info="Data that the run was not trained on. They show what was forgotten.",
                            elem_id="evaluate-retention", interactive=True, scale=2, min_width=260,
                        )  # fmt: skip
                        self.own = gr.Checkbox(
                            label="Compare with the base model's own answers",
                            elem_id="evaluate-own",
                            interactive=True,
                            min_width=260,
                        )
                    self.humaneval = gr.Checkbox(
                        label="HumanEval", info="164 Python problems; the programs run in a sandbox.",
                        elem_id="evaluate-humaneval", interactive=True,
                    )  # fmt: skip
                    self.harness = gr.Textbox(
                        label="Tasks of lm-evaluation-harness", placeholder="hellaswag, arc_easy",
                        info="Names with commas. They need requirements-lm-eval.txt and the Hugging Face hub.",
                        elem_id="evaluate-harness", interactive=True,
                    )  # fmt: skip
                with gr.Row(elem_classes="evaluate-buttons"):
                    self.start = gr.Button("Evaluate", variant="primary", elem_id="evaluate-start")
                    self.stop = gr.Button("Stop", elem_id="evaluate-stop")
            self.view = island(
                self.project, ("evaluate_samples", "evaluate_published", "evaluate_view"), {}, elem_id="evaluate"
            )

    @staticmethod
    def _several(label: str, elem_id: str) -> gr.Dropdown:
        return gr.Dropdown([], label=label, multiselect=True, elem_id=elem_id, interactive=True, scale=2)

    def wire(self) -> None:
        """Join components and handlers."""
        assert Context.root_block is not None  # pages are built inside the shell's Blocks
        shown = [self.run, self.against]
        form = [self.checkpoints, self.tasks, self.scorers]
        asked = [self.run, *form, self.number, self.retention, self.own, self.humaneval, self.harness]
        opened = [*shown, *form, self.view, self.number]
        Context.root_block.load(self.open, None, opened, api_name="evaluate_open", **ONCE)
        self.run.input(self.choose, self.run, form, api_name="evaluate_choose", **NEWEST).then(
            self.look, shown, self.view, api_name="evaluate_after_choice", **NEWEST
        )
        self.against.input(self.look, shown, self.view, api_name="evaluate_compare", **NEWEST)
        self.start.click(self.measure, asked, self.notes, api_name="evaluate_start", **ONCE).then(
            self.look, shown, self.view, api_name="evaluate_after_start", **NEWEST
        )
        self.stop.click(self.end, self.run, self.notes, api_name="evaluate_stop", **ONCE).then(
            self.look, shown, self.view, api_name="evaluate_after_stop", **NEWEST
        )
        gr.Timer(REFRESH_S).tick(self.look, shown, self.view, queue=False, api_name="evaluate_look", **ONCE)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Fill the pickers; `?run=` and `?against=` choose runs."""
        runs = chat.run_choices(self.root)
        ids = [run_id for _, run_id in runs]
        wanted, beside = (request.query_params.get(name, "") for name in ("run", "against"))
        run_id = wanted if wanted in ids else (ids[0] if ids else "")
        other = beside if beside in ids else ""
        pickers = gr.Dropdown(runs, value=run_id or None), gr.Dropdown([("None", ""), *runs], value=other)
        # Gradio draws a number that was never set as 0
        return (*pickers, *self.choose(run_id), self.look(run_id, other), gr.Number(value=None))

    def choose(self, run_id: str | None) -> tuple[Any, ...]:
        """Fill what can be measured of a run."""
        try:
            checkpoints, tasks, scorers = evaluate.choices(self.root, run_id or "")
            first = evaluate.default_checkpoint(self.root, run_id or "")
        except UserError:
            return gr.Dropdown([], value=[]), gr.Dropdown([], value=[]), gr.Dropdown([], value=[])
        return (
            gr.Dropdown(checkpoints, value=[first] if first else []),
            gr.Dropdown(tasks, value=tasks),
            gr.Dropdown(evaluate.scorer_choices(), value=[name for name in scorers if name != "judge"]),
        )

    def look(self, run_id: str | None, against: str | None) -> dict[str, Any]:
        """Return the results and the job of a run."""
        return evaluate.look(self.root, run_id or "", against or "")

    def measure(self, run_id: str | None, *values: Any) -> dict[str, Any]:
        """Start an evaluation."""
        checkpoints, tasks, scorers, number, retention, own, humaneval, harness = values
        asked = evaluate.Asked(
            checkpoints=tuple(checkpoints or ()),
            tasks=tuple(tasks or ()),
            scorers=tuple(scorers or ()),
            num_examples=int(number) if number else None,
            retention=str(retention or "").strip(),
            own_answers=bool(own),
            humaneval=bool(humaneval),
            harness=str(harness or "").strip(),
        )
        try:
            text = evaluate.request_evaluation(self.root, run_id or "", asked)
        except UserError as error:
            return {"notes": [{"ok": False, "text": str(error)}]}
        line = evaluate.command_line(self.root, run_id or "", asked)
        return {"notes": [{"ok": True, "text": text}, {"ok": True, "text": f"In a terminal: `{line}`"}]}

    def end(self, run_id: str | None) -> dict[str, Any]:
        """Stop the evaluation of a run."""
        try:
            return {"notes": [{"ok": True, "text": evaluate.request_stop(self.root, run_id or "")}]}
        except UserError as error:
            return {"notes": [{"ok": False, "text": str(error)}]}
