"""Merge a run's adapter into its base model, and refuse the result unless it answers like the original.

    base + adapter -> merged, shard by shard -> every layer the same? -> stored -> answers like base + adapter?

LoRA merges into the base as it was trained.  QLoRA merges into the *dequantized* 4-bit base: the adapter was fitted to
exactly those weights.  Full fine-tuning has nothing to merge; its weights are copied without the optimizer.

A merge needs the memory of a shard.  The comparison of answers needs that of the model; where there is less, the layers
are compared alone and the report says so.  Adapters on fused experts are merged by peft, in the memory of the model.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import psutil
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from engine.contract.errors import UserError
from engine.contract.files import child, new_folder, replace_json, slug
from engine.contract.models import pinned_recipe
from engine.contract.places import DataRoot, require_free
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir
from engine.export.parity import STORED_LIMIT, Answer, answer, compare, parity_prompts
from engine.export.shards import shards_of
from engine.export.stream import Quantize, can_stream, read_adapter, stream_merge
from engine.launch.command import resolve_device
from engine.model.experts import dequantize_experts
from engine.model.load import choose_dtype, comparison_dtype, has_experts, linear_layer_names, load_model
from engine.model.sources import resolve_model
from engine.model.tokenizer import load_tokenizer
from engine.train.checkpoint import choose_checkpoint

Progress = Callable[[str, float | None], None]

GIB = 2**30
TRAINER_FILES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth", "trainer_state.json", "manifest.json", "scaler.pt")


def merge_run(run: RunDir, checkpoint: str, name: str, *, root: DataRoot, progress: Progress) -> Path:
    """Merge one checkpoint of a run into `merged/<name>/`.

    Args:
        run: The run.
        checkpoint: Name of the checkpoint, "latest", or `adapters/NAME`.
        name: Name of the result; becomes a slug.
        root: Where models lie.
        progress: Told what is being done.

    Raises:
        UserError: If a name is taken, the disk is too small, or the merged model does not answer like the original.
    """
    recipe = pinned_recipe(run)
    source = choose_source(run, checkpoint, lambda text: progress(text, None))
    target = run.merged / slug(name, fallback=f"merged-{source.name}")
    if target.exists():
        raise UserError(f"There is a merged model called {target.name} already.", fix="choose another name.")
    with new_folder(target) as temporary:
        if recipe.method == "full":
            report = _copy_full(source, temporary, progress)
        else:
            report = _merge_adapter(recipe, source, temporary, root, progress)
        told = {
            "run": run.id,
            "checkpoint": source_name(run, source),
            "base_model": recipe.model_name_or_path,
            "method": recipe.method,
        }
        replace_json(temporary / "merge.json", {**told, **report, "time": time.strftime("%Y-%m-%d %H:%M:%S")})
    progress("done", 1.0)
    return target


def choose_source(run: RunDir, wanted: str, tell: Callable[[str], None]) -> Path:
    """Return the folder of a checkpoint, "latest", or a combined adapter `adapters/NAME`.

    Raises:
        UserError: If there is none.
    """
    if not wanted.startswith("adapters/"):
        return choose_checkpoint(run, wanted, tell)
    folder = child(run.adapters, wanted.removeprefix("adapters/"))
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"This run has no adapter {folder.name}.", fix="choose one from the list.")
    return folder


def source_name(run: RunDir, folder: Path) -> str:
    """Return what `choose_source` was asked for."""
    return f"adapters/{folder.name}" if folder.parent == run.adapters else folder.name


def _merge_adapter(recipe: Recipe, source: Path, target: Path, root: DataRoot, progress: Progress) -> dict[str, Any]:
    progress("looking for the base model", 0.0)
    folder = resolve_model(recipe.model_name_or_path, revision=recipe.model.revision, root=root, progress=progress)
    device = resolve_device(recipe)
    dtype, _ = choose_dtype(recipe.model, recipe.method, device)
    require_free(target.parent, _stored_bytes(folder, dtype), what="The merged model")
    layers = read_adapter(source)
    fused_quantized = recipe.method == "qlora" and has_experts(
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    )
    if layers and can_stream(folder, layers) and not fused_quantized:
        quantized = quantized_weights(folder) if recipe.method == "qlora" else {}
        report = stream_merge(
            folder,
            layers,
            target,
            dtype=dtype,
            quantized=quantized,
            progress=lambda text, share: progress(text, 0.5 * (share or 0.0)),
        )
    else:
        report = _merge_whole(recipe, folder, source, target, progress)
    load_tokenizer(source, lambda _: None).save_pretrained(target)
    told = {"stored_in": str(dtype).removeprefix("torch."), **report}
    return told | _compare_answers(recipe, folder, source, target, dtype=dtype, device=device, progress=progress)


def quantized_weights(folder: Path) -> Mapping[str, Quantize]:
    """Return what a 4-bit load does to each weight that it quantizes: to nf4 and back, in the dtype of the run."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    return {f"{name}.weight": _there_and_back for name in linear_layer_names(model)}


