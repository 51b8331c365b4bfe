"""Questions -> answers, token by token: several speakers in one batch where peft can, one after the other where not.

    answer_all(models, questions, emit, stop)      emit(row, text) as soon as text cannot change any more

Each answer draws from a generator of its own, so that its seed repeats it whoever answers beside it.  Who really spoke
is counted inside the adapted layers and compared with who was asked, at every step of every answer.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from engine.chat.models import ChatModels
from engine.chat.question import Answer, Question, answer_of
from engine.contract.speakers import BASE, Speaker
from engine.generate.loop import grow
from engine.generate.row import Row

IN_PEFT = "__base__"
"""peft's name for a row of a batch without adapter."""


class WrongSpeaker(RuntimeError):
    """An answer did not come from the weights that were asked."""


def answer_all(
    models: ChatModels, questions: Sequence[Question], emit: Callable[[int, str], None], stop: threading.Event
) -> Iterator[tuple[int, Answer]]:
    """Answer questions whose speakers are loaded.

    Args:
        models: What is loaded.
        questions: One per answer.
        emit: Takes (index of the question, next piece of text), and an empty text when nothing follows.
        stop: Ends all answers within a token.

    Yields:
        (index, answer), those of one batch together.

    Raises:
        WrongSpeaker: If an answer came from other weights than those that were asked.
    """
    if len(questions) > 1 and models.can_share_a_batch([question.speaker for question in questions]):
        batches = [list(range(len(questions)))]
    else:
        batches = [[index] for index in range(len(questions))]
    for batch in batches:
        rows = [_row(models, questions[index], index, emit) for index in batch]
        if stop.is_set():
            for row in rows:
                row.finish("stopped")
            spoke = ["nobody: stopped before the first word"] * len(rows)
        else:
            spoke = _generate(models, rows, [questions[index].speaker for index in batch], stop)
        for index, row, who in zip(batch, rows, spoke, strict=True):
            yield index, answer_of(row, questions[index], who, together=len(batch) > 1)


def _row(models: ChatModels, question: Question, index: int, emit: Callable[[int, str], None]) -> Row:
    speaker = question.speaker
    return Row(
        question.prompt.ids,
        question.decoding,
        decode=partial(models.codec(speaker).decode, skip_special_tokens=True),
        ends=models.stop_ids(speaker),
        place=index,
        emit=lambda text: emit(index, text),
    )


def _generate(models: ChatModels, rows: Sequence[Row], speakers: Sequence[Speaker], stop: threading.Event) -> list[str]:
    """Let one batch of rows grow; return who spoke in each."""
    model = models.model_of(speakers[0])
    adapters = [models.adapter_of(speaker) for speaker in speakers]
    with _speaking(model, {row.place: name for row, name in zip(rows, adapters, strict=True)}) as witness:
        for _ in grow(model, rows, before=witness.next_step, stopped=stop.is_set):
            pass
    return [_who(speaker, adapter, model, witness) for speaker, adapter in zip(speakers, adapters, strict=True)]


class _Witness:
    """Names the adapters of each step, and compares them with the layers afterwards.

    Args:
        model: What speaks.
        adapters: Place of a row -> its adapter, None = the base model.
    """

    def __init__(self, model: Any, adapters: Mapping[int, str | None]) -> None:
        self.model, self.adapters = model, adapters
        self.active = [name for name in adapters.values() if name is not None]
        self.names: list[str] = []
        """Adapter of each row of a step, as peft wants them."""
        self.heard: set[str] = set()
        """Adapters that have computed."""
        self.asked: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        """For how many rows of a step each adapter was asked, and has computed."""
        self.blind = False
        """Whether adapters are on fused experts only: those are no layers that can be watched."""

    def next_step(self, rows: Sequence[Row]) -> None:
        """Take note of the rows of the next step, after a look at the last one.

        Raises:
            WrongSpeaker: See `check`.
        """
        if isinstance(self.model, PeftModel):
            self.check()
            self.names = [self.adapters[row.place] or IN_PEFT for row in rows]
            self.asked = Counter(name for name in self.names if name != IN_PEFT)

    def check(self) -> None:
        """Compare the last step with the layers.

        Raises:
            WrongSpeaker: If they computed other adapters than those asked, or on another number of rows.
        """
        if self.blind and self.asked:
            rows = self.asked.total()
            for module in self.model.modules():
                if isinstance(module, ParamWrapper) and not module.disable_adapters:
                    self.seen.update({name: rows for name in module.active_adapters if name not in self.seen})
        if self.seen != self.asked:
            raise WrongSpeaker(f"asked were {dict(self.asked)}, computed have {dict(self.seen)}")
        self.heard |= set(self.seen)
        self.asked, self.seen = Counter(), Counter()


@contextmanager
def _speaking(model: Any, adapters: Mapping[int, str | None]) -> Iterator[_Witness]:
    """Let these adapters speak, by the place of their row, None = the base model.

    Raises:
        WrongSpeaker: If a step was computed by others.
    """
    witness = _Witness(model, adapters)
    if not isinstance(model, PeftModel):
        yield witness
        return
    if witness.active:
        model.set_adapter(witness.active[0], inference_mode=True)
    off = nullcontext() if witness.active else model.disable_adapter()
    with off, _listening(model, witness):
        yield witness
        witness.check()


@contextmanager
def _listening(model: PeftModel, witness: _Witness) -> Iterator[None]:
    """Name the adapters to each layer, and count in the first layer of each for how many rows of a step it computes."""
    layers = [m for m in model.modules() if isinstance(m, LoraLayer) and not isinstance(m, ParamWrapper)]
    first: dict[str, Any] = {}
    for layer in layers:
        first = {**layer.lora_A, **first}
    witness.blind = not first

    def named(_: Any, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, {**arguments, "adapter_names": witness.names}

    def seen(name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs[0].dim() == 3:  # (rows, tokens, width); DoRA also asks for the weight itself, in two dimensions
                witness.seen[name] = inputs[0].shape[0]

        return hook

    handles = [part.register_forward_pre_hook(seen(name)) for name, part in first.items()]
    if witness.active and len(witness.adapters) > 1:
        # what peft does with `adapter_names`, once for all steps
        handles += [layer.register_forward_pre_hook(named, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _who(speaker: Speaker, adapter: str | None, model: Any, witness: _Witness) -> str:
    if speaker.kind == "model":
        return f"model {speaker.name}"
    if adapter is not None and adapter in witness.heard:
        return f"adapter {speaker.name}"
    if speaker.name != BASE:
        raise WrongSpeaker(f"{speaker.name} was asked, the base model answered")
    return "base model, adapter off" if isinstance(model, PeftModel) else "base model"
