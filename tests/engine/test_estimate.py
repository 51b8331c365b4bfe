"""Estimates before a run: counts against public figures, memory against measured sizes, sentences people read."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from engine.contract.errors import UserError
from engine.contract.estimate import TaskSize, disk_bytes, duration_text, steps_and_time
from engine.contract.fit import fit
from engine.contract.memory import GIB, estimate_memory, gigabytes
from engine.contract.model_facts import KNOWN_CONFIGS, known_config, num_parameters, num_trainable, read_config
from engine.contract.recipe import Recipe, TaskSection
from engine.contract.strategy import choose_strategy, sharded

STARTER = KNOWN_CONFIGS["HuggingFaceTB/SmolLM2-135M-Instruct"]
MIXTRAL = KNOWN_CONFIGS["mistralai/Mixtral-8x7B-v0.1"]
CODELLAMA = KNOWN_CONFIGS["codellama/CodeLlama-7b-hf"]


def recipe(
    method: str = "lora", *, tasks: tuple[TaskSection, ...] = (TaskSection(name="a", path="a"),), **sections
) -> Recipe:
    values = {"model_name_or_path": "m", "method": method, "tasks": [task.model_dump() for task in tasks], **sections}
    return Recipe.model_validate(values)


def machine(*gpu_gib: float, used_gib: float = 0.0, ram_gib: float = 24.0) -> SimpleNamespace:
    gpus = tuple(
        SimpleNamespace(
            index=i, name="GeForce RTX 4090", total_bytes=int(g * GIB), used_bytes=int(used_gib * GIB), bf16=True
        )
        for i, g in enumerate(gpu_gib)
    )
    return SimpleNamespace(gpus=gpus, cpu_count=2, cpu_bf16=True, ram_total=int(ram_gib * GIB))


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),  # hub: safetensors metadata of each model
        ("codellama/CodeLlama-7b-hf", 6_738_546_688),
        ("codellama/CodeLlama-13b-hf", 13_016_028_160),
        ("Qwen/Qwen2.5-Coder-7B", 7_615_616_512),
        ("mistralai/Mixtral-8x7B-v0.1", 46_702_792_704),
    ],
)
def test_parameter_counts_are_the_published_ones(model, published):
    assert num_parameters(KNOWN_CONFIGS[model]) == published


def test_lora_trains_rank_times_in_plus_out_of_every_linear_layer():
    """SmolLM2: q, o 576+576; k, v 576+192; gate, up, down 576+1536: 10176 per layer, 30 layers, r = 8."""
    assert num_trainable(recipe(lora={"r": 8}), STARTER) == 8 * 30 * 10176
    assert num_trainable(recipe(lora={"r": 8, "target_modules": ("q_proj", "v_proj")}), STARTER) == 8 * 30 * (
        1152 + 768
    )


def test_an_adapted_output_head_has_weights_once_and_keeps_its_logits():
    """SmolLM2: 576 + 49152 weights per rank; 2 rows of 1024 are 2048 * 49152 logits, three times 4 bytes each."""
    sizes = {"optim": {"per_device_train_batch_size": 2}, "data": {"max_length": 1024}}
    plain = recipe(lora={"r": 8, "target_modules": ("q_proj",)}, **sizes)
    adapted = recipe(lora={"r": 8, "target_modules": ("q_proj", "lm_head")}, **sizes)

    assert num_trainable(adapted, STARTER) - num_trainable(plain, STARTER) == 8 * (576 + 49152)
    assert dict(estimate_memory(adapted, STARTER).parts)["logits"] == 2048 * 49152 * 12
    for other in (plain, recipe(**sizes), recipe("full", lora={"target_modules": ("lm_head",)}, **sizes)):
        assert "logits" not in dict(estimate_memory(other, STARTER).parts)


def test_adapters_leave_fused_experts_alone():
    """Mixtral: only q, o (4096+4096) and k, v (4096+1024) of 32 layers get an adapter."""
    assert num_trainable(recipe(lora={"r": 4}), MIXTRAL) == 4 * 32 * (2 * 8192 + 2 * 5120)


def test_weights_and_optimizer_state_agree_with_measured_sizes():
    """Measured on SmolLM2-135M: nf4 with double quantization 110 MB, bfloat16 269 MB, AdamW state 19.5 MB."""
    quantized = dict(estimate_memory(recipe("qlora", lora={"r": 8}), STARTER).parts)
    plain = dict(estimate_memory(recipe("lora", lora={"r": 8}), STARTER).parts)

    assert quantized["weights"] == pytest.approx(110e6, rel=0.05)
    assert plain["weights"] == pytest.approx(269e6, rel=0.01)
    assert plain["optimizer"] == pytest.approx(19.5e6, rel=0.01)


def test_qlora_of_a_mixture_of_experts_does_not_seem_to_fit_a_small_gpu():
    """46.7 billion weights in 4 bit are 24.5e9 bytes, and the experts of one layer are unpacked while they compute."""
    memory = estimate_memory(recipe("qlora"), MIXTRAL)
    answer = fit(recipe("qlora"), machine(24, ram_gib=256), MIXTRAL)

    parts = dict(memory.parts)
    assert parts["weights"] + parts["quantization"] == pytest.approx(24.5e9, rel=0.01)
    assert parts["unpacked"] == pytest.approx(2.82e9, rel=0.01)
    assert not answer.ok
    assert answer.sentence.endswith("GPU 0 has 24 GiB")
    assert fit(recipe("qlora"), machine(80, ram_gib=256), MIXTRAL).ok


def test_experts_are_loaded_through_main_memory_in_16_bit():
    answer = fit(recipe("qlora"), machine(80, ram_gib=64), MIXTRAL)
    assert not answer.ok and "87 GiB of main memory; this machine has 64 GiB" in answer.sentence


def test_adapted_experts_are_counted():
    """Mixtral, 8 experts of 32 layers: gate and up 4096+28672, down 14336+4096."""
    plain = num_trainable(recipe(lora={"r": 4}), MIXTRAL)
    with_experts = num_trainable(recipe(lora={"r": 4, "target_experts": True}), MIXTRAL)
    assert with_experts - plain == 4 * 32 * 8 * (4096 + 28672 + 14336 + 4096)


def test_full_fine_tuning_holds_sixteen_bytes_per_weight():
    parts = dict(estimate_memory(recipe("full"), CODELLAMA).parts)
    assert parts["weights"] + parts["gradients"] + parts["optimizer"] == 16 * 6_738_546_688


def test_the_parts_add_up_to_the_high_end_and_the_range_is_a_range():
    for method in ("qlora", "lora", "full"):
        memory = estimate_memory(recipe(method), STARTER)
        assert sum(size for _, size in memory.parts) == memory.high_bytes
        assert memory.low_bytes < memory.high_bytes


def test_checkpointing_and_a_smaller_batch_need_less():
    plain = estimate_memory(recipe(), CODELLAMA).high_bytes
    assert estimate_memory(recipe(model={"gradient_checkpointing": True}), CODELLAMA).high_bytes < plain / 2
    assert estimate_memory(recipe(optim={"per_device_train_batch_size": 1}), CODELLAMA).high_bytes < plain / 2


def test_a_big_model_is_refused_on_a_cpu_and_the_starter_is_not():
    big, small = fit(recipe("qlora"), machine(), CODELLAMA), fit(recipe(), machine(), STARTER)

    assert not big.ok
    assert big.sentence.startswith("needs a GPU with about ")
    assert big.sentence.endswith(": 6.7 billion parameters are too many to train on a CPU; this machine has none")
    assert small.ok
    assert small.sentence.endswith("this machine has 24 GiB of memory")


def test_too_little_ram_is_refused():
    assert not fit(recipe("full"), machine(ram_gib=1), STARTER).ok


def test_memory_of_others_on_the_gpu_counts():
    free, busy = fit(recipe("qlora"), machine(80), CODELLAMA), fit(recipe("qlora"), machine(80, used_gib=70), CODELLAMA)

    assert free.ok
    assert not busy.ok
    assert "10 GiB of it free" in busy.sentence


def test_more_processes_than_gpus_and_a_missing_gpu_are_refused():
    assert (
        fit(recipe(launch={"num_processes": 2}), machine(24), STARTER).sentence == "asks for 2 GPUs; this machine has 1"
    )
    none = fit(recipe("qlora", launch={"device": "cuda"}), machine(), MIXTRAL)
    assert not none.ok
    assert none.needs_bytes > 60 * GIB
    assert none.sentence.startswith("needs a GPU with about ")


@pytest.mark.parametrize("config", [None, {}, {"hidden_size": "wide"}, {"model_type": "mamba", "hidden_size": 8}])
def test_an_unknown_model_is_let_through_with_a_sentence(config):
    answer = fit(recipe(), machine(24), config)
    assert answer.ok
    assert answer.sentence.startswith("memory unknown")


def test_a_config_without_sizes_is_a_user_error():
    with pytest.raises(UserError, match="hidden_size"):
        num_parameters({"model_type": "resnet"})


def test_steps_follow_batches_accumulation_and_held_out_rows():
    """Task a: 100 used, 5 held out -> 95; task b has its own held-out file -> 40. 3 * 135 / 8 = 50.6."""
    tasks = (
        TaskSection(name="a", path="a"),
        TaskSection(name="b", path="b", eval_path="h"),
        TaskSection(name="c", path="c", weight=0),
    )
    sizes = [
        TaskSize(num_used=100, num_bytes=9000),
        TaskSize(num_used=40, num_bytes=4000, has_heldout=True),
        TaskSize(num_used=9, num_bytes=1),
    ]
    chosen = recipe(tasks=tasks, optim={"gradient_accumulation_steps": 2, "num_train_epochs": 3})

    plan = steps_and_time(chosen, sizes, STARTER, machine=machine())

    assert plan.num_train == (95, 40, 0)
    assert (plan.effective_batch, plan.steps) == (8, 51)
    assert plan.seconds is not None and 0 < plan.seconds[0] < plan.seconds[1]


def test_max_steps_and_max_samples_cut_the_run():
    tasks = (TaskSection(name="a", path="a", max_samples=20),)
    plan = steps_and_time(
        recipe(tasks=tasks, optim={"max_steps": 7}), [TaskSize(num_used=100, num_bytes=1000)], None, machine=machine()
    )

    assert (plan.num_train, plan.steps, plan.seconds) == ((19,), 7, None)  # one of the 20 is held out
    assert plan.epochs == pytest.approx(7 * 4 / 19)


def test_no_examples_make_no_steps():
    assert steps_and_time(recipe(), [TaskSize(num_used=0, num_bytes=0)], STARTER, machine=machine()).steps == 0


def test_disk_counts_the_kept_checkpoints_and_the_one_being_written():
    """r = 8: 2 442 240 trained weights, 12 bytes each, 3 + 1 checkpoints."""
    assert disk_bytes(recipe(lora={"r": 8}), STARTER) == 4 * 12 * 2_442_240 + 20 * 2**20


def test_ranges_are_written_as_people_say_them():
    assert duration_text((100, 400)) == "2-7 min"
    assert duration_text((4000, 20000)) == "1-6 h"
    assert duration_text((10, 20)) == "under a minute"
    assert gigabytes(24 * GIB) == "24 GiB"
    assert gigabytes(5 * 2**20) == "5 MiB"


def test_configs_are_found_by_any_case_and_read_from_a_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 7}))

    assert known_config("CODELLAMA/codellama-7b-HF") == CODELLAMA
    assert known_config("somebody/else") is None
    assert read_config(tmp_path) == {"hidden_size": 7}
    assert read_config(tmp_path / "missing") is None


def strategy(gib: list[float], method: str = "full", **launch) -> str:
    values = recipe(method, launch={"num_processes": max(1, len(gib)), **launch})
    return choose_strategy(values, machine(*gib), CODELLAMA).text


def test_the_planner_takes_the_fastest_strategy_that_fits():
    """CodeLlama 7B in full holds 108e9 bytes of weights, gradients and moments; LoRA 14e9 of weights."""
    assert strategy([24]) == "single"
    assert strategy([80, 80], "qlora") == "ddp"
    assert strategy([80] * 4) == "fsdp2"
    assert strategy([24, 24]) == "fsdp2 with CPU offload"
    assert (
        strategy([]) == "single" and strategy([24, 24], strategy="zero3", cpu_offload=True) == "zero3 with CPU offload"
    )
    assert strategy([24, 24], "qlora", device="cpu") == "ddp"


def test_sharding_splits_what_the_strategy_says_and_the_parts_still_add_up():
    whole = estimate_memory(recipe("full"), CODELLAMA)
    for name, smaller in (
        ("ddp", ()),
        ("zero2", ("gradients", "optimizer")),
        ("fsdp2", ("weights", "16-bit copy", "optimizer")),
    ):
        values = recipe("full", launch={"num_processes": 4, "strategy": name})
        split = sharded(whole, choose_strategy(values, machine(24, 24, 24, 24), CODELLAMA), values, CODELLAMA)
        assert sum(size for _, size in split.parts) == split.high_bytes
        for part, size in whole.parts:
            assert dict(split.parts)[part] == (size // 4 if part in (*smaller, "gradients") and smaller else size)


def test_four_gpus_that_split_the_model_fit_what_one_cannot_and_it_is_said():
    answer = fit(recipe("full", launch={"num_processes": 4}), machine(80, 80, 80, 80), CODELLAMA)
    assert answer.ok and answer.strategy.name == "fsdp2" and " each, fsdp2; GPU 0 has 80 GiB" in answer.sentence
    assert "everything takes" in answer.strategy.reason
