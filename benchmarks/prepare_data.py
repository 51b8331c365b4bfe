"""Preparing data - read, check, render, encode, pack - against MFTCoder's way and TRL's, on one file, in one run.

    python benchmarks/prepare_data.py --model FOLDER [--records 40000] [--rounds 3]

Each engine runs in a process of its own, in turns, so that noise of the machine meets all of them; libraries and
tokenizers are loaded before the clock starts.  Prints samples/s, MB/s, peak memory (all processes) and ratios.

    ours      engine.data.prepare: checked records, the model's chat template, held-out split, best-fit-decreasing packs
    mftcoder  its encoder as its code describes it, written anew: one record at a time on one thread, one call of the
              tokenizer per prompt and per answer, role markers, next-fit packs, float32 rows of full length
    trl       SFTTrainer's own preparation (trl must be installed; it is no dependency of this project), packing bfd
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
MAX_LENGTH = 1024
ENGINES = ("ours", "mftcoder", "trl")


def write_file(path: Path, count: int) -> None:
    """Write `count` chat records: the sample tasks' texts, every record made different by a line of its own."""
    from engine.contract.taskfile import load_examples

    samples = sorted((PROJECT / "assets" / "samples").glob("*.jsonl"))
    examples = [example for sample in samples for example in load_examples(sample)[0]]
    texts = [[m.content for m in example.messages if m.role != "system"][:2] for example in examples]
    chance = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            prompt, answer = chance.choice(texts)
            turns = [("user", f"{prompt}\n# {number}"), ("assistant", answer)]
            file.write(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")


def ours(file: Path, model: Path) -> dict[str, float]:
    """Prepare with an empty cache."""
    from engine.contract.recipe import Recipe
    from engine.data.prepare import prepare
    from engine.model.tokenizer import load_codec

    with tempfile.TemporaryDirectory() as cache:
        codec = load_codec(model, Path(cache))
        recipe = Recipe.model_validate(
            {
                "model_name_or_path": str(model),
                "tasks": [{"name": "t", "path": str(file)}],
                "data": {"max_length": MAX_LENGTH, "packing": "bfd"},
            }
        )
        codec.encode(["warm"])
        codec.encode_fast(["warm"])
        started = time.perf_counter()
        done = prepare(recipe, codec, Path(cache) / "prepared")
        seconds = time.perf_counter() - started
        again = time.perf_counter()
        prepare(recipe, codec, Path(cache) / "prepared")
        second = time.perf_counter() - again
        padding = {}
        for packing in ("padding", "length_grouped", "padding_free", "bfd"):
            other = recipe.model_copy(update={"data": recipe.data.model_copy(update={"packing": packing})})
            padding[packing] = prepare(other, codec, Path(cache) / "prepared").preview.padding_share
        return {"seconds": seconds, "pack_fill": done.preview.pack_fill, "second_s": second, "padding": padding}


def mftcoder(file: Path, model: Path) -> dict[str, float]:
    """One record at a time, as MFTCoder's loader does on every rank at every start."""
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    eos, row_length = tokenizer.eos_token_id, MAX_LENGTH + 1
    started = time.perf_counter()
    rows, ids, mask, used = [], [], [], 0
    for line in open(file, encoding="utf-8"):
        record_ids: list[int] = []
        record_mask: list[int] = []
        turns = json.loads(line)["messages"]
        for user, assistant in zip(turns[::2], turns[1::2]):
            question = user["content"].replace("\u202f", " ").replace("\xa0", " ")
            answer = assistant["content"].replace("\u202f", " ").replace("\xa0", " ")
            prompt_ids = tokenizer.encode(f"<s>human\n{question}\n<s>bot\n", add_special_tokens=False)
            answer_ids = [*tokenizer.encode(f"{answer}\n", add_special_tokens=False), eos]
            record_ids += prompt_ids + answer_ids
            record_mask += [0] * len(prompt_ids) + [1] * len(answer_ids)
        if len(record_ids) > row_length:
            continue
        if len(ids) + len(record_ids) > row_length:
            rows.append(_float_row(np, ids, mask, eos, row_length))
            used += len(ids)
            ids, mask = [], []
        ids += record_ids
        mask += record_mask
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "pack_fill": used / (len(rows) * row_length)}


