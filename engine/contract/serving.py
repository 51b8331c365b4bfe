"""How to load or serve an export, ready to paste: text for the Export page and the model card.

Paths are quoted for the shell, strings for Python; nothing here is ever run by this program.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.contract.files import read_json

PLAIN_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map="auto")
"""
ADAPTER_TRANSFORMERS = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
base = AutoModelForCausalLM.from_pretrained({base}, dtype="auto", device_map="auto")
model = PeftModel.from_pretrained(base, folder)
"""
GGUF_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

folder, file = {folder}, {file}
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
model = AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True)
)
"""
ASK = """\
inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=200)[0], skip_special_tokens=True))
"""
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
PACKAGES = {"bnb-4bit": "bitsandbytes", "gptq": "optimum gptqmodel", "awq": "gptqmodel", "adapter": "peft"}
"""What transformers needs on top to load a format."""


def snippets(folder: str, key: str, base_model: str, *, files: Path | None = None) -> list[dict[str, str]]:
    """Return `title` and `text` of everything that can serve an export.

    Args:
        folder: As it is to stand in the text.
        key: Key of the format.
        base_model: For an adapter.
        files: The folder itself, to look for the GGUF file and the Modelfile.
    """
    quoted, name = shlex.quote(folder), shlex.quote(Path(folder).name)
    if key.startswith("gguf-"):
        return _gguf(folder, files or Path(folder))
    if key == "adapter":
        load = ADAPTER_TRANSFORMERS.format(folder=repr(folder), base=repr(base_model))
        rank = f"--max-lora-rank {_rank(files or Path(folder))}"
        serve = f"vllm serve {shlex.quote(base_model)} --enable-lora {rank} --lora-modules {name}={quoted}"
    else:
        load = PLAIN_TRANSFORMERS.format(folder=repr(folder))
        serve = f"vllm serve {quoted} --served-model-name {name}"
    needs = f"# pip install {PACKAGES[key]}\n" if key in PACKAGES else ""
    return [{"title": "transformers", "text": needs + load + ASK}, {"title": "vLLM", "text": serve}]


def _rank(files: Path) -> int:
    """Return the smallest rank that vLLM can be told and that holds this adapter's."""
    rank = (read_json(files / "adapter_config.json") or {}).get("r")
    return next((size for size in VLLM_RANKS if not isinstance(rank, int) or size >= rank), VLLM_RANKS[-1])


def _gguf(folder: str, files: Path) -> list[dict[str, str]]:
    file = next((path.name for path in sorted(files.glob("*.gguf"))), "model.gguf")
    name = shlex.quote(Path(folder).name)
    path = shlex.quote(f"{folder}/{file}")
    ollama = f"cd {shlex.quote(folder)}\nollama create {name} -f Modelfile\nollama run {name}"
    found = [
        {"title": "llama.cpp server", "text": f"llama-server --model {path} --jinja --port 8080"},
        {"title": "Ollama", "text": ollama},
    ]
    try:
        found.append({"title": "Modelfile", "text": (files / "Modelfile").read_text(encoding="utf-8")})
    except (OSError, UnicodeDecodeError):
        pass
    load = GGUF_TRANSFORMERS.format(folder=repr(folder), file=repr(file))
    return [*found, {"title": "transformers", "text": "# pip install gguf\n" + load + ASK}]
