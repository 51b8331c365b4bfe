"""What the model answers to a few held-out prompts at each evaluation, greedily: the same prompts all along.

    held-out rows of a task -> by content hash -> the first that are short enough -> answers -> samples.jsonl

The training never notices: no gradient, no random number, the same mode before and after, and a failure ends the
samples, not the run.  Rank 0 does it alone while the others wait at their next exchange, so it has a time limit well
below theirs.  A model whose weights lie on all ranks is asked by all of them, in lockstep; rank 0 decides and writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from engine.contract.errors import UserError
from engine.contract.recipe import Recipe
from engine.contract.samples import Sample, clipped
from engine.contract.strategy import Strategy
from engine.data.prepare import StoredRows, Task
from engine.data.rows import Rows
from engine.data.scramble import scramble
from engine.evaluate.heldout import Prompt, task_dataset
from engine.generate.generator import Generator
from engine.generate.row import Decoding, Generated
from engine.train.lockstep import Lockstep
from engine.train.record import RunRecord

logger = logging.getLogger(__name__)
MAX_PROMPT_TOKENS = 1024
"""Longer prompts are not chosen: reading them would take longer than answering."""
MAX_SECONDS = 60.0
"""For all answers of one evaluation; other ranks wait meanwhile, and give up after ten minutes."""
BATCH_TOKENS = 8192
"""Prompts and answers of one batch: a small cache beside the state of the training."""
SEARCHED = 1000
"""Held-out rows of a task among which prompts are chosen: a large file need not be read to its end."""
CANDIDATES = 64
"""Of them whose text is read."""
_STREAM = 41


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of a task."""

    task: str
    number: int
    prompt: Prompt


