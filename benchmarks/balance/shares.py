"""What equal task weights really give each task: MFTCoder's rule per micro-batch beside ours, on the same rows.

    MFTCoder   each micro-batch divides by the weights of the tasks that happen to be in it; the mean over micro-batches
    ours       each token counts w / (W * expected tokens of its task in a step), however the step is cut

Arithmetic on the rows of a run and their supervised tokens; nothing is trained. MFTCoder's rows come in random order:
the mean over many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.contract.places import data_root
from engine.contract.recipe import Recipe

MICRO_BATCHES = (1, 2, 8, 64)
SHUFFLES = 200


def compare(recipe: Recipe) -> list[dict[str, Any]]:
    """Return rule, micro-batch and the share of each task, over all rows of a run of the recipe."""
    from engine.data.codec import Codec
    from engine.data.collate import MixtureDataset, MixtureSampler
    from engine.data.prepare import prepare
    from engine.data.preview import expected_counts, plan
    from engine.model.sources import resolve_model
    from engine.model.tokenizer import load_tokenizer

    root = data_root().make()
    folder = resolve_model(recipe.model_name_or_path, revision=None, root=root)
    tokenizer = load_tokenizer(folder, lambda _: None, chat_template=recipe.data.chat_template)
    prepared = prepare(recipe, Codec.of(tokenizer), root.prepared)
    mixture, dataset = plan(recipe, prepared.facts), MixtureDataset(prepared.tasks)
    rows = [dataset[index] for index in MixtureSampler(mixture)]
    task = np.array([index for index, _ in rows])
    tokens = np.array([sum(example.num_supervised for example in examples) for _, examples in rows])
    weights = np.array([section.weight for section in recipe.tasks])
    found = [
        {"rule": "MFTCoder", "micro_batch": size, "share": per_micro_batch(task, weights, size).tolist()}
        for size in MICRO_BATCHES
    ]
    expected, _ = expected_counts(mixture, prepared.facts)
    counted = np.bincount(task, weights=tokens, minlength=len(weights)) * weights / weights.sum() / expected
    return [*found, {"rule": "ours", "micro_batch": "any", "share": (counted / counted.sum()).tolist()}]


def per_micro_batch(task: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Return each task's share of the loss if every micro-batch divides by the weights of its own tasks, shape (T,)."""
    total, random = np.zeros(len(weights)), np.random.default_rng(0)
    for _ in range(SHUFFLES):
        shuffled = random.permutation(task)
        for start in range(0, len(task), size):
            present = np.bincount(shuffled[start : start + size], minlength=len(weights)) > 0
            total += np.where(present, weights, 0) / weights[present].sum()
    return total / total.sum()
