"""A checkpoint in the format of another program: adapter, merged, or quantized from the merged model.

    checkpoint -> [merge] -> format, in a temporary folder -> answers compared -> card -> export.json -> rename

Inputs are never written to, names never reused.  Exact formats are refused outside of rounding; quantized ones report
how far they are from the merged model and are refused when they say something else altogether.
"""

from __future__ import annotations

import gc
import importlib.util
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import psutil
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GgufConfig

from engine.contract.errors import UserError
from engine.contract.export_formats import ExportFormat, export_bytes, find_format, merged_of
from engine.contract.files import new_folder, read_json, replace_json, slug
from engine.contract.model_facts import read_config
from engine.contract.places import DataRoot, require_free
from engine.contract.rundir import RunDir
from engine.data.codec import Codec
from engine.export.card import public_base, write_card
from engine.export.llama_cpp import convert
from engine.export.merge import choose_source, merge_run, source_name
from engine.export.ollama import modelfile
from engine.export.parity import EXACT_LIMIT, Answer, answer, compare, differences, parity_prompts, refuse_broken
from engine.export.rounding import require_auto_round, round_weights
from engine.model.tokenizer import load_tokenizer

Progress = Callable[[str, float | None], None]
ADAPTER_FILES = ("adapter_model.safetensors", "tokenizer*", "*.jinja", "special_tokens_map.json", "added_tokens.json")


def export_run(run: RunDir, checkpoint: str, key: str, name: str, *, root: DataRoot, progress: Progress) -> Path:
    """Export one checkpoint and return the folder.

    Args:
        run: The run.
        checkpoint: Name of the checkpoint, "latest", or `adapters/NAME`.
        key: Key of the format.
        name: Name of the result; becomes a slug. Empty: checkpoint and format.
        root: Where models and tools lie.
        progress: Told what is being done.

    Raises:
        UserError: If the name is taken, something is missing, or the result does not answer as it should.
    """
    form = find_format(key)
    source = choose_source(run, checkpoint, lambda text: progress(text, None))
    told_name = source_name(run, source)
    if key == "merged":
        folder = merge_run(run, told_name, name, root=root, progress=progress)
        write_card(folder, run, form, read_json(folder / "merge.json") or {}, root=root)
        return folder
    if key == "adapter":
        return _export_adapter(run, source, name, form, root=root, progress=progress)
    if form.rounding:
        require_auto_round()
    target = free_place(run.exports, name, f"{source.name}-{key}")
    merged = merged_of(run, told_name)
    if merged is None:
        merged = merge_run(run, told_name, "", root=root, progress=lambda text, share: progress(text, (share or 0) / 4))
        write_card(merged, run, find_format("merged"), read_json(merged / "merge.json") or {}, root=root)
    require_free(run.path, 2 * export_bytes(read_config(merged) or {}, form), what=f"The export as {form.title}")
    started = time.monotonic()
    with new_folder(target) as temporary:
        told: dict[str, Any] = {
            "run": run.id,
            "checkpoint": told_name,
            "format": key,
            "base_model": run.recipe().model_name_or_path,
            "made_of": merged.name,
            "made_of_parity": _parity_of(merged),
        }
        progress(f"making {form.title}", 0.3)
        told |= _make(merged, temporary, form, target.name, root=root, progress=progress)
        if form.is_gguf:
            codec = Codec.of(load_tokenizer(merged, lambda _: None))
            (temporary / "Modelfile").write_text(modelfile(f"{target.name}.gguf", codec), encoding="utf-8")
        told["seconds"] = round(time.monotonic() - started, 1)
        told |= _compare(run, merged, temporary, form, progress)
        told["bytes"] = folder_bytes(temporary)
        finish(temporary, run, form, told, root)
    progress("done", 1.0)
    return target


def _make(
    merged: Path, target: Path, form: ExportFormat, name: str, *, root: DataRoot, progress: Progress
) -> dict[str, Any]:
    """Write the files of a format; returns what was chosen on the way."""
    if form.key in ("gguf-bf16", "gguf-q8_0"):
        convert(merged, form.key.removeprefix("gguf-"), target / f"{name}.gguf", root=root, progress=progress)
        return {}
    if form.rounding:
        chosen = round_weights(merged, form.key, target)
        if form.is_gguf:
            (target / "model.gguf").rename(target / f"{name}.gguf")
        return chosen
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(
        merged, quantization_config=config, dtype=torch.bfloat16, use_safetensors=True, trust_remote_code=False
    )
    if not any(isinstance(layer, bnb.nn.Linear4bit) for layer in model.modules()):
        raise UserError("bitsandbytes quantized no layer of this architecture.", fix="choose a GGUF format.")
    model.save_pretrained(target)
    load_tokenizer(merged, lambda _: None).save_pretrained(target)
    return {}


