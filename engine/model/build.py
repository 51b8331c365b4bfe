"""The model of a run, ready to train: loaded, adapted, with the weights of an earlier run if it continues one."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

from peft import PeftConfig, load_peft_weights, set_peft_model_state_dict
from torch import nn

from engine.contract.errors import UserError
from engine.contract.recipe import Recipe
from engine.contract.strategy import Strategy
from engine.model.attention import attend_by_document
from engine.model.load import Tell, add_adapter, load_model
from engine.model.low_rank import join_low_rank_layers

ADAPTER_FIELDS = ("r", "lora_alpha", "use_rslora", "use_dora")
"""What two adapters must share for the weights of one to fit the other; the layers are checked one by one."""
SINGLE = Strategy()
COMPILERS = ("g++", "clang++")


def build_model(
    folder: Path,
    recipe: Recipe,
    *,
    device: str,
    tell: Tell,
    resumed: bool = False,
    strategy: Strategy = SINGLE,
) -> Any:
    """Return the model of a recipe.

    Args:
        folder: The base model.
        recipe: Says the rest.
        device: cuda or cpu.
        tell: Told of every decision.
        resumed: Whether the weights of a checkpoint of this very run will be loaded later.
        strategy: How several processes will share it.

    Raises:
        UserError: If the model cannot be loaded, or what the recipe continues does not fit it.
    """
    start = Path(recipe.continue_from) if recipe.continue_from and not resumed else None
    full = recipe.method == "full"
    if start is not None and not list(start.glob("model*.safetensors" if full else "adapter_model.safetensors")):
        what = "weights of a fully tuned model" if full else "LoRA adapter"
        fix = "choose a checkpoint of a run with the same method."
        raise UserError(f"The checkpoint {start} holds no {what}.", fix=fix, field="continue_from")
    if recipe.model.torch_compile and device == "cpu" and not any(map(shutil.which, COMPILERS)):
        problem = "torch.compile needs a C++ compiler on the CPU, and there is none."
        raise UserError(problem, fix="install g++, or switch it off.", field="model.torch_compile")
    model: Any = load_model(
        start if full and start else folder,
        recipe.model,
        method=recipe.method,
        device=device,
        tell=tell,
        sharded=strategy.name == "fsdp2",
    )
    if device == "cpu":  # GPUs have kernels of their own for both
        attend_by_document(model, tell)
    if not full:
        model = add_adapter(model, recipe.lora, tell)
        if start is not None:
            _load_adapter(model, start)
        if device == "cpu" and not strategy.shards_weights:  # it calls the layers' weights past their modules
            join_low_rank_layers(model, tell)
    if recipe.model.torch_compile:
        compile_layers(model, tell)
    if start is not None:
        tell(f"Weights begin as those of {start.parent.parent.name}, {start.name}.")
    return model


def compile_layers(model: Any, tell: Tell) -> None:
    """Compile the repeated layers for rows of any length.

    Not the whole model: every micro-batch has another length and another number of supervised positions, and each would
    be compiled anew. A layer is compiled once and serves all of them.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    layers = max(lists, key=len, default=nn.ModuleList())
    for layer in layers:
        layer.compile(dynamic=True)
    tell(f"Compiled with torch.compile: {len(layers)} layers.")


def router_coefficient(model: Any, wanted: float | None, tell: Tell) -> float:
    """Return how much the balance of the experts counts in the loss; 0 for a model without experts.

    Args:
        model: With or without adapter.
        wanted: `loss.router_aux_loss_coef`; None = the model's own number.
        tell: Told of it if there are experts.

    Raises:
        UserError: If a number is wanted and the model has no such loss.
    """
    config = model.config.get_text_config()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = getattr(config, "router_aux_loss_coef", None)
    if own is None or "output_router_logits" not in inspect.signature(base.forward).parameters:
        if wanted:
            problem = f"{type(base).__name__} has no loss for the balance of experts."
            raise UserError(problem, fix="leave it empty.", field="loss.router_aux_loss_coef")
        return 0.0
    value = float(own if wanted is None else wanted)
    source = "the model's own" if wanted is None else "as the recipe says"
    tell(f"Balance of the experts: counts {value:g} times, {source}.")
    return value


def _load_adapter(model: Any, start: Path) -> None:
    """Give the fresh adapter the weights of an earlier one.

    Raises:
        UserError: If the two are not alike.
    """
    fix = "use the adapter settings of the run that is continued."
    old, new = PeftConfig.from_pretrained(str(start)), model.peft_config["default"]
    for name in ADAPTER_FIELDS:
        was, now = getattr(old, name, None), getattr(new, name, None)
        if was != now:
            problem = f"The adapter of {start.name} has {name} = {was}, the recipe says {now}."
            raise UserError(problem, fix=fix, field=f"lora.{name}")
    weights = load_peft_weights(str(start), device="cpu")
    result = set_peft_model_state_dict(model, weights)
    absent = [name for name in result.missing_keys if "lora_" in name]
    if absent or result.unexpected_keys:
        problem = f"The adapter of {start.name} is on other layers than this recipe's."
        raise UserError(problem, fix=fix, field="lora.target_modules")
