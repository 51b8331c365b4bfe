"""The Chat page: base and tuned model side by side.  Layout and wiring; the thinking is in `studio.logic.chat`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.chat_client import ChatClient
from studio.context import StudioContext
from studio.islands import island
from studio.logic import chat


def build(context: StudioContext) -> None:
    """Add the page to the open route."""
    _Page(context).build()


class _Page:
    """The components of the page and the handlers between them and the logic."""

    def __init__(self, context: StudioContext) -> None:
        self.root, self.project = context.root, context.project
        self.client = ChatClient(context.root.path / "chat.log")

    def build(self) -> None:
        """Lay out and wire."""
        with gr.Column(elem_classes="page-chat"):
            head = {"title": "Chat", "text": "The same question to the base model and to your tuned one."}
            island(self.project, "page_head", head, elem_id="chat-head")
            with gr.Column(elem_classes="st-panel"), gr.Row():
                self.run = gr.Dropdown([], label="Run", elem_id="chat-run", interactive=True, scale=3)
                self.weights = gr.Dropdown([], label="Checkpoint", elem_id="chat-weights", interactive=True, scale=2)
                self.pick = gr.Dropdown([], label="Held-out prompt", elem_id="chat-pick", interactive=True, scale=4)
            self.columns = island(self.project, "chat_columns", chat.empty_view(), elem_id="chat")
            with gr.Column(elem_classes="st-panel"):
                self.question = gr.Textbox(
                    label="Question", lines=4, max_lines=14, elem_id="chat-question", interactive=True
                )
                with gr.Row():
                    self.send = gr.Button("Ask both", variant="primary", elem_id="chat-send")
                    self.stop = gr.Button("Stop", elem_id="chat-stop")
                    self.clear = gr.Button("Start over", elem_id="chat-clear")
                    self.unload = gr.Button("Unload the models", elem_id="chat-unload")
                with gr.Accordion("Sampling and system prompt", open=False):
                    self.system = gr.Textbox(label="System prompt", lines=2, elem_id="chat-system", interactive=True)
                    with gr.Row():
                        self.temperature = gr.Number(0.0, label="Temperature", minimum=0, maximum=2, interactive=True)
                        self.top_p = gr.Number(1.0, label="Top-p", minimum=0.01, maximum=1, interactive=True)
                        self.tokens = gr.Number(
                            200, label="Max new tokens", minimum=1, maximum=4096, precision=0, interactive=True
                        )
                        self.seed = gr.Number(0, label="Seed", minimum=0, precision=0, interactive=True)
            self.gold = gr.State("")
            self.histories = gr.State({side: [] for side in chat.SIDES})
        self.wire()

    def wire(self) -> None:
        """Join components and handlers."""
        assert Context.root_block is not None  # pages are built inside the shell's Blocks
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        chosen = [self.weights, self.pick]
        Context.root_block.load(self.open, None, [self.run, *chosen], api_name="chat_open", **quiet)
        self.run.input(self.choose_run, self.run, chosen, api_name="chat_choose_run", **quiet).then(
            self.start_over, None, [self.columns, self.histories], api_name="chat_after_choice", **quiet
        )
        self.pick.input(
            self.choose_prompt,
            [self.run, self.pick],
            [self.question, self.system, self.gold],
            api_name="chat_prompt",
            **quiet,
        )
        inputs = [self.run, self.weights, self.question, self.system, self.gold, self.histories]
        sampling = [self.temperature, self.top_p, self.tokens, self.seed]
        gr.on(
            [self.send.click, self.question.submit],
            self.ask,
            [*inputs, *sampling],
            [self.columns, self.histories],
            api_name="chat_ask",
            concurrency_limit=1,
            **quiet,
        )
        self.stop.click(self.client.cancel, None, None, queue=False, api_name="chat_stop", **quiet)
        self.clear.click(self.start_over, None, [self.columns, self.histories], api_name="chat_clear", **quiet)
        self.unload.click(self.free, None, self.columns, api_name="chat_unload", **quiet)

    def open(self, request: gr.Request) -> tuple[Any, Any, Any]:
        """Fill the pickers; `?run=` chooses a run."""
        choices = chat.run_choices(self.root)
        ids = [run_id for _, run_id in choices]
        wanted = request.query_params.get("run", "")
        run_id = wanted if wanted in ids else (ids[0] if ids else "")
        return gr.Dropdown(choices, value=run_id or None), *self.choose_run(run_id)

    def choose_run(self, run_id: str | None) -> tuple[Any, Any]:
        """Fill the pickers of a run."""
        try:
            weights = chat.weight_choices(self.root, run_id or "")
            items = chat.prompts(self.root, run_id or "")
        except UserError:
            weights, items = [], []
        return gr.Dropdown(weights, value=weights[0] if weights else None), gr.Dropdown(
            chat.prompt_labels(items), value=None
        )

    def choose_prompt(self, run_id: str | None, index: int | None) -> tuple[str, str, str]:
        """Fill in a held-out prompt."""
        items = chat.prompts(self.root, run_id or "")
        if index is None or not 0 <= index < len(items):
            return "", "", ""
        return items[index].text, items[index].system, items[index].gold

    def ask(
        self, run_id: str, weights: str, question: str, system: str, gold: str, histories: dict[str, Any], *numbers: Any
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Stream both answers into the columns."""
        temperature, top_p, tokens, seed = numbers
        sampling = chat.Sampling(
            temperature=float(temperature or 0),
            top_p=float(top_p or 1),
            max_new_tokens=int(tokens or 200),
            seed=int(seed or 0),
        )
        for value in chat.answer(
            self.client,
            self.root,
            run_id=run_id or "",
            weights=weights or "",
            question=question or "",
            system=system or "",
            gold=gold or "",
            histories=histories,
            sampling=sampling,
        ):
            yield value, histories

    def start_over(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Forget both conversations."""
        return chat.empty_view(), {side: [] for side in chat.SIDES}

    def free(self) -> dict[str, Any]:
        """End the worker process and give its memory back."""
        self.client.unload()
        return chat.empty_view("The models are unloaded; the next question loads them again.")
