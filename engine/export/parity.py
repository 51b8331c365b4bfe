"""Whether two models answer the same: logits and greedy words on prompts of the run's own tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from engine.contract.errors import UserError
from engine.contract.hub_path import on_disk
from engine.contract.places import data_root
from engine.contract.recipe import Recipe
from engine.contract.taskfile import Example, Message, iter_examples
from engine.data.codec import Codec
from engine.data.tokenize import encode_prompt

PROMPTS = 5
TOKENS = 32
STORED_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.3}
"""Largest mean |logit difference| between base + adapter and the merged weights, by the dtype that they are stored in.
bfloat16 keeps 8 bits of every weight, which moved the logits of a 135M model by 0.04 to 0.25; weights of another model
differ by several units."""

EXACT_LIMIT = 1e-2
"""The same between a merged model and a copy in another container, both computed in float32."""
BROKEN = 0.8
"""Largest `relative_logit_difference` of a quantized model. A 135M model, which suffers most, has 0.02 in q8_0, 0.12 in
q4_K_M and 0.26 in bitsandbytes; two models that have nothing in common have 1.4, the square root of 2."""


class Answer(NamedTuple):
    """What a model says to a prompt."""

    logits: torch.Tensor
    """After the prompt, shape (V,), float32 on the host."""
    tokens: list[int]
    """The greedy continuation."""
    leads: list[float]
    """Of each of its tokens: how far its logit is above the second best."""


def parity_prompts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the token ids of held-out prompts, of each task in turn, `PROMPTS` in all."""
    streams = []
    for task in recipe.tasks:
        try:
            if path := on_disk(task.eval_path or task.path, data_root()):
                streams.append(iter_examples(path, task.columns))
        except UserError:
            continue
    prompts, codec = [], Codec.of(tokenizer)
    for example in _in_turn(streams, PROMPTS):
        end = next(i for i, message in enumerate(example.messages) if message.role == "assistant")
        prompts.append(encode_prompt(codec, example.messages[:end])[-512:])
    return prompts


def _in_turn(streams: list[Any], count: int) -> list[Example]:
    found: list[Example] = []
    while streams and len(found) < count:
        for stream in list(streams):
            try:
                example = next(stream)
            except (StopIteration, UserError):
                streams.remove(stream)
                continue
            if example.messages[0].role != "assistant" and len(found) < count:
                found.append(example)
    own = Example((Message("user", "Write a short Python function."), Message("assistant", "")), 0)
    return found or [own]


@torch.no_grad()
def answer(model: Any, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Answer:
    """Return what a model says to a prompt."""
    inputs = torch.tensor([ids], device=model.device)
    logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[0, -1].float().cpu()
    generated = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=TOKENS,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        output_scores=True,
        return_dict_in_generate=True,
    )
    best = torch.stack([step[0] for step in generated.scores]).float().topk(2).values
    return Answer(logits, generated.sequences[0, len(ids) :].tolist(), (best[:, 0] - best[:, 1]).tolist())


def differences(expected: list[Answer], found: list[Answer]) -> dict[str, Any]:
    """Say how far apart two models answer.

    Returns:
        Of the prompts the largest `mean_logit_difference` and `max_logit_difference`; `relative_logit_difference`: the
        mean difference as a share of the spread of the expected logits, both around their mean (a constant changes no
        probability); `same_greedy_tokens` in words and `same_greedy_share` from 0 to 1; `changed_token_lead`: the
        largest lead of an expected token that is the first of its answer to be another, 0 if none is.  Rounding that
        moves no logit by more than d changes no token with a lead above 2 d.
    """
    pairs = list(zip(expected, found, strict=True))
    apart = [(ours.logits - theirs.logits).abs() for ours, theirs in pairs]
    relative = [
        float(((theirs - theirs.mean()) - (ours - ours.mean())).abs().mean() / (ours - ours.mean()).abs().mean())
        for (ours, *_), (theirs, *_) in pairs
    ]
    same = sum(a == b for ours, theirs in pairs for a, b in zip(ours.tokens, theirs.tokens))
    total = sum(max(len(ours.tokens), len(theirs.tokens)) for ours, theirs in pairs)
    changed = [_first_changed(ours, theirs) for ours, theirs in pairs]
    return {
        "mean_logit_difference": _largest([float(difference.mean()) for difference in apart]),
        "max_logit_difference": _largest([float(difference.max()) for difference in apart]),
        "relative_logit_difference": _largest(relative),
        "same_greedy_tokens": f"{same} of {total}",
        "same_greedy_share": same / max(1, total),
        "changed_token_lead": _largest([lead for lead in changed if lead is not None] or [0.0]),
    }


def _first_changed(ours: Answer, theirs: Answer) -> float | None:
    """The lead of the first token that differs; those behind it answer another text."""
    return next((lead for a, b, lead in zip(ours.tokens, theirs.tokens, ours.leads) if a != b), None)


def _largest(values: list[float]) -> float:
    """The largest; NaN if any is, which `max` may overlook."""
    return float("nan") if any(value != value for value in values) else max(values)


def compare(expected: list[Answer], found: list[Answer], *, limit: float) -> dict[str, Any]:
    """Compare what two models said that must answer the same.

    Args:
        expected: Per prompt, of the one.
        found: The same of the other.
        limit: Largest mean |logit difference| that rounding explains.

    Returns:
        What `differences` says.

    Raises:
        UserError: If they differ by more.
    """
    told = differences(expected, found)
    mean = told["mean_logit_difference"]
    if not mean <= limit:  # also refuses NaN
        raise UserError(
            f"The merged model does not answer like the trained one: its logits differ by {mean:.3g} on average, "
            f"{limit:g} is what rounding explains.",
            fix="use the adapter unmerged, and report this with the run's log.",
        )
    return told


def refuse_broken(told: dict[str, Any], what: str) -> None:
    """Refuse a quantized model that says something else altogether.

    Args:
        told: What `differences` says.
        what: The format, as people call it.

    Raises:
        UserError: If its logits are further from the merged model's than rounding to 4 bits brings them.
    """
    relative = told["relative_logit_difference"]
    if not relative <= BROKEN:  # also refuses NaN
        raise UserError(
            f"The model in {what} is broken: its logits differ from the merged model's by {relative:.0%} of their "
            f"spread, {BROKEN:.0%} is the limit.",
            fix="choose another format, or a larger model: small ones suffer most from 4 bits.",
        )