def load_exported(folder: Path, form: ExportFormat, dtype: torch.dtype) -> Any:
    """Load what was exported, as a user would.

    Raises:
        ImportError: If this format needs a package to be loaded that is not here.
    """
    more: dict[str, Any] = {}
    if form.is_gguf:
        more = {"gguf_file": next(folder.glob("*.gguf")).name, "quantization_config": GgufConfig(dequantize=True)}
    elif form.key in ("gptq", "awq"):
        if importlib.util.find_spec("gptqmodel") is None:
            raise ImportError("gptqmodel is not installed")
        more = {"device_map": "auto"}
    else:
        more = {"use_safetensors": True}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False, **more).eval()
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear4bit):  # the weights as they are stored, not as some CPUs repack them
            layer.support_avx512bf16_for_cpu = False
    return model


def _compare(run: RunDir, merged: Path, target: Path, form: ExportFormat, progress: Progress) -> dict[str, Any]:
    """Ask the merged and the exported model the same, one of them in memory at a time.

    Raises:
        UserError: If the export is not what it should be.
    """
    needed = 3 * sum(path.stat().st_size for path in merged.glob("*.safetensors"))  # float32, and room to compute
    free = psutil.virtual_memory().available
    if needed > free:
        return {"parity": f"not compared: {needed / 2**30:.0f} GiB of memory are needed, {free / 2**30:.0f} are free"}
    tokenizer = load_tokenizer(merged, lambda _: None)
    prompts = parity_prompts(run.recipe(), tokenizer)

    def answers(model: Any) -> list[Answer]:
        return [answer(model, tokenizer, ids) for ids in prompts]

    progress(f"asking the model in {form.title}", 0.7)
    try:
        model = load_exported(target, form, torch.float32)
    except ImportError as error:
        return {"parity": f"not compared: {str(error).strip().splitlines()[0]}"}
    found = answers(model)
    del model
    gc.collect()
    progress("asking the merged model", 0.85)
    reference = AutoModelForCausalLM.from_pretrained(
        merged, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    expected = answers(reference.eval())
    if form.exact:
        return compare(expected, found, limit=EXACT_LIMIT)
    told = differences(expected, found)
    refuse_broken(told, form.title)
    return told


def _export_adapter(
    run: RunDir, source: Path, name: str, form: ExportFormat, *, root: DataRoot, progress: Progress
) -> Path:
    """Copy an adapter without what only the Trainer needs, naming its base model instead of a path of this machine."""
    config = read_json(source / "adapter_config.json")
    if not isinstance(config, dict):
        raise UserError(f"{source.name} of this run holds no adapter.", fix="export the merged model.")
    target = free_place(run.adapters, name, f"{source.name}-adapter")
    with new_folder(target) as temporary:
        progress("copying the adapter", 0.3)
        for pattern in ADAPTER_FILES:
            for path in source.glob(pattern):
                shutil.copyfile(path, temporary / path.name)
        replace_json(
            temporary / "adapter_config.json",
            config | {"base_model_name_or_path": public_base(run.recipe().model_name_or_path)},
        )
        told = {
            "run": run.id,
            "checkpoint": source.name,
            "format": form.key,
            "parity": "the weights are copied unchanged",
        }
        finish(temporary, run, form, told | {"bytes": folder_bytes(temporary)}, root)
    progress("done", 1.0)
    return target


def free_place(folder: Path, name: str, fallback: str) -> Path:
    """Return where a result goes.

    Raises:
        UserError: If something is there.
    """
    target = folder / slug(name, fallback=slug(fallback))
    if target.exists():
        raise UserError(f"There is an export called {target.name} already.", fix="choose another name.")
    return target


def finish(folder: Path, run: RunDir, form: ExportFormat, told: dict[str, Any], root: DataRoot) -> None:
    """Write export.json and the card."""
    told = told | {"time": time.strftime("%Y-%m-%d %H:%M:%S")}
    replace_json(folder / "export.json", told)
    write_card(folder, run, form, told, root=root)


def folder_bytes(folder: Path) -> int:
    """Return how large the files of a folder are together."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _parity_of(merged: Path) -> dict[str, Any]:
    told = read_json(merged / "merge.json") or {}
    return {key: value for key, value in told.items() if key.startswith("stored_") or key == "parity"}
