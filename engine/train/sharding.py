"""The strategies of several processes, as the Trainer's arguments; and the proof that they were really used.

accelerate falls back without a word: to DDP where FSDP is asked for on a CPU, to one process where its config is
misread.  So what was asked for is compared with what wraps the model, and a difference ends the run.
"""

from __future__ import annotations

from typing import Any

from engine.contract.recipe import Recipe
from engine.contract.strategy import Strategy

WRAPPERS = {"ddp": "DistributedDataParallel", "zero2": "DeepSpeedEngine", "zero3": "DeepSpeedEngine"}
"""Strategy -> class around the model."""


def sharding_arguments(strategy: Strategy, recipe: Recipe) -> dict[str, Any]:
    """Return the `TrainingArguments` of a strategy."""
    if strategy.name == "fsdp2":
        return {"fsdp": True, "fsdp_config": fsdp_config(strategy, recipe)}
    if strategy.name in ("zero2", "zero3"):
        return {"deepspeed": deepspeed_config(strategy)}
    return {}


def fsdp_config(strategy: Strategy, recipe: Recipe) -> dict[str, Any]:
    """Return the FSDP2 configuration of transformers; layers are wrapped as the model names them."""
    return {
        "version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        # whole weights in one safetensors file: a checkpoint that everything else here can read
        "state_dict_type": "FULL_STATE_DICT",
        "cpu_ram_efficient_loading": False,
        "offload_params": strategy.cpu_offload,
        "activation_checkpointing": recipe.model.gradient_checkpointing,
    }


def deepspeed_config(strategy: Strategy) -> dict[str, Any]:
    """Return the DeepSpeed configuration; what the Trainer knows is left to it (`auto`)."""
    stage = int(strategy.name[-1])
    zero: dict[str, Any] = {"stage": stage, "contiguous_gradients": True, "overlap_comm": True}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if strategy.cpu_offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": False}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        # PyTorch's AdamW also for offloaded weights: DeepSpeed's own is compiled at the first start, for minutes, and
        # a start killed meanwhile leaves a lock on which every later one waits for ever
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }


def allow_fsdp_on_cpu() -> None:
    """Make accelerate shard on the CPU, where it would silently take DDP; for trying a recipe out."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def check_wrapping(model: Any, strategy: Strategy) -> None:
    """Assert that the model is shared as it was asked for.

    Args:
        model: What the Trainer wrapped.
        strategy: What was asked for.

    Raises:
        RuntimeError: Naming both.
    """
    if strategy.name == "fsdp2":
        from torch.distributed.fsdp import FSDPModule

        right = isinstance(model, FSDPModule)
    elif strategy.name == "single":
        right = type(model).__name__ not in WRAPPERS.values()
    else:
        right = type(model).__name__ == WRAPPERS[strategy.name]
    if right and strategy.name.startswith("zero"):
        right = int(model.zero_optimization_stage()) == int(strategy.name[-1])
    if not right:
        raise RuntimeError(f"{strategy.name} was asked for, and the model is wrapped as {type(model).__name__}")
