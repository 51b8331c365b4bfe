"""Whether two models answer the same: logits and greedy words on prompts of the run's own tasks."""

from __future__ import annotations

from typing import Any

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

Answer = tuple[torch.Tensor, list[int]]
"""Logits after a prompt, shape (V,), float32 on the host; and the greedy continuation."""


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
    )
    return logits, generated[0, len(ids) :].tolist()


def compare(expected: list[Answer], found: list[Answer], *, limit: float) -> dict[str, Any]:
    """Compare what two models said.

    Args:
        expected: Per prompt, of the one.
        found: The same of the other.
        limit: Largest mean |logit difference| that rounding explains.

    Returns:
        `mean_logit_difference`, `max_logit_difference` and `same_greedy_tokens`.

    Raises:
        UserError: If they differ by more.
    """
    pairs = list(zip(expected, found, strict=True))
    differences = [(ours - theirs).abs() for (ours, _), (theirs, _) in pairs]
    mean = max(float(difference.mean()) for difference in differences)
    same = sum(a == b for (_, ours), (_, theirs) in pairs for a, b in zip(ours, theirs))
    total = sum(max(len(ours), len(theirs)) for (_, ours), (_, theirs) in pairs)
    if not mean <= limit:  # also refuses NaN
        raise UserError(
            f"The merged model does not answer like the trained one: its logits differ by {mean:.3g} on average, "
            f"{limit:g} is what rounding explains.",
            fix="use the adapter unmerged, and report this with the run's log.",
        )
    return {
        "mean_logit_difference": mean,
        "max_logit_difference": max(float(difference.max()) for difference in differences),
        "same_greedy_tokens": f"{same} of {total}",
    }
