"""Base model and adapter, ready to train; every decision is told with its reason.

    folder -> model in its dtype -> [4-bit] -> [LoRA on all linear layers but the head]

Native transformers classes and safetensors only; `trust_remote_code` is False everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from engine.contract.errors import UserError
from engine.contract.recipe import LoraSection, ModelSection
from engine.launch.devices import inventory
from engine.model.experts import expert_parameters, expert_targets, quantize_experts, without_renamed

Tell = Callable[[str], None]
"""Takes a sentence: what was decided and why."""


def choose_dtype(section: ModelSection, method: str, device: str) -> tuple[torch.dtype, str]:
    """Return the dtype of the weights and the reason.

    Full fine-tuning keeps float32 master weights (updates of 1e-5 vanish in bfloat16) and computes in bfloat16 under
    autocast where the device can; frozen weights are stored as they are computed.
    """
    native = torch.cuda.is_bf16_supported() if device == "cuda" else inventory().cpu_bf16
    if section.dtype != "auto":
        return getattr(torch, section.dtype), f"{section.dtype}, as the recipe says"
    if method == "full":
        return torch.float32, "float32 master weights (full fine-tuning)"
    if native:
        return torch.bfloat16, f"bfloat16 (this {device.upper()} computes it natively)"
    return torch.float32, f"float32 (this {device.upper()} has no native bfloat16)"


def comparison_dtype(model: PreTrainedModel, device: str) -> torch.dtype:
    """Return float32 if this model fits twice in it, else its own dtype: for answers that people compare."""
    needed = 2 * 4 * sum(p.numel() for p in model.parameters())
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    return torch.float32 if needed < free else model.dtype


def load_model(
    folder: Path, section: ModelSection, *, method: str, device: str, tell: Tell, sharded: bool = False
) -> PreTrainedModel:
    """Load the base model for training.

    Args:
        folder: A local folder with config.json and safetensors.
        section: How to load it.
        method: qlora, lora or full.
        device: cuda or cpu; the Trainer places the weights.
        tell: Told of dtype, attention and quantization.
        sharded: Whether the weights will be split among processes: 4-bit weights must look like floats then.

    Raises:
        UserError: If transformers has no native class for it, or its weights are no safetensors.
    """
    dtype, reason = choose_dtype(section, method, device)
    tell(f"Weights: {reason}.")
    arguments: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if method == "qlora":
        compute = dtype
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_quant_storage=dtype if sharded else None,
        )
    attention = section.attn_implementation
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if method == "qlora":  # experts are loaded in 16 bit: they come to the GPU one by one, in 4
            place = torch.cuda.current_device() if device == "cuda" and not has_experts(config) else "cpu"
            arguments["device_map"] = {"": place}
        model = _load_with_attention(folder, config, attention, arguments, tell)
    except (OSError, ValueError, KeyError) as error:
        problem = f"The model in {folder} cannot be loaded: {str(error).splitlines()[0]}"
        fix = "choose a model that transformers knows, as safetensors."
        raise UserError(problem, fix=fix, field="model_name_or_path") from None
    model.config.use_cache = False
    if method == "qlora":
        experts = quantize_experts(model, device, dtype)
        model = model.to(device) if experts else model
        _check_quantized(model, experts, tell)
    return model


def has_experts(config: Any) -> bool:
    """Return whether a config is of a mixture-of-experts model."""
    text = config.get_text_config()
    return any(getattr(text, key, None) for key in ("num_local_experts", "num_experts", "n_routed_experts"))


def _load_with_attention(
    folder: Path, config: Any, attention: str, arguments: dict[str, Any], tell: Tell
) -> PreTrainedModel:
    """Load with the wanted attention; `auto` tries sdpa and falls back to eager, saying so."""
    if attention != "auto":
        tell(f"Attention: {attention}, as the recipe says.")
        return AutoModelForCausalLM.from_pretrained(folder, config=config, attn_implementation=attention, **arguments)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, attn_implementation="sdpa", **arguments)
        tell("Attention: sdpa.")
        return model
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        tell("Attention: eager (this architecture has no sdpa).")
        return AutoModelForCausalLM.from_pretrained(folder, config=config, attn_implementation="eager", **arguments)


def _check_quantized(model: PreTrainedModel, experts: int, tell: Tell) -> None:
    """Make sure that 4-bit is real, and the same in training and evaluation."""
    layers = four_bit_layers(model)
    if not layers:
        raise UserError(
            "bitsandbytes quantized no layer of this architecture, so QLoRA would save nothing.",
            fix="choose LoRA.",
            field="method",
        )
    frozen = sum(p.numel() * p.element_size() for p in model.parameters())
    fused = f" and {experts} fused experts" if experts else ""
    tell(f"Quantized {len(layers)} linear layers{fused} to nf4: {frozen / 2**30:.2f} GiB of weights.")


def four_bit_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that bitsandbytes holds in 4 bit, and let them compute the same in training and evaluation."""
    import bitsandbytes as bnb

    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    for layer in layers:
        # avx512 CPUs repack 4-bit weights in eval mode: training and evaluation would see different logits
        layer.support_avx512bf16_for_cpu = False
    return layers


def add_adapter(model: PreTrainedModel, section: LoraSection, tell: Tell) -> nn.Module:
    """Put a LoRA adapter on the model; the base is frozen.

    Raises:
        UserError: If the named layers do not exist.
    """
    # full names, never peft's "all-linear": that shorthand means different things for different MoE families
    names, renamed = list(section.target_modules), []
    if section.target_modules == "all-linear":
        names, renamed = without_renamed(model, linear_layer_names(model))
    fused = expert_parameters(model)
    if section.target_experts and not fused:
        problem = f"{type(model).__name__} has no fused experts."
        raise UserError(problem, fix="set lora.target_experts to false.", field="lora.target_experts")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=section.r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        use_rslora=section.use_rslora,
        use_dora=section.use_dora,
        target_modules=names,
        target_parameters=expert_targets(model) if section.target_experts else None,
        bias="none",
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        fix = "use all-linear, or names that exist in the model."
        raise UserError(f"The adapter does not fit: {error}", fix=fix, field="lora.target_modules") from None
    _check_adapted(adapted, fused if section.target_experts else [])
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    kind = "DoRA" if section.use_dora else "LoRA"
    where = f"{len(names)} layers" + (f" and {len(fused)} fused experts" if section.target_experts else "")
    tell(f"{kind} r={section.r} on {where}: {trained / 1e6:.2f} M trainable parameters.")
    if fused:
        rest = "the router" if section.target_experts else "the experts and the router"
        dense = f" and {len(renamed)} dense layers that peft takes for experts" if renamed else ""
        tell(f"Frozen, without adapter: {rest}{dense}.")
    return adapted


def _check_adapted(model: nn.Module, experts: list[str]) -> None:
    """Make sure that the adapter is on what was named and on nothing else: peft reads some names in its own way.

    Raises:
        UserError: If it is not.
    """
    wrapped = [name for name, module in model.named_modules() if isinstance(module, ParamWrapper)]
    if len(wrapped) != len(experts):
        problem = f"peft put the adapter on {len(wrapped)} fused experts instead of {len(experts)}."
        raise UserError(problem, fix="name attention layers only.", field="lora.target_modules")


def linear_layer_names(model: PreTrainedModel) -> list[str]:
    """Return the full names of all linear layers but the output head."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]