def _there_and_back(weight: torch.Tensor) -> torch.Tensor:
    packed, state = bnb.quantize_4bit(weight.contiguous(), compress_statistics=True, quant_type="nf4")
    return bnb.dequantize_4bit(packed, state)


def _merge_whole(recipe: Recipe, folder: Path, source: Path, target: Path, progress: Progress) -> dict[str, Any]:
    """Merge with peft, the whole model in memory: what cannot be done shard by shard."""
    needed = 2 * _stored_bytes(folder, choose_dtype(recipe.model, recipe.method, "cpu")[0])
    free = psutil.virtual_memory().available
    if needed > free:
        have = f"about {needed / GIB:.0f} GiB of memory are needed, {free / GIB:.0f} GiB are free"
        raise UserError(f"This adapter is merged with the whole model in memory: {have}.", fix="use a larger machine.")
    progress("loading the base model", 0.05)
    base = _trained_base(recipe, folder, "cpu")
    dtype = base.dtype
    progress("merging with the whole model in memory", 0.3)
    merged: Any = PeftModel.from_pretrained(base.float(), source).eval().merge_and_unload(safe_merge=True)
    merged = merged.to(dtype)
    merged.config.use_cache = True
    merged.save_pretrained(target)
    return {}


def _trained_base(recipe: Recipe, folder: Path, device: str) -> Any:
    """Return the base model with the weights that the adapter was fitted to."""
    base: Any = load_model(folder, recipe.model, method=recipe.method, device=device, tell=lambda _: None)
    if recipe.method == "qlora":
        dequantize_experts(base)
        base = base.dequantize()
    return base


def _compare_answers(
    recipe: Recipe,
    folder: Path,
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Ask base plus adapter and the stored model the same; one of them is in memory at a time.

    Raises:
        UserError: If they do not answer the same.
    """
    needed = int(1.2 * _stored_bytes(folder, dtype))
    on_gpu = device == "cuda" and torch.cuda.mem_get_info()[0] > needed
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    if needed > free:
        have = f"{needed / GIB:.0f} GiB of memory are needed, {free / GIB:.0f} GiB are free"
        return {"parity": f"every layer was compared; answers were not: {have}"}
    place = "cuda" if on_gpu else "cpu"
    tokenizer = load_tokenizer(source, lambda _: None)
    prompts = parity_prompts(recipe, tokenizer)
    progress("asking base and adapter", 0.55)
    base = _trained_base(recipe, folder, place)
    compute = comparison_dtype(base, place)
    model: Any = PeftModel.from_pretrained(base.to(device=place, dtype=compute), source).eval()
    expected = _answers(model, tokenizer, prompts)
    del model, base
    gc.collect()
    progress("asking the merged model", 0.8)
    stored: Any = AutoModelForCausalLM.from_pretrained(
        target, dtype=compute, use_safetensors=True, trust_remote_code=False
    )
    found = compare(expected, _answers(stored.to(place).eval(), tokenizer, prompts), limit=STORED_LIMIT[dtype])
    told = {"compared_in": str(compute).removeprefix("torch.")}
    return told | {f"stored_{name}": value for name, value in found.items()}


def _answers(model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> list[Answer]:
    return [answer(model, tokenizer, ids) for ids in prompts]


def _stored_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Return about how large a model is in a dtype; its files are taken to be in 16 bit unless they say otherwise."""
    size = sum((folder / file).stat().st_size for file in set(shards_of(folder).values()))
    held = AutoConfig.from_pretrained(folder, trust_remote_code=False).dtype
    return size * dtype.itemsize // (held.itemsize if isinstance(held, torch.dtype) else 2)


def _copy_full(source: Path, target: Path, progress: Progress) -> dict[str, Any]:
    """Copy the weights of a full fine-tuning without what only the Trainer needs."""
    require_free(target.parent, sum(p.stat().st_size for p in source.glob("*.safetensors")), what="The model")
    progress("copying the trained weights", 0.3)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*TRAINER_FILES), dirs_exist_ok=True)
    return {"dtype": "as trained", "parity": "the weights are copied unchanged"}
