"""Questions -> answers, token by token: several speakers in one batch where peft can, one after the other where not.

    answer_all(models, questions, emit, stop)      emit(row, text) as soon as text cannot change any more

Each answer draws from a generator of its own, so that its seed repeats it whoever answers beside it.  Who really spoke
is counted inside the adapted layers and compared with who was asked, for every answer.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from engine.chat.models import ChatModels
from engine.chat.row import Answer, Question, Row
from engine.contract.speakers import BASE, Speaker

IN_PEFT = "__base__"
"""peft's name for a row of a batch without adapter."""


class WrongSpeaker(RuntimeError):
    """An answer did not come from the weights that were asked."""


class _Listen(StoppingCriteria):
    """Gives each row its new token; a row that is finished, or a stop, ends it within that token."""

    def __init__(self, rows: Sequence[Row], stop: threading.Event) -> None:
        self.rows, self.stop = rows, stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            row.add(token)
            if self.stop.is_set():
                row.finish("stopped")
        return torch.tensor([bool(row.reason) for row in self.rows], device=input_ids.device)


class _Draw(LogitsProcessor):
    """Leaves each row the one token that it draws: temperature, then top-p, then its own generator."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for index, row in enumerate(self.rows):
            sampling = row.question.sampling
            if sampling.temperature > 0 and not row.reason:
                token = draw(scores[index], sampling.temperature, sampling.top_p, row.generator)
                scores[index] = float("-inf")
                scores[index, token] = 0.0
        return scores


def draw(scores: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Draw one token.

    Args:
        scores: Logits, shape (V,).
        temperature: Above 0.
        top_p: The smallest set of likeliest tokens with at least this probability is drawn from.
        generator: On the host, so that a seed means the same on every device.
    """
    probabilities, tokens = torch.softmax(scores.double() / temperature, dim=-1).sort(descending=True, stable=True)
    sums = probabilities.cumsum(dim=-1)
    kept = int((sums < top_p).sum()) + 1 if top_p < 1 else len(sums)
    point = torch.rand((), generator=generator, dtype=torch.float64).item() * float(sums[min(kept, len(sums)) - 1])
    return int(tokens[min(int((sums <= point).sum()), len(sums) - 1)])


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
            spoke = _generate(models, rows, stop)
        for index, row, who in zip(batch, rows, spoke, strict=True):
            yield index, row.answer(who, together=len(batch) > 1)


def _row(models: ChatModels, question: Question, index: int, emit: Callable[[int, str], None]) -> Row:
    speaker = question.speaker
    return Row(models.codec(speaker), question, models.stop_ids(speaker), lambda text: emit(index, text))


def _generate(models: ChatModels, rows: Sequence[Row], stop: threading.Event) -> list[str]:
    """Generate one batch into its rows; return who spoke in each."""
    speakers = [row.question.speaker for row in rows]
    model = models.model_of(speakers[0])
    width = max(len(row.question.prompt.ids) for row in rows)
    pad = rows[0].codec.eos_token_id
    padded = [[pad] * (width - len(row.question.prompt.ids)) + row.question.prompt.ids for row in rows]
    inputs = torch.tensor(padded, device=models.device)
    real = [len(row.question.prompt.ids) for row in rows]
    mask = torch.tensor([[0] * (width - size) + [1] * size for size in real], device=models.device)
    # every number that a model's generation_config could bring, so that the answer is of the settings on the page
    config = GenerationConfig(
        max_new_tokens=max(row.question.prompt.max_new_tokens for row in rows),
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=sorted(set[int]().union(*(row.stop_ids for row in rows))),
        pad_token_id=pad,
    )
    adapters = [models.adapter_of(speaker) for speaker in speakers]
    with torch.inference_mode(), _speaking(model, adapters) as (arguments, witness):
        model.generate(
            input_ids=inputs,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_Draw(rows)]),
            stopping_criteria=StoppingCriteriaList([_Listen(rows, stop)]),
            **arguments,
        )
    return [_who(speaker, adapter, model, witness) for speaker, adapter in zip(speakers, adapters, strict=True)]


@contextmanager
def _speaking(model: Any, adapters: Sequence[str | None]) -> Iterator[tuple[dict[str, Any], Counter[str]]]:
    """Let these adapters speak, one per row, None = the base model; compare with the layers afterwards.

    Yields:
        Arguments for `generate`, and how many rows of a step each adapter computed, filled meanwhile.

    Raises:
        WrongSpeaker: If the layers computed other adapters than these, on another number of rows.
    """
    witnessed: Counter[str] = Counter()
    if not isinstance(model, PeftModel):
        yield {}, witnessed
        return
    active = [name for name in adapters if name is not None]
    if active:
        model.set_adapter(active[0], inference_mode=True)
    off = nullcontext() if active else model.disable_adapter()
    mixed = {"adapter_names": [name or IN_PEFT for name in adapters]} if len(adapters) > 1 and active else {}
    with off, _witness(model, witnessed) as can_see:
        yield mixed, witnessed
        if not can_see:  # only adapters on fused experts: they are no layers that can be watched
            _from_flags(model, witnessed, len(adapters))
    if witnessed != Counter(active):
        raise WrongSpeaker(f"asked were {dict(Counter(active))}, computed have {dict(witnessed)}")


@contextmanager
def _witness(model: PeftModel, witnessed: Counter[str]) -> Iterator[bool]:
    """Count in the first layer of each adapter for how many rows of a step it computes."""
    first: dict[str, Any] = {}
    for module in model.modules():
        if isinstance(module, LoraLayer) and not isinstance(module, ParamWrapper):
            first = {**module.lora_A, **first}

    def seen(name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs[0].dim() == 3:  # (rows, tokens, width); DoRA also asks for the weight itself, in two dimensions
                witnessed[name] = inputs[0].shape[0]

        return hook

    handles = [part.register_forward_pre_hook(seen(name)) for name, part in first.items()]
    try:
        yield bool(first)
    finally:
        for handle in handles:
            handle.remove()


def _from_flags(model: PeftModel, witnessed: Counter[str], rows: int) -> None:
    for module in model.modules():
        if isinstance(module, ParamWrapper) and not module.disable_adapters:
            witnessed.update({name: rows for name in module.active_adapters if name not in witnessed})


def _who(speaker: Speaker, adapter: str | None, model: Any, witnessed: Counter[str]) -> str:
    if speaker.kind == "model":
        return f"model {speaker.name}"
    if adapter is not None and witnessed[adapter]:
        return f"adapter {speaker.name}"
    if speaker.name != BASE:
        raise WrongSpeaker(f"{speaker.name} was asked, the base model answered")
    return "base model, adapter off" if isinstance(model, PeftModel) else "base model"
