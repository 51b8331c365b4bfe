"""The Chat page: two speakers side by side.  Layout and wiring; the thinking is in `studio.logic.chat`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.contract.errors import UserError
from studio.address import address_js
from studio.chat_client import ChatClient
from studio.context import StudioContext
from studio.islands import island
from studio.logic import chat, chat_prompts
from studio.wiring import NEWEST, ONCE

PRECISIONS = [
    ("As the run was trained", "as trained"),
    ("4 bit (nf4), saves memory", "4 bit"),
    ("Not quantized", "unquantized"),
]
BUTTONS = 4
"""Those that wait while an answer is made."""
NO_RUN = "No run has a checkpoint yet. Train one, and talk to it while it still learns."
UNLOADED = "The models are unloaded; the next question loads them again."


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
            head = {"title": "Chat", "text": "The same question to two models: the base and yours, or two checkpoints."}
            island(self.project, "page_head", head, elem_id="chat-head")
            self._pickers()
            self.columns = island(self.project, "chat_columns", chat.view(chat.new_talk()), elem_id="chat")
            self._question()
            with gr.Accordion("Use it from your code", open=False, elem_id="chat-code-panel"):
                self.code = island(self.project, "chat_code", {}, elem_id="chat-code")
            self.gold = gr.State({})
            self.talk = gr.State(chat.new_talk())
        self.wire()

    def _pickers(self) -> None:
        with gr.Column(elem_classes="st-panel"):
            with gr.Row():
                self.run = gr.Dropdown([], label="Run", elem_id="chat-run", interactive=True, scale=3)
                self.left = gr.Dropdown([], label="Left", elem_id="chat-left", interactive=True, scale=3)
                self.right = gr.Dropdown([], label="Right", elem_id="chat-right", interactive=True, scale=3)
            with gr.Row():
                self.task = gr.Dropdown([], label="Task", elem_id="chat-task", interactive=True, scale=3)
                self.pick = gr.Dropdown([], label="Held-out prompt", elem_id="chat-pick", interactive=True, scale=6)

    def _question(self) -> None:
        with gr.Column(elem_classes="st-panel"):
            self.question = gr.Textbox(
                label="Question",
                placeholder="Enter sends, Shift and Enter begin a new line, Escape stops.",
                lines=1,
                max_lines=14,
                elem_id="chat-question",
                interactive=False,
            )
            with gr.Row(elem_classes="chat-buttons"):
                self.send = gr.Button("Ask both", variant="primary", elem_id="chat-send", interactive=False)
                self.stop = gr.Button("Stop", elem_id="chat-stop")
                self.again = gr.Button("Regenerate both", elem_id="chat-again")
                self.edit = gr.Button("Edit the last question", elem_id="chat-edit")
                self.clear = gr.Button("Start over", elem_id="chat-clear")
                self.unload = gr.Button("Unload the models", elem_id="chat-unload")
            with gr.Accordion("System prompt, sampling and memory", open=False, elem_id="chat-settings"):
                self.system = gr.Textbox(label="System prompt", lines=2, elem_id="chat-system", interactive=True)
                with gr.Row():
                    self.temperature = gr.Number(
                        0.0, label="Temperature", info="0 = always the likeliest word", minimum=0, maximum=2, step=0.1
                    )
                    self.top_p = gr.Number(1.0, label="Top-p", info="1 = any word", minimum=0.01, maximum=1, step=0.05)
                    self.tokens = gr.Number(
                        200,
                        label="Longest answer, tokens",
                        info="It ends there at the latest",
                        minimum=1,
                        maximum=65536,
                        precision=0,
                    )
                    self.seed = gr.Number(
                        0, label="Seed", info="The same seed, the same answer", minimum=0, precision=0
                    )
                with gr.Row():
                    self.precision = gr.Dropdown(
                        PRECISIONS,
                        value="as trained",
                        label="Base model in memory",
                        elem_id="chat-precision",
                        min_width=280,
                    )
                    self.drop = gr.Checkbox(
                        False,
                        label="Leave out the oldest turns where a conversation is too long",
                        elem_id="chat-drop",
                        min_width=280,
                    )

    def wire(self) -> None:
        """Join components and handlers."""
        assert Context.root_block is not None  # pages are built inside the shell's Blocks
        sides, prompt = [self.left, self.right], [self.question, self.system, self.gold]
        chosen = [*sides, self.task, self.pick, self.code]
        opened = [self.run, *chosen, self.columns, self.question, self.send]
        address: dict[str, Any] = {"fn": None, "inputs": [self.run, *sides], "js": address_js("run", *chat.SIDES)}
        Context.root_block.load(self.open, None, opened, api_name="chat_open", **ONCE)
        self.run.input(self.choose_run, self.run, chosen, api_name="chat_choose_run", **NEWEST).then(
            self.start_over, sides, [self.columns, self.talk], api_name="chat_after_choice", **NEWEST
        ).then(**address, api_name="chat_run_address")
        gr.on(
            [self.left.input, self.right.input],
            self.start_over,
            sides,
            [self.columns, self.talk],
            api_name="chat_choose_side",
            **NEWEST,
        ).then(self.snippets, [self.run, self.right], self.code, api_name="chat_code", **NEWEST).then(
            **address, api_name="chat_side_address"
        )
        self.task.input(self.choose_task, [self.run, self.task], [self.pick, *prompt], api_name="chat_task", **NEWEST)
        self.pick.input(self.choose_prompt, [self.run, self.task, self.pick], prompt, api_name="chat_prompt", **NEWEST)
        buttons = [self.send, self.again, self.edit, self.clear]
        asked = [self.run, *sides, self.question, self.system, self.gold, self.precision, self.talk]
        sampling = [self.temperature, self.top_p, self.tokens, self.seed, self.drop]
        told = [self.columns, self.talk, self.question, *buttons]
        # more than one at a time, so that a second tab is told that the model is busy instead of waiting without a word
        several: dict[str, Any] = {"concurrency_limit": 4, "concurrency_id": "chat", **ONCE}
        first = gr.on(
            [self.send.click, self.question.submit], self.ask, [*asked, *sampling], told, api_name="chat_ask", **several
        )
        again = self.again.click(
            self.ask_again, [*asked, *sampling], [*told, self.seed], api_name="chat_ask_again", **several
        )
        for event, name in ((first, "answered"), (again, "answered_again")):
            event.then(self.ready, None, buttons, queue=False, api_name=f"chat_{name}", **NEWEST)
        self.stop.click(self.client.cancel, None, None, queue=False, api_name="chat_stop", **ONCE)
        self.edit.click(
            self.edit_last, [*sides, self.talk], [self.columns, self.talk, self.question], api_name="chat_edit", **ONCE
        )
        self.clear.click(self.start_over, sides, [self.columns, self.talk], api_name="chat_clear", **ONCE)
        self.unload.click(self.free, [*sides, self.talk], self.columns, api_name="chat_unload", **ONCE)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Fill the pickers; `?run=` chooses a run, `?left=` and `?right=` who answers, `?checkpoint=` the right one.

        A question can be asked from then on.
        """
        choices, asked = chat.run_choices(self.root), request.query_params
        ids = [run_id for _, run_id in choices]
        wanted = asked.get("run", "")
        run_id = wanted if wanted in ids else (ids[0] if ids else "")
        sides = {"left": asked.get("left", ""), "right": asked.get("right") or asked.get("checkpoint", "")}
        picked, names = self._pick_run(run_id, sides)
        columns = chat.view(chat.new_talk(), names, empty="" if run_id else NO_RUN)
        ready = gr.Textbox(interactive=bool(run_id)), gr.Button(interactive=bool(run_id))
        return gr.Dropdown(choices, value=run_id or None), *picked, columns, *ready

    def choose_run(self, run_id: str | None) -> tuple[Any, ...]:
        """Fill the pickers of a run."""
        return self._pick_run(run_id or "", {})[0]

    def _pick_run(self, run_id: str, wanted: dict[str, str]) -> tuple[tuple[Any, ...], tuple[str, str]]:
        """Return what fills the pickers of a run, and who is chosen left and right."""
        try:
            speakers, newest = chat.speaker_choices(self.root, run_id)
            tasks = chat_prompts.tasks(self.root, run_id)
        except UserError:
            speakers, newest, tasks = [], "", []
        names = [name for _, name in speakers]
        left, right = (
            wanted.get(side) if wanted.get(side) in names else default
            for side, default in zip(chat.SIDES, ("base" if names else None, newest or None), strict=True)
        )
        picked = (
            gr.Dropdown(speakers, value=left),
            gr.Dropdown(speakers, value=right),
            gr.Dropdown(tasks, value=None),
            gr.Dropdown([], value=None, info=chat_prompts.NO_HELD_OUT if run_id and not tasks else None),
            self.snippets(run_id, right),
        )
        return picked, (left or "", right or "")

    def snippets(self, run_id: str | None, right: str | None) -> dict[str, str]:
        """Return the snippets for the model on the right."""
        return chat_prompts.code(self.project, run_id or "", right or "")

    def choose_task(self, run_id: str | None, task: str | None) -> tuple[Any, str, str, dict[str, str]]:
        """Fill in the first held-out prompt of a task."""
        try:
            items, why = chat_prompts.prompts(self.root, run_id or "", task or ""), ""
        except UserError as error:
            items, why = [], error.problem if task else ""
        picker = gr.Dropdown(chat_prompts.labels(items), value=0 if items else None, info=why or None)
        return picker, *_filled(items, 0)

    def choose_prompt(self, run_id: str | None, task: str | None, index: int | None) -> tuple[str, str, dict[str, str]]:
        """Fill in a held-out prompt, and remember which answer belongs to it."""
        try:
            return _filled(chat_prompts.prompts(self.root, run_id or "", task or ""), index)
        except UserError:
            return _filled([], index)

    def ask(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Stream both answers into the columns; the question leaves its box, and comes back if there is a problem."""
        ask, talk = _read(*values), values[7]
        question: Any = ""
        buttons: list[Any] = [gr.Button(interactive=False)] * BUTTONS
        for value in chat.answer(self.client, self.root, ask, talk):
            yield value, talk, ask.question if value.get("problem") else question, *buttons
            question, buttons = gr.skip(), [gr.skip()] * BUTTONS

    def ready(self) -> list[Any]:
        """Free the buttons: only now, after the whole event, would Gradio take another question."""
        return [gr.Button(interactive=True)] * BUTTONS

    def ask_again(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Ask the last question once more; sampled answers with the next seed, or they would be the same."""
        run, left, right, _, system, gold, precision, talk, temperature, top_p, tokens, seed, drop = values
        question = chat.take_back(talk)
        seed = int(seed or 0) + (1 if temperature else 0)
        again = (run, left, right, question, system, gold, precision, talk, temperature, top_p, tokens, seed, drop)
        for told in self.ask(*again):
            yield *told, seed

    def edit_last(self, left: str, right: str, talk: chat.Talk) -> tuple[dict[str, Any], chat.Talk, Any]:
        """Put the last question back into the box and forget its answers."""
        question = chat.take_back(talk)
        return chat.view(talk, (left or "", right or "")), talk, question or gr.skip()

    def start_over(self, left: str | None, right: str | None) -> tuple[dict[str, Any], chat.Talk]:
        """Forget both conversations."""
        talk = chat.new_talk()
        return chat.view(talk, (left or "", right or ""), memory=chat.memory_of(self.client)), talk

    def free(self, left: str | None, right: str | None, talk: chat.Talk) -> dict[str, Any]:
        """End the worker process and give its memory back."""
        self.client.unload()
        return chat.view(talk, (left or "", right or ""), note=UNLOADED)


def _filled(items: list[chat_prompts.Prompt], index: int | None) -> tuple[str, str, dict[str, str]]:
    """Return question, system prompt and the answer that belongs to them."""
    if index is None or not 0 <= index < len(items):
        return "", "", {}
    chosen = items[index]
    return chosen.text, chosen.system, {"question": chosen.text, "answer": chosen.gold}


def _read(
    run: str, left: str, right: str, question: str, system: str, gold: Any, precision: Any, _: Any, *numbers: Any
) -> chat.Ask:
    temperature, top_p, tokens, seed, drop = numbers
    settings = chat.Settings(
        temperature=float(temperature or 0),
        top_p=float(top_p or 1),
        max_new_tokens=int(tokens or 200),
        seed=int(seed or 0),
        drop_oldest=bool(drop),
    )
    return chat.Ask(
        run_id=run or "",
        left=left or "",
        right=right or "",
        question=question or "",
        system=system or "",
        gold=gold["answer"] if gold and gold["question"].strip() == (question or "").strip() else "",
        precision=precision or "as trained",
        settings=settings,
    )
