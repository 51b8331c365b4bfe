"""Invariant 4: a packed, side by side or padded example has the loss it has alone - per attention implementation."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional
from transformers import Gemma2Config, LlamaConfig, MixtralConfig, Qwen2Config, Starcoder2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.data.collate import lay_side_by_side, pad
from engine.data.tokenize import IGNORE, Encoded
from engine.train.head import attach_loss_head
from engine.train.main import train
from engine.train.trainer import weighted_loss
from tests.tiny_run import new_attempt

SIZE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
FAMILIES = {
    "llama": LlamaConfig(**SIZE, **HEADS),
    "qwen2": Qwen2Config(**SIZE, **HEADS),
    "mixtral": MixtralConfig(**SIZE, **HEADS, num_local_experts=4, sliding_window=None),
    "starcoder2": Starcoder2Config(**SIZE, **HEADS, sliding_window=None),
    "gemma2": Gemma2Config(**SIZE, **HEADS, head_dim=8, sliding_window=64),
}
CASES = [(f, a) for f in FAMILIES for a in ("sdpa", "eager") if (f, a) != ("gemma2", "sdpa")]
"""gemma2 soft-caps its scores, for which sdpa has no kernel: the loader falls back to eager, saying so."""


def documents() -> list[tuple[int, Encoded]]:
    """Return four examples of odd lengths over three tasks."""
    made = []
    for index, (length, prompt) in enumerate([(7, 3), (31, 9), (9, 2), (2, 1)]):
        ids = torch.randint(1, 60, (length,), generator=torch.Generator().manual_seed(index)).tolist()
        made.append((index % 3, Encoded(ids, [IGNORE] * prompt + ids[prompt:])))
    return made


@torch.no_grad()
@pytest.mark.parametrize(("family", "attention"), CASES)
def test_packed_and_padded_examples_have_the_loss_they_have_alone(family, attention):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation=attention).eval()
    alone = []
    for _, example in documents():
        logits = model(torch.tensor([example.input_ids])).logits[0, :-1]
        labels = torch.tensor(example.labels[1:])
        nll = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        alone.append(nll[labels != IGNORE])
    expected = torch.cat(alone)
    head = attach_loss_head(model)
    assert head is not None
    for batch in (lay_side_by_side(documents()), pad(documents())):
        for way in (None, head):
            nll = weighted_loss(model, batch, torch.ones(34), way).nll
            torch.testing.assert_close(nll, expected, rtol=1e-4, atol=2e-5)
        assert batch["target_task"].tolist() == [0] * 4 + [1] * 22 + [2] * 7 + [0]


def test_padding_is_masked_and_carries_no_loss():
    batch = pad(documents())
    assert batch["input_ids"].shape == (4, 31) and batch["attention_mask"].sum(dim=1).tolist() == [7, 31, 9, 2]
    assert len(batch["targets"]) == 34 and batch["row"].max() == 3


@pytest.mark.parametrize("packing", ["padding", "length_grouped", "bfd"])
def test_a_run_sees_what_its_preview_promised(recipe, tmp_path, packing):
    """Rows per task of the whole run, as counted in the batches, are those of data/report.json."""
    settings = [f"data.packing={packing}", "data.max_length=256", "mixing.strategy=square_root", "record.eval_steps=99"]
    run = create_run_at(tmp_path / packing, override(recipe, settings))
    train(run, new_attempt(run))
    promised = {task["name"]: task for task in json.loads(run.report_file.read_text())["mixture"]["tasks"]}
    rows = [row for row in run.metrics()[0] if "train/loss" in row]
    for name, task in promised.items():
        assert sum(row[f"task/{name}/num_rows"] for row in rows) == task["rows"]
        supervised = sum(row.get(f"task/{name}/num_tokens", 0) for row in rows)
        assert supervised == pytest.approx(task["supervised_tokens"], rel=0.15)  # the last pass is not a whole one
    (event,) = [event for event in run.events()[0] if event["kind"] == "mixture"]
    assert event["data"]["realised"] == {name: task["rows"] for name, task in promised.items()}
    assert event["data"]["planned"] == event["data"]["realised"]
