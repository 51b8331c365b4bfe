"""Options of the adapter, the optimizer and the loss do what they say, in a run of two steps."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from engine.contract.continuation import continuation
from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.data.collate import Collator, lay_side_by_side
from engine.data.tokenize import Encoded
from engine.model.build import compile_layers
from engine.model.tiny_tokenizer import character_tokenizer
from engine.train.main import build_trainer, train
from engine.train.neftune import add_neftune, example_lengths
from tests.tiny_model import tiny_llama
from tests.tiny_run import SHORT_SAMPLES, new_attempt


def learn(recipe, folder, *settings):
    run = create_run_at(folder, override(recipe, ["optim.max_steps=2", SHORT_SAMPLES, *settings]))
    train(run, new_attempt(run))
    return run


def words(run) -> str:
    return " ".join(event["text"] for event in run.events()[0])


@pytest.mark.parametrize(
    "settings",
    [
        ["lora.use_rslora=true", "lora.use_dora=true"],
        ["lora.use_dora=true", "method=qlora"],
        ["optim.optimizer=adamw_8bit"],
        ["optim.optimizer=paged_adamw_32bit", "lora.loraplus_lr_ratio=16"],
        ["optim.neftune_noise_alpha=5", "data.packing=padding"],
        ["optim.adam_beta2=0.95", "model.gradient_checkpointing=true"],
    ],
    ids=" ".join,
)
def test_options_train(recipe, tmp_path, settings):
    run = learn(recipe, tmp_path / "r", *settings)
    losses = [row["train/loss"] for row in run.metrics()[0] if "train/loss" in row]
    assert len(losses) == 2 and all(loss > 0 for loss in losses)
    config = json.loads((run.checkpoint_dirs()[-1] / "adapter_config.json").read_text())
    assert config["use_dora"] == ("lora.use_dora=true" in settings)
    assert config["use_rslora"] == ("lora.use_rslora=true" in settings)


def groups_of(recipe, folder, *settings):
    """Return (learning rate, weight decay, names) of every group of a run's optimizer."""
    chosen = override(recipe, ["optim.max_steps=2", *settings])
    run = create_run_at(folder, chosen)
    trainer, _ = build_trainer(run, chosen, new_attempt(run))
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.create_optimizer(trainer.model).param_groups
    return [(g["lr"], g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in groups if g["params"]]


def test_loraplus_lets_the_b_matrices_learn_faster(recipe, tmp_path):
    groups = groups_of(recipe, tmp_path / "r", "lora.loraplus_lr_ratio=8", "optim.weight_decay=0.1")
    rates = {"A": {lr for lr, _, names in groups for name in names if "lora_A" in name}}
    rates["B"] = {lr for lr, _, names in groups for name in names if "lora_B" in name}
    assert rates == {"A": {1e-2}, "B": {8e-2}}
    assert {decay for _, decay, _ in groups} == {0.1}


def test_weight_decay_spares_norms(recipe, tmp_path):
    groups = groups_of(recipe, tmp_path / "r", "method=full", "optim.weight_decay=0.1")
    spared = {name for _, decay, names in groups if decay == 0 for name in names}
    assert spared and all("norm" in name for name in spared)
    assert any("embed" in name for _, decay, names in groups if decay == 0.1 for name in names)


def test_neftune_scales_the_noise_by_the_example_not_by_the_row():
    torch.manual_seed(0)
    model = tiny_llama()
    documents = [(0, Encoded([5] * length, [5] * length)) for length in (4, 100)]
    batch = lay_side_by_side(documents)
    assert example_lengths(batch["position_ids"], None)[0].tolist() == [4] * 4 + [100] * 100
    padded = Collator(1, padded=True)([(0, [document]) for _, document in documents])
    assert example_lengths(None, padded["attention_mask"])[:, 0].tolist() == [4, 100]

    noisy = []
    add_neftune(model, alpha=5.0)
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: noisy.append(output.detach()))
    clean = model.get_input_embeddings().weight[5].detach()
    model.train()(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    sizes = [(noisy[0][0, part] - clean).abs().max().item() for part in (slice(0, 4), slice(4, 104))]
    assert sizes == pytest.approx([5 / (4 * 32) ** 0.5, 5 / (100 * 32) ** 0.5], rel=0.1)
    model.eval()(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    assert torch.equal(noisy[1][0], clean.expand(104, -1))


@pytest.fixture(scope="module")
def experts(recipe, tmp_path_factory):
    """Return the tiny recipe over a random mixture of four experts."""
    folder = tmp_path_factory.mktemp("experts")
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(character_tokenizer()), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, router_aux_loss_coef=0.02, eos_token_id=2,
        bos_token_id=None, pad_token_id=2,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return override(recipe, [f"model_name_or_path={folder}", "optim.max_steps=2", SHORT_SAMPLES])


@pytest.mark.parametrize("packing", ["padding_free", "padding"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_balance_of_experts_counts_and_is_told_apart(experts, tmp_path, method, packing):
    runs = [
        learn(experts, tmp_path / f"r{value}", f"method={method}", f"data.packing={packing}", *settings)
        for value, settings in enumerate(([], ["loss.router_aux_loss_coef=0"], ["loss.router_aux_loss_coef=5"]))
    ]
    assert "counts 0.02 times, the model's own" in words(runs[0])
    rows = [[row for row in run.metrics()[0] if "train/loss" in row] for run in runs]
    assert all(1.0 < row["train/aux_loss"] / 2 < 4.0 for row in rows[0])  # 2 of 4 experts: 2 if balanced
    assert all("train/aux_loss" not in row for row in rows[1])
    assert rows[0][0]["train/loss"] == pytest.approx(rows[1][0]["train/loss"])  # the record's loss is without it
    again = learn(
        experts, tmp_path / "c", f"method={method}", f"data.packing={packing}", "model.gradient_checkpointing=true"
    )
    first = next(row for row in again.metrics()[0] if "train/loss" in row)
    assert first["train/aux_loss"] == pytest.approx(rows[0][0]["train/aux_loss"])  # nothing is counted twice
    norms = [row[0]["optim/grad_norm"] for row in rows]
    assert norms[2] != pytest.approx(norms[1], rel=1e-3) and norms[0] != norms[1]  # but its gradient counts


def test_a_model_without_experts_refuses_their_balance(recipe, tmp_path):
    with pytest.raises(UserError, match="no loss for the balance of experts"):
        learn(recipe, tmp_path / "r", "loss.router_aux_loss_coef=0.1")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_goes_on_from_a_checkpoint_with_the_same_weights_and_the_same_held_out_examples(recipe, tmp_path, method):
    first = learn(recipe, tmp_path / "first", f"method={method}", "optim.max_steps=4")
    longer = continuation(first, epochs=2)
    assert (longer.optim.max_steps, longer.optim.num_train_epochs, longer.order_seed) == (None, 2, recipe.seed + 1)
    second = create_run_at(tmp_path / "second", longer)
    train(second, new_attempt(second))
    ends, begins = (
        [row["eval/loss"] for row in run.metrics()[0] if "eval/loss" in row][at]
        for run, at in ((first, -1), (second, 0))
    )
    assert begins == pytest.approx(ends, rel=1e-6)
    assert "Weights begin as those of first, step-000004" in words(second)
    assert second.status().state == "finished"


def test_a_checkpoint_of_another_kind_is_refused(recipe, tmp_path):
    first = learn(recipe, tmp_path / "first")
    with pytest.raises(UserError, match="no checkpoint step-9"):
        continuation(first, checkpoint="step-9")
    start = f"continue_from={first.checkpoint_dirs()[-1]}"
    with pytest.raises(UserError, match="has r = 4, the recipe says 8"):
        learn(recipe, tmp_path / "other", start, "lora.r=8")
    with pytest.raises(UserError, match="on other layers"):
        learn(recipe, tmp_path / "layers", start, "lora.target_modules=[q_proj]")
    with pytest.raises(UserError, match="holds no weights of a fully tuned model"):
        learn(recipe, tmp_path / "full", start, "method=full")


def test_only_the_repeated_layers_are_compiled():
    told, model = [], tiny_llama()
    compile_layers(model, told.append)
    assert [bool(layer._compiled_call_impl) for layer in model.model.layers] == [True, True]
    assert model._compiled_call_impl is None and "2 layers" in told[0]
