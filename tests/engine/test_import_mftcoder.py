"""A configuration of MFTCoder becomes a recipe: every option taken over, told or refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from engine.__main__ import main
from engine.contract.errors import UserError
from engine.contract.mftcoder import import_mftcoder
from engine.contract.recipe_io import parse_recipe, recipe_from_values

PROJECT = Path(__file__).resolve().parents[2]
PUBLISHED = {
    "load_raw_dataset": True, "data_paths": "[data/text-to-code,data/unit tests/]", "output_dir": "out", "tb_dir": "tb",
    "model_type": "mixtral", "peft_type": "qlora", "quantization": "4bit", "pretrained_model_path": "org/model",
    "data_split": "98,2,0", "padding_mode": "padding", "use_dynamic_padding": True, "tokenize_mode": "sft",
    "seq_length": 4096, "lora_rank": 96, "lora_alpha": 32, "lora_dropout": 0.05, "weighted_loss_mode": "case3",
    "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5, "min_lr": 5e-6, "weight_decay": 0.1, "lr_scheduler_type": "cosine", "num_warmup_steps": 300,
    "num_train_epochs": 4, "seed": 1234, "resume_from_checkpoint": None, "auto_resume": True, "log_interval": 10,
    "evaluation_steps": 100, "checkpointing_steps": 100, "epoch_checkpointing": False, "early_stopping": True,
    "early_stopping_stall_num": 5, "saving_limit": None, "attn_implementation": "flash_attention_2",
    "distributed_type": "deepspeed", "task_weights": "[1.0, 2.5]",
}  # fmt: skip
"""The published example's values, with two tasks."""


def recipe_of(**changes):
    values, notes = import_mftcoder({**PUBLISHED, **changes})
    return recipe_from_values(values), notes


def test_the_published_example():
    recipe, notes = recipe_of()
    assert [(task.name, task.path, task.weight) for task in recipe.tasks] == [
        ("text-to-code", "data/text-to-code", 1.0),
        ("unit-tests", "data/unit tests/", 2.5),
    ]
    assert (recipe.method, recipe.model_name_or_path, recipe.seed) == ("qlora", "org/model", 1234)
    assert (recipe.lora.r, recipe.lora.lora_alpha, recipe.lora.lora_dropout) == (96, 32, 0.05)
    assert (recipe.data.max_length, recipe.data.packing, recipe.data.eval_split) == (4096, "padding", 0.02)
    assert (recipe.data.chat_template, recipe.data.truncation) == ("mftcoder", "drop")
    assert (recipe.loss.reduction, recipe.weighting.method) == ("task_mean", "static")
    optim = recipe.optim
    assert (optim.learning_rate, optim.min_lr, optim.warmup_steps, optim.weight_decay) == (5e-5, 5e-6, 300, 0.1)
    assert (optim.num_train_epochs, optim.per_device_train_batch_size, optim.max_steps) == (4, 2, None)
    record = recipe.record
    assert (record.logging_steps, record.eval_steps, record.save_steps, record.early_stopping_patience) == (
        10,
        100,
        100,
        5,
    )
    told = {note.option for note in notes}
    assert set(PUBLISHED) - told <= {"pretrained_model_path", "quantization", "padding_mode", "tokenize_mode",
                                     "early_stopping_stall_num"}  # fmt: skip


def test_what_a_file_leaves_out_has_mftcoders_default():
    values, _ = import_mftcoder({"data_paths": "[a]", "pretrained_model_path": "org/model"})
    recipe = recipe_from_values(values)
    assert (recipe.lora.r, recipe.optim.learning_rate, recipe.optim.num_train_epochs, recipe.seed) == (
        96,
        5e-5,
        4,
        1234,
    )
    assert (recipe.optim.warmup_steps, recipe.optim.weight_decay, recipe.method) == (0.05, 0.01, "qlora")


@pytest.mark.parametrize(
    ("mode", "reduction", "weighting"),
    [("case1", "token_mean", "static"), ("case2", "sample_mean", "static"), ("case4", "task_sample_mean", "static"),
     ("coba", "task_mean", "coba"), ("selfpaced", "task_mean", "self_paced")],
)  # fmt: skip
def test_loss_modes(mode, reduction, weighting):
    recipe, _ = recipe_of(weighted_loss_mode=mode, coba_tau=7, coba_warmup_steps=50, coba_history_length=60)
    assert (recipe.loss.reduction, recipe.weighting.method) == (reduction, weighting)
    if mode == "coba":
        weights = recipe.weighting
        assert (weights.variant, weights.tau, weights.warmup_steps, weights.history_length) == ("mftcoder", 7, 50, 60)
        assert (weights.update_interval, weights.validation_examples) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"peft_type": None, "quantization": None}, ("full", "padding", "drop", 0.02)),
        ({"peft_type": "lora", "quantization": None}, ("lora", "padding", "drop", 0.02)),
        ({"peft_type": "lora"}, ("qlora", "padding", "drop", 0.02)),
        ({"padding_mode": "pack", "data_split": "95/5"}, ("qlora", "bfd", "drop", 0.05)),
        ({"padding_mode": "concat", "data_split": "0.9,0.1"}, ("qlora", "bfd", "split", 0.1)),
    ],
)
def test_method_packing_and_split(changes, wanted):
    recipe, _ = recipe_of(**changes)
    assert (recipe.method, recipe.data.packing, recipe.data.truncation, recipe.data.eval_split) == wanted


def test_two_tasks_of_one_name_stay_two():
    recipe, _ = recipe_of(data_paths="[x/train,y/train]")
    assert [task.name for task in recipe.tasks] == ["train", "train-1"]


def test_everything_that_cannot_be_taken_over_is_told_at_once():
    with pytest.raises(UserError) as caught:
        recipe_of(quantization="8bit", tokenize_mode="sst", role_markers={"user": "U"}, task_weights="[1]", xxpo="dpo",
                  lora_rnak=8, lr_scheduler_type="linear", weighted_loss_mode="case9")  # fmt: skip
    told = {problem.field for problem in caught.value.problems}
    assert told == {"quantization", "tokenize_mode", "role_markers", "task_weights", "xxpo", "lora_rnak",
                    "lr_scheduler_type", "weighted_loss_mode"}  # fmt: skip
    assert "lora_rank" in str(caught.value) and all(problem.fix for problem in caught.value.problems)


def test_the_commands_of_the_guide_work(tmp_path, monkeypatch, capsys):
    guide = (PROJECT / "docs" / "from-mftcoder.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", guide, re.S) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[3:] for line in lines if " import-mftcoder " in line]
    assert len(commands) >= 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_config.json").write_text(json.dumps(PUBLISHED))
    for argv in commands:
        assert main(argv) == 0
    assert "Changed in meaning" in capsys.readouterr().err
    recipe = parse_recipe((tmp_path / "recipe.yaml").read_text())
    assert recipe.lora.r == 96 and recipe.launch.num_processes == 8


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_what_is_no_configuration_is_refused_with_a_sentence(tmp_path, text, capsys):
    (tmp_path / "c.json").write_text(text)
    assert main(["import-mftcoder", str(tmp_path / "c.json")]) == 2
    assert "MFTCoder's own file" in capsys.readouterr().err