def _float_row(np, ids, mask, eos, length):
    filling = length - len(ids)
    return {
        "input_ids": np.array(ids + [eos] * filling, dtype=np.float32),
        "loss_mask": np.array(mask + [0] * filling, dtype=np.float32),
    }


def trl(file: Path, model: Path) -> dict[str, float]:
    """SFTTrainer's preparation of a prompt-completion chat dataset, loaded through `datasets`."""
    import torch
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    class NoDataYet(SFTTrainer):
        prepared = None

        def _prepare_dataset(self, dataset, *arguments, **keywords):
            return dataset

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    tiny = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    ).to(torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, max_length=MAX_LENGTH, packing=True, packing_strategy="bfd", completion_only_loss=True,
            use_cpu=True, report_to=[], bf16=False, disable_tqdm=True, dataset_num_proc=2,
        )  # fmt: skip
        first = load_dataset("json", data_files=str(file), split="train[:8]", cache_dir=f"{folder}/first").map(_pair)
        trainer = NoDataYet(model=tiny, args=arguments, train_dataset=first, processing_class=tokenizer)
        started = time.perf_counter()
        data = load_dataset("json", data_files=str(file), split="train", cache_dir=f"{folder}/cache")
        data = data.map(_pair, remove_columns=["messages"], num_proc=2)
        done = SFTTrainer._prepare_dataset(trainer, data, tokenizer, arguments, True, None, "train")
        seconds = time.perf_counter() - started
        tokens = sum(len(row) for row in done["input_ids"])
        return {"seconds": seconds, "pack_fill": tokens / (len(done) * MAX_LENGTH)}


def _pair(row):
    return {"prompt": row["messages"][:1], "completion": row["messages"][1:]}


def peak_memory() -> float:
    """Return the largest resident set of this process plus that of its largest child, MiB."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + child) / 1024


def measure(engine: str, file: Path, model: Path) -> dict[str, float] | None:
    """Run one engine in a process of its own; None if it cannot run here."""
    command = [sys.executable, __file__, "--engine", engine, "--file", str(file), "--model", str(model)]
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"{engine}: not measured: {done.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    """Measure all engines in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a model; only its tokenizer is used")
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        result = globals()[arguments.engine](arguments.file, arguments.model)
        print(json.dumps({**result, "memory_mib": peak_memory()}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records.jsonl"
        write_file(file, arguments.records)
        runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
        for _ in range(arguments.rounds):
            for engine in ENGINES:
                if (result := measure(engine, file, arguments.model)) is not None:
                    runs[engine].append(result)
        size = file.stat().st_size / 1e6
    print(f"{arguments.records} records, {size:.1f} MB, {os.cpu_count()} cores, median of {arguments.rounds} rounds")
    print(f"{'engine':10} {'samples/s':>10} {'MB/s':>7} {'memory MiB':>11} {'pack fill':>10} {'ours is':>9}")
    ours_s = statistics.median(run["seconds"] for run in runs["ours"])
    for engine, results in runs.items():
        if results:
            seconds = statistics.median(run["seconds"] for run in results)
            memory, fill = max(run["memory_mib"] for run in results), results[0]["pack_fill"]
            rate = arguments.records / seconds
            print(
                f"{engine:10} {rate:10.0f} {size / seconds:7.2f} {memory:11.0f} {fill:10.1%} {seconds / ours_s:8.2f}x"
            )
    second = statistics.median(run["second_s"] for run in runs["ours"])
    print(f"a second start with the same data: {second:.2f} s")
    shares = ", ".join(f"{name} {share:.1%}" for name, share in runs["ours"][0]["padding"].items())
    print(f"padding at batch size 4: {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
