"""Attention by document and LoRA in one piece: the same numbers and gradients as the libraries' own ways."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, MistralConfig, Qwen2Config

from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.data.collate import Collator, lay_side_by_side
from engine.data.tokenize import Encoded
from engine.model.attention import attend_by_document, document_lengths
from engine.model.low_rank import join_low_rank_layers
from engine.train.main import train
from tests.tiny_model import tiny_llama
from tests.tiny_run import new_attempt, train_losses


def documents(*lengths: int) -> list[tuple[int, Encoded]]:
    made = []
    for length in lengths:
        ids = torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(length)).tolist()
        made.append((0, Encoded(ids, ids)))
    return made


def gradients(model, batch):
    """Return the logits of a batch and the gradients of their weighted sum."""
    model.zero_grad()
    given = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask") if name in batch}
    logits = model(**given, use_cache=False).logits
    (logits * torch.linspace(-1, 1, logits.shape[-1])).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def small(config_of, **more):
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "eos_token_id": 2,
        "bos_token_id": None,
        "pad_token_id": 2,
    }
    return AutoModelForCausalLM.from_config(config_of(**sizes, **heads, **more), attn_implementation="sdpa")


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("lengths", [(9,), (5, 1, 12, 3), (1, 1, 1)])
def test_attention_by_document_is_sdpa_with_a_mask(kind, lengths):
    plain = tiny_llama() if kind == "llama" else small(Qwen2Config)
    ours, told = copy.deepcopy(plain), []
    assert attend_by_document(ours, told.append) and "document by document" in told[0]
    batch = lay_side_by_side(documents(*lengths))
    (logits, grads), (expected, expected_grads) = gradients(ours, batch), gradients(plain, batch)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-5)


def test_padded_batches_go_the_plain_way():
    plain = tiny_llama()
    ours = copy.deepcopy(plain)
    attend_by_document(ours)
    batch = Collator(1, padded=True)([(0, [document]) for _, document in documents(4, 9)])
    expected, found = gradients(plain, batch)[0], gradients(ours, batch)[0]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-6)


def test_a_family_that_looks_back_only_so_far_keeps_the_mask():
    model, told = small(MistralConfig, sliding_window=8), []
    assert not attend_by_document(model, told.append) and "with a mask over the whole row" in told[0]
    assert model.config._attn_implementation == "sdpa"


def test_lengths_of_documents_are_read_from_positions():
    positions = torch.tensor([0, 1, 2, 0, 0, 1])
    assert document_lengths(positions) == [3, 1, 2]
    assert document_lengths(positions[:1]) == [1]


def adapted(**options):
    torch.manual_seed(1)
    names = ["q_proj", "v_proj", "down_proj"]
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, lora_alpha=12, target_modules=names, **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)  # it begins as 0: nothing could differ
    return model


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_in_one_piece_has_the_gradients_of_peft(checkpointing):
    plain = adapted()
    ours, told = copy.deepcopy(plain), []
    assert join_low_rank_layers(ours, told.append) == 6 and "6 layers in one piece" in told[0]
    if checkpointing:
        ours.enable_input_require_grads()
        ours.gradient_checkpointing_enable({"use_reentrant": False})
        ours.train()
    batch = lay_side_by_side(documents(5, 12))
    (logits, grads), (expected, expected_grads) = gradients(ours, batch), gradients(plain, batch)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert grads.keys() == expected_grads.keys() and len(grads) == 12
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-5)


def test_the_adapter_can_still_be_switched_off_and_merged():
    ours = adapted()
    join_low_rank_layers(ours)
    batch = lay_side_by_side(documents(7))
    with_adapter = gradients(ours, batch)[0]
    with ours.disable_adapter(), torch.no_grad():
        off = ours(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    assert not torch.allclose(off, with_adapter, atol=1e-3)
    ours.merge_adapter()
    with torch.no_grad():
        merged = ours(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    torch.testing.assert_close(merged, with_adapter, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_what_is_not_plain_stays_as_peft_computes_it(options):
    told = []
    assert join_low_rank_layers(adapted(**options), told.append) == 0 and "6 as peft computes them" in told[0]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_learns_the_same_with_both(recipe, tmp_path, monkeypatch, method):
    settings = override(recipe, [f"method={method}", "lora.lora_dropout=0", "data.packing=bfd"])
    fast = create_run_at(tmp_path / "fast", settings)
    train(fast, new_attempt(fast))
    words = " ".join(event["text"] for event in fast.events()[0])
    assert "document by document" in words and ("in one piece" in words) == (method == "lora")
    assert "sdpa_by_document" not in "".join(
        path.read_text() for path in fast.checkpoint_dirs()[-1].glob("*config.json")
    )

    monkeypatch.setattr("engine.model.build.attend_by_document", lambda *_: False)
    monkeypatch.setattr("engine.model.build.join_low_rank_layers", lambda *_: 0)
    plain = create_run_at(tmp_path / "plain", settings)
    train(plain, new_attempt(plain))
    for step, row in train_losses(plain).items():
        assert train_losses(fast)[step] == pytest.approx(row, rel=2e-5), step
