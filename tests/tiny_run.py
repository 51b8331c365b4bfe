"""A tiny run: model folder, two task files and a recipe of six steps that takes a second."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from engine.contract.recipe import Recipe
from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import Attempt, ProcessId, RunDir, claim_attempt
from engine.train.record import RunRecord
from tests.tiny_model import save_tiny_model

SHORT_SAMPLES = "record.sample_max_new_tokens=4"
"""Answers of four tokens at each evaluation, for tests that look at something else: 64 take half of a tiny run."""


def write_task(path: Path, count: int, words: str) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{words} {i}"},
                {"role": "assistant", "content": f"{words[::-1]} {i * 7}"},
            ]
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_recipe(folder: Path) -> Recipe:
    """Write model and tasks into a folder and return the recipe over them."""
    save_tiny_model(folder / "tiny")
    write_task(folder / "a.jsonl", 20, "abc")
    write_task(folder / "b.jsonl", 9, "a longer question with more words")
    return parse_recipe(
        f"""
        model_name_or_path: {folder / "tiny"}
        method: lora
        tasks:
          - {{name: short, path: {folder / "a.jsonl"}, weight: 1}}
          - {{name: long, path: {folder / "b.jsonl"}, weight: 2}}
        model: {{dtype: float32}}
        lora: {{r: 4, lora_dropout: 0.1}}
        data: {{eval_split: 0.2}}
        optim: {{learning_rate: 1e-2, max_steps: 6, per_device_train_batch_size: 4, gradient_accumulation_steps: 2}}
        record: {{eval_steps: 3, save_steps: 3, logging_steps: 1}}
        launch: {{device: cpu}}
        """
    )


def new_attempt(run: RunDir) -> RunRecord:
    """Claim the next attempt the way a supervisor does."""
    last = run.last_attempt()
    number = last.number + 1 if last else 1
    claim_attempt(run, Attempt(number=number, supervisor=asdict(ProcessId.of(os.getpid())), started_at=1.0))
    return RunRecord(run, attempt=number, rank=0)


def train_losses(run: RunDir) -> dict[int, tuple]:
    """Return what each step measured; for a repeated step the later row wins."""
    keys = ("train/loss", "optim/grad_norm", "optim/learning_rate", "task/short/loss", "task/long/loss", "tokens_seen")
    return {row["step"]: tuple(row.get(key) for key in keys) for row in run.metrics()[0] if "train/loss" in row}
