"""An old model folder -> a native one, shard by shard.

    source: config.json, weights, tokenizer -> plan of every tensor, checked -> work folder -> check -> rename -> target

Nothing is written before the plan holds exactly the tensors of the native class, in its shapes; the target appears only
when transformers has found everything in it.  Memory: one tensor beside the file that is read.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.contract.errors import Problem, UserError
from engine.contract.files import new_folder, read_json, replace_json
from engine.contract.model_facts import read_config
from engine.contract.places import require_free
from engine.export.shards import INDEX, ShardWriter
from engine.model.convert.layout import BUFFERS, Layout, Native, Unsupported
from engine.model.convert.old_families import OLD_FAMILIES, native_of
from engine.model.convert.read import open_weights, weight_files

Progress = Callable[[str, float | None], None]
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]
TEXTS = 10_000_000
"""Room for config and tokenizer beside the weights, bytes."""
KEPT_GENERATION = ("temperature", "top_p", "top_k", "repetition_penalty", "do_sample", "max_new_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a conversion made."""

    folder: Path
    model_type: str
    num_weights: int
    checks: tuple[str, ...]
    """What was compared."""
    notes: tuple[str, ...]
    """Where the converted model differs from the original."""


def convert_model(source: Path, target: Path, *, progress: Progress = lambda *_: None, origin: str = "") -> Converted:
    """Convert a model folder of an old family, or one with pickled weights only.

    Args:
        source: Folder with config.json, weights and tokenizer.  Nothing in it is changed, no code of it is run.
        target: Folder to make; must not exist, or be empty.
        progress: Told what is being done.
        origin: Hub id, if `target` is our own copy of that model; a run then finds it under its name.

    Raises:
        UserError: If there is nothing to convert, or it cannot be done exactly.
    """
    config = read_config(source) if source.is_dir() else None
    if config is None:
        raise UserError(f"{source} is no model folder: it has no readable config.json.", fix="choose another folder.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already.", fix="choose a new folder, or delete this one.")
    files = weight_files(source)
    native = _native(source, config, files)
    plan = _plan(files, native.layout)
    dtype = _check_plan(source, native, plan)
    size = sum(kind.itemsize * torch.Size(shape).numel() for part in plan for kind, shape in part.values())
    require_free(target.parent, size + TEXTS, what=f"The converted model ({size / 2**30:.1f} GiB)")
    with new_folder(target) as work:
        progress("converting the tokenizer", 0.0)
        said = _write_texts(source, work, config, native, dtype)
        _write_weights(files, plan, native.layout, work, progress)
        progress("checking the converted model", 1.0)
        _check_written(work)
        if origin:
            replace_json(work / "source.json", {"model": origin, "converted_from": config["model_type"]})
        if target.exists():
            target.rmdir()  # it was empty: what came into it meanwhile is not ours to delete
    count = sum(torch.Size(shape).numel() for part in plan for _, shape in part.values())
    checks = (f"{sum(map(len, plan))} tensors: all that {native.model_type} has, none left over", said)
    return Converted(folder=target, model_type=native.model_type, num_weights=count, checks=checks, notes=native.notes)


def _native(source: Path, config: Mapping[str, Any], files: list[Path]) -> Native:
    """Say what the model becomes, or refuse it."""
    from transformers import CONFIG_MAPPING

    model_type = str(config.get("model_type", ""))
    if model_type in OLD_FAMILIES:
        try:
            return native_of(config, source)
        except Unsupported as error:
            found = error.problem
            raise UserError(f"{source} cannot be converted. {found.problem}", fix=found.fix) from None
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise UserError(f"config.json of {source} lacks, or garbles, {error}.", fix="download it again.") from None
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{source} is of the type {model_type or '(none)'}, which transformers does not know and this program "
            "cannot rewrite.",
            fix=f"choose a native model, or one of the convertible types {', '.join(OLD_FAMILIES)}.",
        )
    if files[0].suffix == ".safetensors":
        raise UserError(
            f"{source} needs no conversion: transformers knows {model_type}, and its weights are safetensors.",
            fix="choose this folder as the model.",
        )
    return Native(model_type=model_type, config=config, layout=_Unchanged(names={}))


