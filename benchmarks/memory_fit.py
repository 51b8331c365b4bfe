"""The memory estimate against measured peaks: a few steps of random models, each in a process of its own.

    python benchmarks/memory_fit.py [--device cuda] [--only NAME ...] [--model FOLDER] [--json FILE]

Every case is a model of random weights in a temporary folder, tasks of rows as long as `max_length` allows or shorter,
and two optimizer steps of the real engine: `engine.train.main`.  The peak is the resident memory of the process from
its first step on (CPU) or `max_memory_reserved` (GPU); what loading took before stands beside it.  `--model` adds real
cases with a model folder, as `python -m engine fetch` makes it.  Exit status 1 if a peak lies outside its range.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run."""

    name: str
    family: str = "llama"
    vocab: int = 32000
    hidden: int = 512
    layers: int = 8
    inner: int = 1536
    heads: int = 8
    kv_heads: int = 4
    tied: bool = True
    more: dict[str, Any] = field(default_factory=dict)
    """Other values of the model's config."""
    folder: str = ""
    """Where the model lies; empty until it is written."""
    words: bool = False
    """Whether its tokenizer knows words."""
    method: str = "lora"
    dtype: str = "float32"
    length: int = 1024
    batch: int = 4
    share: float = 1.0
    """Length of the rows, as a share of `length`."""
    checkpointing: bool = False
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other settings of the recipe."""


EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 384}
HEAD_TOO = {"lora": {"target_modules": ["q_proj", "v_proj", "lm_head"]}}
CASES = (
    Case(name="lora"),
    Case(name="lora, short rows", share=0.25),
    Case(name="lora, bfloat16", dtype="bfloat16"),
    Case(name="lora, checkpointing", checkpointing=True, batch=8),
    Case(name="lora, one row of 2048", length=2048, batch=1, hidden=768, inner=2048, heads=12),
    Case(name="lora, vocabulary 152,000", vocab=152_000, batch=8),
    Case(name="lora, dropout", sections={"lora": {"lora_dropout": 0.05}}),
    Case(name="lora, output head adapted", sections=HEAD_TOO),
    Case(name="lora, output head adapted, bfloat16", dtype="bfloat16", tied=False, sections=HEAD_TOO),
    Case(name="lora, output head adapted, padded", share=0.5, sections={**HEAD_TOO, "data": {"packing": "padding"}}),
    Case(name="lora, bfd packs", share=0.25, sections={"data": {"packing": "bfd"}}),
    Case(name="lora, padded", share=0.5, sections={"data": {"packing": "padding"}}),
    Case(name="lora, sliding window", family="mistral", more={"sliding_window": 256}),
    Case(name="lora, eager", batch=2, sections={"model": {"attn_implementation": "eager"}}),
    Case(name="lora, experts", family="qwen3_moe", more={**EXPERTS, "head_dim": 64}),
    Case(name="lora, gpt_neox", family="gpt_neox", tied=False),
    Case(name="qlora", method="qlora"),
    Case(name="full", method="full"),
    Case(name="full, bfloat16", method="full", dtype="auto"),
    Case(name="full, untied, vocabulary 100,000", method="full", vocab=100_000, tied=False, layers=4, batch=2),
    Case(name="full, checkpointing", method="full", checkpointing=True, batch=8),
    Case(name="full, 8-bit AdamW", method="full", layers=16, batch=1, sections={"optim": {"optimizer": "adamw_8bit"}}),
)


def real_cases(folder: str) -> tuple[Case, ...]:
    """Return cases with a real model of llama's kind, such as the starter."""
    return tuple(
        Case(
            name=f"{Path(folder).name.split('--')[-1]}, {words}",
            folder=folder,
            words=True,
            **values,
        )
        for words, values in (
            ("lora", {"batch": 2}),
            ("lora, bfloat16", {"batch": 2, "dtype": "bfloat16"}),
            ("full, checkpointing", {"method": "full", "batch": 1, "checkpointing": True}),
            ("qlora", {"method": "qlora", "batch": 1}),
        )
    )


def write_model(case: Case, folder: Path) -> None:
    """Write a random model whose tokenizer has one token per character."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from engine.model.tiny_tokenizer import character_tokenizer

    sizes = {
        "vocab_size": case.vocab, "hidden_size": case.hidden, "num_hidden_layers": case.layers,
        "intermediate_size": case.inner, "num_attention_heads": case.heads, "num_key_value_heads": case.kv_heads,
        "max_position_embeddings": 4096, "tie_word_embeddings": case.tied,
        "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.family, **{**sizes, **case.more}))
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)


def recipe_of(case: Case, model: Path, data: Path, device: str) -> dict[str, Any]:
    """Return the recipe of a case as plain values."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"dtype": case.dtype, "gradient_checkpointing": case.checkpointing},
        "data": {"max_length": case.length, "truncation": "truncate", "eval_split": 0.1, "max_eval_samples": 2},
        "optim": {"per_device_train_batch_size": case.batch, "max_steps": 2},
        "record": {"eval_steps": 1000, "save_steps": 1000, "save_best": False, "per_device_eval_batch_size": 1},
        "launch": {"device": device},
    }
    for section, values in case.sections.items():
        sections[section] = {**sections.get(section, {}), **values}
    tasks = [{"name": "task", "path": str(data)}]
    return {"model_name_or_path": str(model), "method": case.method, "tasks": tasks, **sections}


