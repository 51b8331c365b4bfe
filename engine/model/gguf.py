"""A GGUF file to a model folder: dequantized by transformers, every tensor accounted for.

    file -> header judged -> sha256 -> model, tokenizer -> root/models/gguf--<name>-<key>/, by rename
                          -> tokenizer alone            -> root/cache/tokenizers/, for a look before a run

Refused where the result would be another model than the file: weights left over or missing, positions stretched in a
way that transformers drops, a tokenizer that would cut texts in another way.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import shutil
import time
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from engine.contract.errors import UserError
from engine.contract.files import new_folder, replace_json
from engine.contract.gguf_file import GgufHeader, changed, copy_folder, header_of
from engine.contract.memory import gigabytes
from engine.contract.places import DataRoot, require_free
from engine.model.download import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 22
DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
"""Values of `tokenizer.ggml.pre` for vocabularies that take every digit for itself, then go by GPT-2's rule."""
GPT2_RULE = frozenset({"gpt-2", "mpt", "olmo", "jais"})
LLAMA3 = ({"factor": 8.0}, {"factor": 32.0})
"""The stretchings of positions that Llama 3.1 to 3.3 were published with."""


def convert_file(file: Path, root: DataRoot, *, revision: str | None, progress: Progress) -> Path:
    """Make the copy of a GGUF file that everything else reads.

    Args:
        file: The file.
        root: Our data root.
        revision: The beginning of the hash that its content must have, if a run was begun with it.
        progress: Told what is being done.

    Raises:
        UserError: If it cannot be read as the model that it is.
    """
    header = header_of(file)
    dtype, width = stored_dtype(header)
    needed = width * header.num_parameters
    require_free(root.models, needed, what="The converted model")
    if needed > psutil.virtual_memory().available:
        free = gigabytes(psutil.virtual_memory().available)
        problem = f"To convert {file.name} takes {gigabytes(needed)} of memory; {free} are free."
        raise _refuse(problem, "end other programs, or choose a smaller model.")
    digest = _sha256(header.path, progress)
    if revision and not digest.startswith(revision):
        raise changed(header.path)
    progress(f"converting {file.name} to safetensors", 0.3)
    target = copy_folder(header.path, root)
    with new_folder(target, replace=True) as work:
        model, tokenizer = load_gguf(header, dtype)
        progress(f"writing {file.name} as safetensors", 0.8)
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        replace_json(work / "source.json", _source(header, digest))
    progress("the converted model is ready", 1.0)
    return target


def tokenizer_folder(file: Path, root: DataRoot) -> Path:
    """Return a folder with the tokenizer of a file that is not converted yet, in a second and without its weights.

    Raises:
        UserError: If the tokenizer cannot be taken over as it is.
    """
    header = header_of(file)
    target = root.cache / "tokenizers" / copy_folder(header.path, root).name
    if not target.is_dir():
        work = target.with_name(f".making-{os.getpid()}-{target.name}")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700, parents=True)
        try:
            _tokenizer(header).save_pretrained(work)
            if not target.is_dir():  # else another process was a moment faster
                work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def stored_dtype(header: GgufHeader) -> tuple[torch.dtype, int]:
    """Return the dtype of the copy and its bytes: that of most of the weights, bfloat16 for fewer bits."""
    import torch
    from gguf import GGMLQuantizationType as Kind

    sizes: Counter[int] = Counter()
    for tensor in header.tensors:
        sizes[tensor.type_id] += prod(tensor.shape)
    held = {Kind.F32.value: (torch.float32, 4), Kind.F16.value: (torch.float16, 2)}
    return held.get(sizes.most_common(1)[0][0], (torch.bfloat16, 2))


def load_gguf(header: GgufHeader, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return model and tokenizer of a file.

    Raises:
        UserError: If transformers cannot read it, or would read it as another model.
    """
    _require_whole(header)
    tokenizer = _tokenizer(header)
    model = _model(header, dtype)
    for kind in ("bos", "eos", "pad"):
        number = getattr(tokenizer, f"{kind}_token_id")
        setattr(model.config, f"{kind}_token_id", number)
        setattr(model.generation_config, f"{kind}_token_id", number)
    return model, tokenizer


def _require_whole(header: GgufHeader) -> None:
    """Refuse a file that ends before its weights do, or holds a kind of them that nobody here knows."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    size, name = header.path.stat().st_size, header.path.name
    for tensor in header.tensors:
        try:
            per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.type_id)]
        except (ValueError, KeyError):
            problem = f"{name}: {tensor.name[:80]} is in a form that is not known ({tensor.type_id})."
            raise _refuse(problem, "choose the file in another quantization, such as Q8_0.") from None
        elements = prod(tensor.shape)
        if elements % per_block or tensor.offset + elements // per_block * block_bytes > size:
            problem = f"{name} is not a whole GGUF file: {tensor.name[:80]} lies behind its end."
            raise _refuse(problem, "download it again.")