class _Unchanged(Layout):
    """The table of a native checkpoint: every name stays; transformers' own loader knows older ones."""

    def parts(self, name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
        return {} if BUFFERS.search(name) else {name: value}


def _plan(files: list[Path], layout: Layout) -> list[Shapes]:
    """Return for each file which tensors it becomes; their shapes are computed on the meta device.

    Raises:
        UserError: If the layout does not know a tensor, or it cannot be cut as the layout says.
    """
    plan: list[Shapes] = []
    problems: list[Problem] = []
    seen: Counter[str] = Counter()
    for path in files:
        shapes: Shapes = {}
        with open_weights(path) as opened:
            for name in opened.keys():
                value = opened.get_tensor(name)
                try:
                    parts = layout.parts(name, torch.empty_like(value, device="meta"))
                except (ValueError, RuntimeError) as error:
                    problems.append(Problem(problem=f"{name} in {path.name} has another shape: {error}."))
                    continue
                if parts is None:
                    problems.append(Problem(problem=f"{name} in {path.name} is no tensor of this family."))
                    continue
                shapes |= {new: (part.dtype, tuple(part.shape)) for new, part in parts.items()}
                seen.update(list(parts))
        plan.append(shapes)
    problems += [Problem(problem=f"{name} comes more than once.") for name, count in seen.items() if count > 1]
    if problems:
        raise UserError.of([*problems[:5], Problem(problem="Nothing was converted.", fix=_FIX)])
    return plan


_FIX = "check that the folder holds one whole, unquantized model, and no adapter."


def _check_plan(source: Path, native: Native, plan: list[Shapes]) -> torch.dtype:
    """Compare the plan with the native class, drop what it ties, and return the dtype that most weights have.

    Raises:
        UserError: If a tensor is missing, left over, or of another shape.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        if isinstance(native.layout, _Unchanged):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        else:
            config = AutoConfig.for_model(native.model_type, **native.config, pad_token_id=None)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, TypeError, OSError, AttributeError, StrictDataclassError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problem = f"config.json of {source} does not describe a {native.model_type} for text: {reason}"
        raise UserError(problem, fix="choose a language model.") from None
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    for shapes in plan:
        for name in tied & set(shapes):
            del shapes[name]
    sizes = Counter[torch.dtype]()
    found = {name: shape for shapes in plan for name, (_, shape) in shapes.items()}
    for shapes in plan:
        for dtype, shape in shapes.values():
            sizes[dtype] += torch.Size(shape).numel()
    if not isinstance(native.layout, _Unchanged):
        wanted = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
        problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
        problems += [f"{name} is left over" for name in sorted(found.keys() - wanted.keys())]
        problems += [
            f"{name} is {found[name]}, {wanted[name]} is expected"
            for name in sorted(wanted.keys() & found.keys())
            if wanted[name] != found[name]
        ]
        _refuse(source, native.model_type, problems)
    floating = [dtype for dtype, _ in sizes.most_common() if dtype.is_floating_point]
    if not floating or floating[0].itemsize < 2:
        raise UserError(f"The weights of {source} are quantized.", fix="convert the unquantized release.")
    return floating[0]


def _refuse(source: Path, model_type: str, problems: list[str]) -> None:
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        problem = f"{source} is not a whole {model_type}: {'; '.join(problems[:3])}{more}."
        raise UserError(problem, fix=_FIX)


def _write_texts(source: Path, work: Path, config: Mapping[str, Any], native: Native, dtype: torch.dtype) -> str:
    """Write config.json, generation_config.json and the tokenizer; return what was compared."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from engine.model.convert.fast import convert_tokenizer
    from engine.model.tokenizer import TOKENIZER_FILES

    if isinstance(native.layout, _Unchanged):
        for path in sorted({path for pattern in TOKENIZER_FILES for path in source.glob(pattern) if path.is_file()}):
            shutil.copyfile(path, work / path.name)
        if (source / "generation_config.json").is_file():
            shutil.copyfile(source / "generation_config.json", work / "generation_config.json")
        kept = {key: value for key, value in config.items() if key not in ("auto_map", "torch_dtype")}
        replace_json(work / "config.json", {**kept, "dtype": str(dtype).removeprefix("torch.")})
        try:
            AutoTokenizer.from_pretrained(work, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            problem = f"The tokenizer in {source} cannot be read: {str(error).splitlines()[0]}"
            raise UserError(problem, fix="put the model's tokenizer.json into it.") from None
        return "tokenizer files as they were"
    tokenizer, special, said = convert_tokenizer(source, work, str(config["model_type"]))
    rows = int(native.config["vocab_size"])
    if len(tokenizer) > rows:
        problem = f"The tokenizer of {source} has {len(tokenizer)} tokens, its embedding only {rows}."
        raise UserError(problem, fix="put the tokenizer of this very model into it.")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    new = AutoConfig.for_model(native.model_type, **native.config, **ids, pad_token_id=tokenizer.pad_token_id)
    new.architectures = [ARCHITECTURES[native.model_type]]
    new.dtype = dtype
    new.save_pretrained(work)
    old = read_json(source / "generation_config.json")
    kept = {key: old[key] for key in KEPT_GENERATION if key in old} if isinstance(old, dict) else {}
    stops = [*(tokenizer.convert_tokens_to_ids(text) for text in special.stops), tokenizer.eos_token_id]
    ids["eos_token_id"] = stops if len(stops) > 1 else stops[0]
    GenerationConfig(**{**kept, **ids}, pad_token_id=tokenizer.pad_token_id).save_pretrained(work)
    return said


ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "glm": "GlmForCausalLM"}


def _write_weights(files: list[Path], plan: list[Shapes], layout: Layout, work: Path, progress: Progress) -> None:
    """Write one shard per file that is read."""
    kept = [(path, shapes) for path, shapes in zip(files, plan, strict=True) if shapes]
    places: dict[str, str] = {}
    for number, (path, shapes) in enumerate(kept, 1):
        progress(f"converting shard {number} of {len(kept)}", (number - 1) / len(kept))
        name = f"model-{number:05}-of-{len(kept):05}.safetensors" if len(kept) > 1 else "model.safetensors"
        with open_weights(path) as opened, ShardWriter(work / name, shapes) as writer:
            for old in opened.keys():
                for new, part in (layout.parts(old, opened.get_tensor(old)) or {}).items():
                    if new in shapes:
                        writer.write(new, part)
        places |= dict.fromkeys(shapes, name)
    if len(kept) > 1:
        total = sum(dtype.itemsize * torch.Size(shape).numel() for shapes in plan for dtype, shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (work / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True))


def _check_written(work: Path) -> None:
    """Let transformers look for every weight of the model, without loading any."""
    from transformers import AutoModelForCausalLM

    _, told = AutoModelForCausalLM.from_pretrained(
        work, device_map="meta", output_loading_info=True, use_safetensors=True, trust_remote_code=False
    )
    problems = [f"{name} is missing" for name in sorted(told["missing_keys"])]
    problems += [f"{name} is left over" for name in sorted(told["unexpected_keys"])]
    problems += [f"{name} has another shape" for name in sorted(str(item) for item in told["mismatched_keys"])]
    _refuse(work, "model", problems)