class Sampler:
    """Lets the model of a run answer its questions.

    Args:
        record: The pen of the run.
        model: The model, not wrapped.
        tokenizer: Its tokenizer.
        questions: What it is asked, in the order of the tasks.
        max_new_tokens: Longest answer.
        context: Of the forward passes: the number format of the evaluation.
        is_urgent: Whether the run is to end at once.
        device: Where the model computes, if its weights may lie elsewhere.
        lockstep: With the other ranks, if the model lies on all of them; each then has a sampler.
    """

    def __init__(
        self,
        record: RunRecord,
        model: Any,
        tokenizer: Any,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        is_urgent: Callable[[], bool] = lambda: False,
        device: torch.device | None = None,
        lockstep: Lockstep | None = None,
    ) -> None:
        self.record, self.model, self.tokenizer = record, model, tokenizer
        self.questions, self.decoding = tuple(questions), Decoding(max_new_tokens=max_new_tokens)
        self.context, self.is_urgent = context, is_urgent
        self.device, self.lockstep = device or model.device, lockstep
        self.seconds = 0.0
        """What all samples of this attempt took so far."""
        self._began = time.monotonic()

    def take(self, step: int) -> None:
        """Answer all questions and write the answers down; what goes wrong is told, and ends the samples.

        Raises:
            UserError: If it went wrong on some ranks only: the others wait inside the model, and the run cannot go on.
        """
        if not self.questions:
            return
        before = time.monotonic()
        answers: dict[int, Generated] = {}
        try:
            reason = self._answer(answers, before + MAX_SECONDS)
        except (RuntimeError, ValueError, IndexError) as error:  # torch's out of memory is a RuntimeError
            logger.exception("no samples")
            first = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
            if self.lockstep and not self.lockstep.all_failed():
                problem = f"One of the processes could not answer the held-out prompts ({first})."
                fix = "set record.sample_prompts to 0, which leaves the samples out."
                raise UserError(problem, fix=fix, field="record.sample_prompts") from error
            text = f"No more samples: the model cannot answer while it is trained ({first})."
            self.record.event("samples", text, step=step)
            self.questions = ()
            return
        for place, answer in sorted(answers.items()):
            self.record.sample(_sample(step, self.questions[place], answer))
        self._tell(step, answers, time.monotonic() - before, reason)

    def _tell(self, step: int, answers: dict[int, Generated], took: float, reason: str) -> None:
        self.seconds += took
        share = self.seconds / max(time.monotonic() - self._began, 1e-9)
        tokens = sum(answer.num_tokens for answer in answers.values())
        text = f"Samples: {len(answers)} answers, {tokens} tokens ({took:.1f} s)."
        if step:  # before the first step it is a share of nothing
            text = f"Samples: {len(answers)} answers, {tokens} tokens ({took:.1f} s; {share:.1%} of the time so far)."
        self.record.event("samples", text, step=step, seconds=round(took, 3), share=round(share, 4))
        whole = sum(answer.end != "stopped" for answer in answers.values())
        if left := len(self.questions) - whole:
            self.record.event("samples", f"{left} samples are cut short or left out: {reason}.", step=step)

    def _answer(self, answers: dict[int, Generated], until: float) -> str:
        """Fill `answers` by the question's place; return why they were ended early, if they were."""
        reason = ""

        def stopped() -> bool:
            nonlocal reason
            if not reason and self.is_urgent():
                reason = "the run is to end"
            elif not reason and time.monotonic() > until:
                reason = f"they take longer than {MAX_SECONDS:.0f} s"
            return bool(reason)

        prompts = [question.prompt.ids for question in self.questions]
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        rows = max(1, BATCH_TOKENS // (len(prompts[order[0]]) + self.decoding.max_new_tokens))
        agree, ends = None, stopped
        if self.lockstep is not None:
            agree, ends = partial(self.lockstep.agree, stop=stopped), lambda: self.lockstep.stop
        generator = Generator(
            self.model, self.tokenizer, batch_size=rows, is_trained=True, device=self.device, agree=agree
        )
        devices = [self.device] if self.device.type == "cuda" else []
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.random.fork_rng(devices), self.context():
                for start in range(0, len(order), rows):
                    batch = order[start : start + rows]
                    made = generator.answer([prompts[place] for place in batch], self.decoding, stopped=ends)
                    answers.update(zip(batch, made, strict=True))
                    if ends():
                        break
        finally:
            self.model.train(was_training)
        return reason


def build_sampler(
    recipe: Recipe,
    record: RunRecord,
    trainer: Any,
    strategy: Strategy,
    *,
    is_urgent: Callable[[], bool],
) -> Sampler | None:
    """Return what writes the samples of a run, None on ranks that have no part in it; every rank must call it.

    Args:
        recipe: With paths on this disk.
        record: The pen of the run.
        trainer: A `MultiTaskTrainer`.
        strategy: How the processes share the model.
        is_urgent: Whether the run is to end at once.
    """
    if not recipe.record.sample_prompts:
        return None
    lockstep = Lockstep() if strategy.name in ("fsdp2", "zero3") and trainer.args.world_size > 1 else None
    if record.rank != 0 and lockstep is None:
        return None
    questions = _questions(recipe, record, trainer) if record.rank == 0 else []
    return Sampler(
        record,
        trainer.model,
        trainer.processing_class,
        lockstep.from_first(questions) if lockstep else questions,
        max_new_tokens=recipe.record.sample_max_new_tokens,
        context=trainer.compute_loss_context_manager,
        is_urgent=is_urgent,
        device=trainer.args.device,
        lockstep=lockstep,
    )


def _questions(recipe: Recipe, record: RunRecord, trainer: Any) -> list[Question]:
    """Return the questions of all tasks that have some, telling those that have none."""
    wanted, most = recipe.record.sample_prompts, recipe.record.sample_max_new_tokens
    limit, questions = max(0, min(MAX_PROMPT_TOKENS, _context(trainer.model) - most)), []
    for section, task in zip(recipe.tasks, trainer.tasks, strict=True):
        if not len(task.heldout):
            continue
        found = choose_prompts(recipe, section, task, limit=limit)[:wanted]
        questions += [Question(task.name, number, prompt) for number, prompt in enumerate(found)]
        if not found:
            text = f"No samples of {task.name}: no held-out example asks something in {limit} tokens or less."
            record.event("samples", text)
    return questions


def choose_prompts(recipe: Recipe, section: Any, task: Task, *, limit: int) -> list[Prompt]:
    """Return the prompts of a task that fit, in an order that depends on their content alone.

    Args:
        recipe: With paths on this disk.
        section: The task in it.
        task: The same, prepared.
        limit: Tokens that a prompt may have.
    """
    heldout = task.heldout
    assert isinstance(heldout, StoredRows)
    rows, keys = heldout.rows, heldout.store.keys
    order = np.argsort(scramble(keys[rows.example[:SEARCHED]], _STREAM), kind="stable")[:CANDIDATES]
    few = Rows(rows.example[order], rows.start[order], rows.stop[order], rows.num_supervised[order])
    prompts = task_dataset(section, StoredRows(heldout.store, few), recipe).prompts
    return [prompt for prompt in prompts if 0 < len(prompt.ids) <= limit]


def _context(model: Any) -> int:
    """Return the tokens that a model can look back on."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)


def _sample(step: int, question: Question, answer: Generated) -> Sample:
    prompt = question.prompt
    return Sample(
        step=step,
        task=question.task,
        prompt=question.number,
        question=clipped(prompt.text),
        gold=clipped(prompt.reference),
        output=clipped(answer.text),
        num_tokens=answer.num_tokens,
        end=answer.end,
    )
