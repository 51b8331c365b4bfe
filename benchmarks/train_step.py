"""Training steps against TRL and MFTCoder: tokens per CPU second, supervised tokens per second, peak memory; ratios in
one run.

    PYTHONPATH=WHERE/TRL/IS python benchmarks/train_step.py --model FOLDER [--dtype bfloat16] [--vocabulary 152000]

FOLDER is a model with its tokenizer, as `python -m engine fetch` makes it.  `--shape 0.5b|1.5b|3b|8b` takes random
weights of that size instead, `--vocabulary` random weights with that many tokens; then losses mean nothing.  Every
engine (see train_engines.py) runs in a process of its own, in turns.  The rate of plain matrix products is measured
beside them: what part of it the training reaches tells how far from the machine's end we are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train_engines import ENGINES, write_examples

SHAPES = {  # hidden, MLP, layers, heads, key-value heads, tied head
    "0.5b": (896, 4864, 24, 14, 2, True),
    "1.5b": (1536, 8960, 28, 12, 2, True),
    "3b": (2048, 11008, 36, 16, 2, True),
    "8b": (4096, 14336, 32, 32, 8, False),
}


def random_model(arguments: argparse.Namespace, folder: Path) -> Path:
    """Write a model of random weights with the tokenizer of `arguments.model` and return its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=False)
    if arguments.shape:
        hidden, inner, layers, heads, keys, tied = SHAPES[arguments.shape]
        config = LlamaConfig(
            hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=keys, tie_word_embeddings=tied, vocab_size=config.vocab_size,
            max_position_embeddings=4096, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )  # fmt: skip
    if arguments.vocabulary:
        config.vocab_size = arguments.vocabulary
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, arguments.dtype))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=False).save_pretrained(folder)
    return folder


def flops(model: Path, examples: list[dict[str, Any]]) -> tuple[float, float]:
    """Return operations per token and per supervised token of a training step with frozen weights.

    4 N per token (forward, and backward to the activations), 6 l^2 H per layer for the attention of a document of l
    tokens (the causal half of 4 l^2 H forward, twice that backward), 4 V H per supervised token for the head.
    """
    from engine.contract.model_facts import count_parameters

    config = json.loads((model / "config.json").read_text())
    hidden, layers, vocabulary = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    weights = count_parameters(config).quantized
    lengths = [len(x["input_ids"]) for x in examples]
    attention = 6 * hidden * layers * sum(length * length for length in lengths) / sum(lengths)
    return 4 * weights + attention, 4 * vocabulary * hidden


def gemm_rate(dtype: str, device: str) -> float:
    """Return operations per CPU second (per second on a GPU) of a plain matrix product."""
    import torch

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    size = 8192 if device == "cuda" else 1536
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    a @ a
    best = 0.0
    for _ in range(5):
        began = clock()
        for _ in range(4):
            a @ a
        best = max(best, 4 * 2 * size**3 / (clock() - began))
    return best


def measure(engine: str, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Run one engine in a process of its own; None if it cannot run here."""
    given = [
        f"--{name}={getattr(arguments, name)}" for name in ("model", "dtype", "device", "rows", "steps", "examples")
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, __file__, "--engine", engine, *given]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"{engine}: not measured: {(done.stderr.strip() or 'killed').splitlines()[-1]}", flush=True)
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def report(results: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table and return its rows; what is compared is the median of the rounds."""
    examples = json.loads(arguments.examples.read_text())
    per_token, per_supervised = flops(arguments.model, examples)
    rate = gemm_rate(arguments.dtype, arguments.device)
    clock = "wall_s" if arguments.device == "cuda" else "cpu_s"
    rows = []
    for engine, runs in results.items():
        work = [per_token * run["tokens"] + per_supervised * run["supervised"] for run in runs]
        rows.append(
            {
                "engine": engine,
                "tokens_per_cpu_s": statistics.median(run["tokens"] / run["cpu_s"] for run in runs),
                "tokens_per_s": statistics.median(run["tokens"] / run["wall_s"] for run in runs),
                "supervised_per_s": statistics.median(run["supervised"] / run["wall_s"] for run in runs),
                "peak_gib": max(run["peak_gib"] for run in runs),
                "of_gemm": statistics.median(w / run[clock] / rate for w, run in zip(work, runs, strict=True)),
                "losses": runs[0]["losses"],
            }
        )
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s" + (" per CPU second" if clock == "cpu_s" else ""))
    print(
        f"{'engine':14} {'tokens/CPU s':>12} {'tokens/s':>9} {'loss tokens/s':>13} {'peak GiB':>9} {'of GEMM':>8}  loss"
    )
    for row in rows:
        figures = f"{row['tokens_per_cpu_s']:12.1f} {row['tokens_per_s']:9.1f} {row['supervised_per_s']:13.1f}"
        losses = " ".join(f"{loss:.2f}" for loss in row["losses"])
        print(f"{row['engine']:14} {figures} {row['peak_gib']:9.2f} {row['of_gemm']:8.0%}  {losses}")
    if rows and rows[0]["engine"] == "ours":
        first = rows[0]
        for row in rows[1:]:
            ratios = f"{first['tokens_per_cpu_s'] / row['tokens_per_cpu_s']:.2f}x its tokens per CPU second, "
            ratios += f"{first['supervised_per_s'] / row['supervised_per_s']:.2f}x its loss tokens per second, "
            print(f"ours / {row['engine']}: {ratios}{first['peak_gib'] / row['peak_gib']:.2f}x its peak memory")
    return rows


def main() -> int:
    """Measure all engines in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a model with its tokenizer")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this size instead of the model's own")
    parser.add_argument("--vocabulary", type=int, help="random weights with so many tokens")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=int, default=6, help="packs per optimizer step")
    parser.add_argument("--steps", type=int, default=2, help="measured optimizer steps; one more warms up")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--json", type=Path, help="write the table there too")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--examples", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        print(json.dumps(ENGINES[arguments.engine](arguments)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if arguments.shape or arguments.vocabulary:
            arguments.model = random_model(arguments, Path(folder) / "model")
        arguments.examples = Path(folder) / "examples.json"
        count = write_examples(arguments, arguments.examples)
        print(
            f"{count} examples, {arguments.dtype}, {arguments.rows} packs a step, {arguments.steps} steps", flush=True
        )
        results: dict[str, list[dict[str, Any]]] = {}
        for _ in range(arguments.rounds):
            for engine in arguments.engines:
                if (result := measure(engine, arguments)) is not None:
                    results.setdefault(engine, []).append(result)
        rows = report(results, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"dtype": arguments.dtype, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