def _model(header: GgufHeader, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

    name = header.path.name
    where: dict[str, Any] = {"gguf_file": name, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(header.path.parent, **where)
        if stretched := _stretching(header, config):
            config.rope_parameters = {**config.rope_parameters, **stretched}
        model, told = AutoModelForCausalLM.from_pretrained(
            header.path.parent,
            config=config,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            **where,
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, NotImplementedError) as error:
        problem = f"{name} cannot be read by transformers: {_first_line(error)}"
        raise _refuse(problem, "choose the model as safetensors.") from None
    missing, left = sorted(told["missing_keys"]), _left_over(header, model)
    other = "choose the model as safetensors."
    if missing or told["mismatched_keys"]:
        number = len(missing) + len(told["mismatched_keys"])
        problem = f"{name} is not quite a {header.architecture} as transformers knows it: {number} weights are missing."
        raise _refuse(problem, other)
    if left:
        text = f"{name} holds weights that transformers would drop from a {header.architecture}: {', '.join(left)}."
        raise _refuse(text, other)
    return model


def _left_over(header: GgufHeader, model: PreTrainedModel) -> list[str]:
    """Return up to four tensors of the file that went nowhere, such as biases that the class does not have."""
    from transformers import modeling_gguf_pytorch_utils as own
    from transformers.integrations.gguf.utils import is_gguf_arch_supported

    if is_gguf_arch_supported(header.architecture):  # the newer way, which refuses them itself
        return []
    processor = own.TENSOR_PROCESSORS.get(header.architecture, own.TensorProcessor)(config=model.config.to_dict())
    known = own.get_gguf_hf_weights_map(model, processor)
    left = [
        t.name for t in header.tensors if t.name not in known and "_exps" not in t.name and "rope_freqs" not in t.name
    ]
    return sorted(left)[:4]


def _stretching(header: GgufHeader, config: Any) -> dict[str, Any]:
    """Return what the file says of stretched positions in the words of a config.

    Llama 3.1 and later keep only the resulting factors, as a tensor: the published settings that give exactly those are
    looked for.

    Raises:
        UserError: If none does.
    """
    import numpy as np
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if header.of_model("rope.scaling.type") == "linear":
        return {"rope_type": "linear", "factor": float(header.of_model("rope.scaling.factor") or 1.0)}
    tensor = next((tensor for tensor in header.tensors if tensor.name == "rope_freqs.weight"), None)
    if tensor is None:
        return {}
    count = tensor.shape[0]
    factors = torch.from_numpy(np.fromfile(header.path, np.float32, count, offset=tensor.offset).copy())
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, 2 * count, 2).float() / (2 * count))
    kept = config.rope_parameters
    for settings in LLAMA3:
        tried = {
            "rope_type": "llama3",
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            **settings,
        }
        config.rope_parameters = {**kept, **tried}
        frequencies = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
        config.rope_parameters = kept
        if torch.allclose(plain / frequencies, factors, rtol=1e-3):
            return tried
    problem = f"{header.path.name} stretches its positions in a way that is not one of Llama 3's."
    raise _refuse(problem, "choose the model as safetensors.")


def _tokenizer(header: GgufHeader) -> PreTrainedTokenizerBase:
    """Return the tokenizer: that of a tokenizer.json beside the file, else the one that the file describes."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder, name = header.path.parent, header.path.name
    try:
        if (folder / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(folder)
        kind = str(header.metadata.get("tokenizer.ggml.pre", ""))
        if header.metadata.get("tokenizer.ggml.model") == "gpt2" and not _rule_is_known(kind):
            problem = f"{name} cuts texts by a rule that is not known here: {kind[:40] or '(none)'}."
            fix = "put tokenizer.json and tokenizer_config.json of the original model beside the file."
            raise _refuse(problem, fix)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        problem = f"The tokenizer of {name} cannot be read: {_first_line(error)}"
        fix = "put tokenizer.json and tokenizer_config.json of the original model beside the file."
        raise _refuse(problem, fix) from None
    if kind in DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _rule_is_known(kind: str) -> bool:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return kind in DIGITS or kind in GPT2_RULE or kind in GGUF_PRE_TOKENIZER_SPLITS


def _source(header: GgufHeader, digest: str) -> dict[str, Any]:
    from gguf import GGMLQuantizationType

    kinds = Counter(GGMLQuantizationType(tensor.type_id).name for tensor in header.tensors)
    state = header.path.stat()
    return {
        "hub": "gguf",
        "name": str(header.metadata.get("general.name", header.path.stem))[:200],
        "path": str(header.path),
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "revision": digest[:40],
        "sha256": digest,
        "license": str(header.metadata.get("general.license", ""))[:60],
        "tensors": dict(kinds),
        "transformers": importlib.metadata.version("transformers"),
        "time": time.time(),
    }


def _sha256(path: Path, progress: Progress) -> str:
    digest, done, size = hashlib.sha256(), 0, max(1, path.stat().st_size)
    told = 0.0
    with open(path, "rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
            done += len(block)
            if time.monotonic() - told > 1.0:
                told = time.monotonic()
                progress(f"reading {path.name}", 0.3 * done / size)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _refuse(problem: str, fix: str) -> UserError:
    return UserError(problem, fix=fix, field="model_name_or_path")