def write_rows(case: Case, path: Path) -> None:
    """Write rows whose answers are half of their text; letters of real words for real models."""
    words = "print the sum of two numbers and return it to the caller please " if case.words else "abcdefgh "
    size = int(case.length * case.share) * (4 if case.words else 1)
    half = (words * size)[: size // 2 if case.share == 1 else size // 2 - 20]
    asked, answered = (half[: size // 4], 2 * half) if case.share == 1 else (half, half)  # too long ones are cut
    turns = (
        [{"role": "user", "content": f"{i} {asked}"}, {"role": "assistant", "content": answered}]
        for i in range(4 * case.batch + 8)
    )
    path.write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))


def peak_bytes() -> int:
    """Return the highest resident memory of this process since it was last reset."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def run_case(case: Case, device: str) -> dict[str, Any]:
    """Train a case in this process and return what it took."""
    import torch

    from engine.contract.memory import estimate_memory
    from engine.contract.model_facts import read_config
    from engine.contract.places import data_root
    from engine.contract.recipe import Recipe
    from engine.contract.rundir import create_run_at
    from engine.data.codec import Codec
    from engine.data.prepare import prepare
    from engine.data.preview import micro_batch_tokens
    from engine.launch.devices import inventory
    from engine.train import main as training
    from engine.train.record import RunRecord

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MFT_STUDIO_HOME"] = f"{scratch}/home"
        model = Path(case.folder)
        write_rows(case, Path(scratch) / "task.jsonl")
        recipe = Recipe.model_validate(recipe_of(case, model, Path(scratch) / "task.jsonl", device))
        run = create_run_at(Path(scratch) / "run", recipe)
        trainer, _ = training.build_trainer(run, recipe, RunRecord(run, attempt=1, rank=0))
        if device == "cuda":
            loading, _ = torch.cuda.max_memory_reserved(), torch.cuda.reset_peak_memory_stats()
        else:
            loading = peak_bytes()
            Path("/proc/self/clear_refs").write_text("5")
        trainer.train()
        peak = torch.cuda.max_memory_reserved() if device == "cuda" else peak_bytes()
        native = torch.cuda.is_bf16_supported() if device == "cuda" else inventory().cpu_bf16
        prepared = prepare(recipe, Codec.of(trainer.processing_class), data_root().prepared)
        kind: Any = {"device": device, "native_bf16": native}
        config = read_config(model) or {}
        blind = estimate_memory(recipe, config, **kind)
        memory = estimate_memory(recipe, config, tokens=micro_batch_tokens(recipe, prepared.facts), **kind)
    return {
        "low": memory.low_bytes, "high": memory.high_bytes, "parts": dict(memory.parts), "peak": peak,
        "loading": loading, "blind": [blind.low_bytes, blind.high_bytes],
    }  # fmt: skip


def main() -> int:
    """Run the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="", help="a model folder for real cases")
    parser.add_argument("--only", nargs="*", default=[], help="names of cases")
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(PROJECT))
    if arguments.case:
        print("RESULT " + json.dumps(run_case(Case(**json.loads(arguments.case)), arguments.device)))
        return 0
    cases = [*CASES, *(real_cases(arguments.model) if arguments.model else ())]
    found, outside = {}, 0
    print(f"{'case, GiB':44} {'data unknown':>15} {'data measured':>16} {'peak':>9} {'loading':>8}")
    for case in cases:
        if arguments.only and case.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            if not case.folder:
                write_model(case, Path(folder))
            told = json.dumps(asdict(replace(case, folder=case.folder or folder)))
            argv = [sys.executable, __file__, "--device", arguments.device, "--case", told]
            done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), "")
        if not line:
            print(f"{case.name:44} failed: {done.stderr.strip().splitlines()[-1][:120] if done.stderr else '?'}")
            outside += 1
            continue
        result = found[case.name] = json.loads(line.removeprefix("RESULT "))
        within = result["low"] <= result["peak"] <= result["high"]
        outside += not within
        low, high, peak, loading = (result[key] / GIB for key in ("low", "high", "peak", "loading"))
        first = " - ".join(f"{size / GIB:.1f}" for size in result["blind"])
        line = f"{case.name:44} {first:>15} {low:8.2f} - {high:5.2f} {peak:9.2f} {loading:8.2f}"
        print(line + ("" if within else "  OUTSIDE"), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1))
    return 1 if outside else 0


if __name__ == "__main__":
    raise SystemExit(main())
