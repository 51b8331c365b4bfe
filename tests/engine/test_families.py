"""Every family: tiny random models of its architecture go the whole way, and experts are adapted as they say."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from engine.__main__ import main
from engine.contract.errors import UserError
from engine.contract.model_facts import num_trainable
from engine.contract.recipe import LoraSection, ModelSection, Recipe
from engine.contract.recipe_io import override
from engine.families_command import check_family
from engine.model.convert.tiny_old import TINY_OLD
from engine.model.experts import dequantize_experts, expert_parameters, expert_targets, quantize_experts
from engine.model.families import FAMILIES, family_of, save_tiny_model, tiny_model
from engine.model.load import add_adapter, load_model
from engine.train.head import attach_loss_head

ROUTED = [family for family in FAMILIES if family.experts]


def name_of(family):
    return family.model_type


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_a_family_goes_the_whole_way(family, tmp_path):
    """Load, LoRA, experts, QLoRA, full, merge with parity, reload with plain peft, generate."""
    told = check_family(family, tmp_path)
    assert all(told.values()), "no blank"
    assert [f"{name}: {text}" for name, text in told.items() if text.startswith("failed")] == []
    assert (told["experts"] == "ok") == bool(family.experts)
    assert (told["QLoRA"] == "ok") == family.quantized


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_OLD)
def test_a_converted_family_goes_the_whole_way(name, tmp_path):
    told = check_family(TINY_OLD[name].family, tmp_path, TINY_OLD[name])
    assert told.pop("experts") == "none: a dense model"
    assert set(told.values()) == {"ok"}


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_every_family_has_its_loss_in_the_head_as_the_memory_estimate_takes_it(family):
    assert attach_loss_head(tiny_model(family)) is not None


@pytest.mark.parametrize("family", ROUTED, ids=name_of)
@pytest.mark.parametrize("experts", [False, True])
def test_the_adapter_is_on_what_it_says_and_never_on_the_router(family, experts):
    said: list[str] = []
    model = add_adapter(tiny_model(family), LoraSection(r=4, target_experts=experts), said.append)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("self_attn" in name for name in trained)
    assert any(".experts." in name for name in trained) == experts
    assert not [name for name in trained if ".gate." in name]
    dense = f"and {family.dense_left_out} dense layers" if family.dense_left_out else "the router."
    assert ("the experts and the router" in said[-1]) != experts and dense in said[-1]


@pytest.mark.parametrize("model_type", ["mixtral", "olmoe"])
@pytest.mark.parametrize("experts", [False, True])
def test_the_number_of_trained_weights_is_the_one_that_was_promised(model_type, experts):
    model = tiny_model(family_of(model_type))
    lora = {"r": 4, "target_experts": experts}
    recipe = Recipe.model_validate({"model_name_or_path": "m", "tasks": [{"name": "t", "path": "p"}], "lora": lora})
    adapted = add_adapter(model, recipe.lora, lambda _: None)
    count = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert count == num_trainable(recipe, model.config.to_dict())


def test_quantized_experts_take_a_quarter_and_come_back_as_what_they_computed():
    model = tiny_model(family_of("mixtral")).eval()
    tokens = torch.arange(3, 40)[None]
    names, before = expert_parameters(model), model(tokens, use_cache=False).logits
    size = sum(model.get_parameter(name).numel() * 4 for name in names)
    assert quantize_experts(model, "cpu", torch.float32) == len(names) == 4
    held = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if "parametrizations" in n)
    assert held < size / 7
    assert expert_parameters(model) == names
    quantized = model(tokens, use_cache=False).logits
    assert 0 < (quantized - before).abs().max() < 0.1
    dequantize_experts(model)
    assert expert_parameters(model) == names and not [n for n, _ in model.named_parameters() if "parametr" in n]
    torch.testing.assert_close(model(tokens, use_cache=False).logits, quantized, rtol=0, atol=1e-6)
    assert {key for key in model.state_dict() if "experts" in key} == set(names)


def test_a_run_of_4_bit_experts_says_so_and_peft_alone_loads_the_adapter_of_16_bit_ones(tmp_path):
    folder = save_tiny_model(family_of("qwen2_moe"), tmp_path / "m")
    said: list[str] = []
    section = ModelSection(dtype="float32")
    load_model(folder, section, method="qlora", device="cpu", tell=said.append)
    assert "and 4 fused experts to nf4" in said[-1]
    model = load_model(folder, section, method="lora", device="cpu", tell=said.append)
    adapted = add_adapter(model, LoraSection(r=4, target_experts=True), said.append)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "a")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.arange(3, 20)[None]
    again = PeftModel.from_pretrained(base, tmp_path / "a").eval()
    with torch.no_grad():
        mine, theirs = adapted.eval()(tokens, use_cache=False).logits, again(tokens, use_cache=False).logits
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_a_dense_model_has_no_experts_to_adapt():
    model = tiny_model(family_of("qwen2"))
    assert expert_parameters(model) == expert_targets(model) == []
    with pytest.raises(UserError, match="has no fused experts"):
        add_adapter(model, LoraSection(target_experts=True), lambda _: None)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (["lora.target_experts=true", "lora.lora_dropout=0.1"], "no dropout"),
        (["lora.target_experts=true", "lora.use_dora=true", "lora.lora_dropout=0"], "no DoRA"),
        (["lora.target_experts=true", "method=qlora", "lora.lora_dropout=0"], "4 bit stay frozen"),
    ],
)
def test_what_experts_cannot_take_is_refused_in_the_recipe(recipe, changes, word):
    with pytest.raises(UserError, match=word):
        override(recipe, changes)


def test_names_that_peft_would_put_on_the_experts_are_refused():
    with pytest.raises(UserError, match="fused experts|does not fit"):
        lora = LoraSection(target_modules=("q_proj", "gate_proj", "up_proj", "down_proj"))
        add_adapter(tiny_model(family_of("qwen3_moe")), lora, lambda _: None)


def test_the_command_lists_families_and_names_an_unknown_one(capsys):
    assert main(["families"]) == 0
    said = capsys.readouterr().out
    assert "CodeLlama" in said and "qwen3_moe" in said and "glm, after `engine convert`" in said
    assert main(["families", "--only", "gpt9"]) == 2
    assert "There is no family gpt9" in capsys.readouterr().err
