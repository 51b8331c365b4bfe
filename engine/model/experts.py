"""Fused experts of mixture-of-experts models: found, adapted, quantized, and given back as plain weights.

transformers keeps all experts of a layer in two parameters of shape (experts, out, in).  They are no `nn.Linear`: peft
adapts them only by name, and bitsandbytes' 4-bit loading leaves them in 16 bit - for Mixtral that is 96 % of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.nn.parametrize import Bnb4bitParametrization, replace_parameter_4bit
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from torch.nn.utils import parametrize


def expert_parameters(model: nn.Module) -> list[str]:
    """Return the full names of all fused expert weights, in the model's order; empty for a dense model."""
    found = [(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] == "experts"]
    plain = [
        f"{name}.{key}" for name, module in found for key, p in module.named_parameters(recurse=False) if p.dim() == 3
    ]
    quantized = [f"{name}.{key}" for name, module in found for key in getattr(module, "parametrizations", ())]
    return [*plain, *quantized]


def expert_targets(model: nn.Module) -> list[str]:
    """Return the fused experts as peft's `target_parameters` wants them, without layer: `mlp.experts.gate_up_proj`."""
    return sorted({".".join(name.split(".")[-3:]) for name in expert_parameters(model)})


def without_renamed(model: nn.Module, names: list[str]) -> tuple[list[str], list[str]]:
    """Part layer names into those that peft adapts as they are, and those it would turn into experts.

    peft takes `gate_proj`, `up_proj` and `down_proj` of some MoE families for names of transformers 4 and puts the
    adapter on the fused experts instead, when training and again when somebody loads the adapter.  So dense layers with
    these names (the first of DeepSeek, shared experts) cannot have an adapter that loads everywhere.
    """
    if not expert_parameters(model):
        return names, []
    kept, renamed = [], []
    for name in names:
        trial = copy.deepcopy(LoraConfig(task_type="CAUSAL_LM", target_modules=[name]))
        try:
            convert_peft_config_for_transformers(trial, model=model, conversions=None)
            same = set(trial.target_modules or ()) == {name}
        except ValueError:  # a part of what is fused
            same = False
        (kept if same else renamed).append(name)
    return kept, renamed


def quantize_experts(model: nn.Module, device: str, dtype: torch.dtype) -> int:
    """Store a model's fused experts in 4-bit NormalFloat; they are dequantized layer by layer when they compute.

    Args:
        model: With its experts as plain parameters.
        device: Where they are quantized and stay: one parameter at a time, so that a GPU never holds them in 16 bit.
        dtype: In which they compute.

    Returns:
        How many parameters were quantized.
    """
    names = expert_parameters(model)
    for name in names:
        path, _, key = name.rpartition(".")
        module = model.get_submodule(path)
        weight = getattr(module, key)
        setattr(module, key, nn.Parameter(weight.data.to(device=device, dtype=dtype), requires_grad=False))
        replace_parameter_4bit(module, key, compress_statistics=True, quant_type="nf4")
    return len(names)


def dequantize_experts(model: nn.Module) -> None:
    """Turn quantized experts into plain parameters again, with the values that they computed with."""
    for module in list(model.modules()):
        for key in list(getattr(module, "parametrizations", ())):
            if any(isinstance(one, Bnb4bitParametrization) for one in module.parametrizations[key]):
                value = getattr(module, key).detach().clone()
                parametrize.remove_parametrizations(module, key, leave_parametrized=False)
                setattr(module, key, nn.Parameter(value, requires_grad=False))
                _forget_hooks(module)


def _forget_hooks(module: nn.Module) -> None:
    """Take away what bitsandbytes hung on a module: its state would otherwise be saved as 4 bit."""
    hooks: list[dict[int, Any]] = [
        module._state_dict_hooks,
        module._forward_pre_hooks,
        module._forward_hooks,
    ]
    for kind in hooks:
        for number, hook in list(kind.items()):
            function: Callable[..., Any] = getattr(hook, "func", hook)
            if getattr(function, "__module__", "").startswith("bitsandbytes"):
                del kind[number]
    module._forward_hooks_always_called.clear()
