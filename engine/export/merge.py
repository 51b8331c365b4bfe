"""Merge a run's adapter into its base model, and refuse the result unless it answers like the original.

    base + adapter -> answers -> merged -> the same answers? -> stored in the training dtype -> reloaded -> near enough?

Both are computed in float32 where that fits, so that the comparison sees the weights, not the rounding of activations.
LoRA merges into the base as it was trained.  QLoRA merges into the *dequantized* 4-bit base: the adapter was fitted to
exactly those weights.  Full fine-tuning has nothing to merge; its weights are copied without the optimizer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from engine.contract.errors import UserError
from engine.contract.files import replace_json, slug
from engine.contract.hub_path import on_disk
from engine.contract.places import DataRoot, data_root, require_free
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir
from engine.contract.taskfile import Example, Message, iter_examples
from engine.data.codec import Codec
from engine.data.tokenize import encode_prompt
from engine.launch.command import resolve_device
from engine.model.load import comparison_dtype, load_model
from engine.model.sources import resolve_model
from engine.model.tokenizer import load_tokenizer
from engine.train.checkpoint import choose_checkpoint

Progress = Callable[[str, float | None], None]

PARITY_PROMPTS = 3
PARITY_TOKENS = 32
MERGE_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.3}
"""Largest mean |logit difference| between base + adapter and the merged weights *before* they are stored, by the dtype
of the computation. In float32 a right merge differs by 1e-6 to 1e-5; weights of another model by several units."""
STORED_LIMIT = 1.0
"""The same after storing: bfloat16 keeps 8 bits of every weight, which moved the logits of a 135M model by 0.25."""
TRAINER_FILES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth", "trainer_state.json", "manifest.json", "scaler.pt")


def merge_run(run: RunDir, checkpoint: str, name: str, *, root: DataRoot, progress: Progress) -> Path:
    """Merge one checkpoint of a run into `merged/<name>/`.

    Args:
        run: The run.
        checkpoint: Name of the checkpoint, or "latest".
        name: Name of the result; becomes a slug.
        root: Where models lie.
        progress: Told what is being done.

    Raises:
        UserError: If a name is taken, the disk is too small, or the merged model does not answer like the original.
    """
    recipe = run.recipe()
    source = choose_checkpoint(run, checkpoint, lambda text: progress(text, None))
    target = run.merged / slug(name, fallback=f"merged-{source.name}")
    if target.exists():
        raise UserError(f"There is a merged model called {target.name} already.", fix="choose another name.")
    temporary = target.with_name(f".tmp-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if recipe.method == "full":
            report = _copy_full(source, temporary, progress)
        else:
            report = _merge_adapter(recipe, source, temporary, root, progress)
        told = {
            "run": run.id,
            "checkpoint": source.name,
            "base_model": recipe.model_name_or_path,
            "method": recipe.method,
        }
        replace_json(temporary / "merge.json", {**told, **report, "time": time.strftime("%Y-%m-%d %H:%M:%S")})
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    progress("done", 1.0)
    return target


def _merge_adapter(recipe: Recipe, source: Path, target: Path, root: DataRoot, progress: Progress) -> dict[str, Any]:
    progress("loading the base model", 0.05)
    folder = resolve_model(recipe.model_name_or_path, revision=recipe.model.revision, root=root, progress=progress)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    require_free(target.parent, size, what="The merged model")
    device = resolve_device(recipe)
    tokenizer = load_tokenizer(source, lambda _: None)
    base: Any = load_model(folder, recipe.model, method=recipe.method, device=device, tell=lambda _: None)
    if recipe.method == "qlora":
        progress("dequantizing the 4-bit base", 0.2)
        base = base.dequantize()
    dtype = base.dtype
    compute = comparison_dtype(base, device)
    progress("attaching the adapter", 0.3)
    model: Any = PeftModel.from_pretrained(base.to(device=device, dtype=compute), source).eval()
    prompts = parity_prompts(recipe, tokenizer)
    expected = [_answer(model, tokenizer, ids) for ids in prompts]
    progress("merging", 0.5)
    merged = model.merge_and_unload(safe_merge=True)
    exact = compare(expected, [_answer(merged, tokenizer, ids) for ids in prompts], limit=MERGE_LIMIT[compute])
    merged = merged.to(dtype)
    merged.config.use_cache = True
    merged.save_pretrained(target)
    tokenizer.save_pretrained(target)
    del model, merged, base
    progress("checking that the merged model answers the same", 0.75)
    reloaded = AutoModelForCausalLM.from_pretrained(target, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    reloaded.to(device=device, dtype=compute).eval()
    stored = compare(expected, [_answer(reloaded, tokenizer, ids) for ids in prompts], limit=STORED_LIMIT)
    return {
        "stored_in": str(dtype).removeprefix("torch."),
        "compared_in": str(compute).removeprefix("torch."),
        **{f"merge_{name}": value for name, value in exact.items()},
        **{f"stored_{name}": value for name, value in stored.items()},
    }


def compare(
    expected: list[tuple[torch.Tensor, list[int]]], found: list[tuple[torch.Tensor, list[int]]], *, limit: float
) -> dict[str, Any]:
    """Compare logits and greedy texts of two models.

    Args:
        expected: Per prompt: logits of its last position, shape (V,), and greedy tokens.
        found: The same of the other model.
        limit: Largest mean |logit difference| that rounding explains.

    Returns:
        `mean_logit_difference`, `max_logit_difference` and `same_greedy_tokens`.

    Raises:
        UserError: If they differ by more.
    """
    pairs = list(zip(expected, found, strict=True))
    differences = [(ours - theirs).abs() for (ours, _), (theirs, _) in pairs]
    mean = max(float(difference.mean()) for difference in differences)
    same = sum(a == b for (_, ours), (_, theirs) in pairs for a, b in zip(ours, theirs))
    total = sum(max(len(ours), len(theirs)) for (_, ours), (_, theirs) in pairs)
    if not mean <= limit:  # also refuses NaN
        raise UserError(
            f"The merged model does not answer like the trained one: its logits differ by {mean:.3g} on average, "
            f"{limit:g} is what rounding explains.",
            fix="use the adapter unmerged, and report this with the run's log.",
        )
    return {
        "mean_logit_difference": mean,
        "max_logit_difference": max(float(difference.max()) for difference in differences),
        "same_greedy_tokens": f"{same} of {total}",
    }


def parity_prompts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the token ids of a held-out prompt of each task, `PARITY_PROMPTS` in all."""
    examples: list[Example] = []
    for task in recipe.tasks:
        try:
            if path := on_disk(task.eval_path or task.path, data_root()):
                examples += [next(iter_examples(path, task.columns))]
        except (UserError, StopIteration):
            continue
    examples.append(Example((Message("user", "Write a short Python function."), Message("assistant", "")), 0))
    prompts, codec = [], Codec.of(tokenizer)
    for example in [e for e in examples if e.messages[0].role != "assistant"][:PARITY_PROMPTS]:
        end = next(i for i, message in enumerate(example.messages) if message.role == "assistant")
        prompts.append(encode_prompt(codec, example.messages[:end])[-512:])
    return prompts


@torch.no_grad()
def _answer(model: Any, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> tuple[torch.Tensor, list[int]]:
    """Return the logits after a prompt, float32 on the host, and the greedy continuation."""
    inputs = torch.tensor([ids], device=model.device)
    logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[0, -1].float().cpu()
    generated = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=PARITY_TOKENS,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    return logits, generated[0, len(ids) :].tolist()


def _copy_full(source: Path, target: Path, progress: Progress) -> dict[str, Any]:
    """Copy the weights of a full fine-tuning without what only the Trainer needs."""
    require_free(target.parent, sum(p.stat().st_size for p in source.glob("*.safetensors")), what="The model")
    progress("copying the trained weights", 0.3)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*TRAINER_FILES))
    return {"dtype": "as trained", "parity": "the weights are copied unchanged"}
