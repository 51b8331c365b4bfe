"""The engines that `train_step.py` compares: each trains a few optimizer steps in a process of its own and says what it
took.  Same weights, same LoRA, same examples; the first step is a warm-up.

    ours            the project's own run: `engine.train.main.build_trainer`, packing bfd
    trl_packed      TRL's SFTTrainer, packing bfd, no activation checkpointing
    trl_unpacked    TRL's SFTTrainer, 8 examples a batch, its default activation checkpointing
    mftcoder        MFTCoder's loop as its code describes it, written anew: 8 examples padded to the longest, logits of
                    every position in float32, mean loss per task and micro-batch (case3), activation checkpointing
    mftcoder_pack   the same over rows filled to max_length in which examples see each other, without checkpointing
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
MAX_LENGTH, BATCH = 1024, 8
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
LEARNING_RATE = 1e-4


class Meter:
    """Tokens, seconds and CPU seconds after the warm-up step."""

    def __init__(self, device: str) -> None:
        self.device, self.steps = device, 0
        self.tokens = self.supervised = 0
        self.losses: list[float] = []

    def see(self, tokens: int, supervised: int) -> None:
        """Count what a micro-batch holds: tokens without padding, and those that carry loss."""
        self.tokens, self.supervised = self.tokens + tokens, self.supervised + supervised

    def end_step(self) -> None:
        """Note the clocks; the first step's tokens are forgotten."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        now = (time.perf_counter(), usage.ru_utime + usage.ru_stime)
        if self.steps == 0:
            self.began, self.tokens, self.supervised = now, 0, 0
        self.ended, self.steps = now, self.steps + 1

    def result(self, losses: list[float]) -> dict[str, Any]:
        """Return the measurements, JSON-ready."""
        if self.device == "cuda":
            import torch

            peak = torch.cuda.max_memory_allocated() / 2**30
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        wall, cpu = (end - begin for begin, end in zip(self.began, self.ended, strict=True))
        measured = {"tokens": self.tokens, "supervised": self.supervised, "wall_s": wall, "cpu_s": cpu}
        return {**measured, "peak_gib": peak, "losses": losses}


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """A run of the project, through its real entry point."""
    from transformers import TrainerCallback

    from engine.contract.rundir import create_run_at
    from engine.train.main import build_trainer
    from engine.train.record import RunRecord

    meter = Meter(arguments.device)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.end_step()

    with tempfile.TemporaryDirectory() as folder:
        run = create_run_at(Path(folder) / "run", recipe_of(arguments))
        trainer, _ = build_trainer(run, run.recipe(), RunRecord(run, attempt=0, rank=0))
        trainer.add_callback(Clock())
        trainer.train()
        rows = [row for row in run.metrics()[0] if "train/loss" in row]
        names = [task.name for task in run.recipe().tasks]
    meter.tokens = rows[-1]["tokens_seen"] - rows[0]["tokens_seen"]
    meter.supervised = sum(row.get(f"task/{name}/num_tokens", 0) for row in rows[1:] for name in names)
    return meter.result([row["train/loss"] for row in rows])


def recipe_of(arguments: argparse.Namespace, packing: str = "bfd") -> Any:
    """Return the recipe of the comparison."""
    from engine.contract.recipe import Recipe

    samples = PROJECT / "assets" / "samples"
    names = ("text-to-code", "comment-generation", "code-completion")
    rows = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": arguments.rows}
    optim = {**rows, "max_steps": arguments.steps + 1, "learning_rate": LEARNING_RATE, "warmup_steps": 0}
    return Recipe.model_validate(
        {
            "model_name_or_path": str(arguments.model),
            "method": "lora",
            "tasks": [{"name": name, "path": str(samples / f"{name}.jsonl")} for name in names],
            "model": {"dtype": arguments.dtype},
            "lora": LORA,
            "data": {"max_length": MAX_LENGTH, "packing": packing, "eval_split": 0},
            "loss": {"reduction": "token_mean"},
            "optim": optim,
            "launch": {"device": arguments.device},
        }
    )


def write_examples(arguments: argparse.Namespace, path: Path) -> int:
    """Write the recipe's examples, as our own preparation encodes them, in one shuffled order; return how many."""
    import random

    from engine.data.prepare import prepare
    from engine.model.tokenizer import load_codec

    with tempfile.TemporaryDirectory() as cache:
        done = prepare(
            recipe_of(arguments, "padding_free"), load_codec(arguments.model, Path(cache)), Path(cache) / "p"
        )
        lines = [
            {"task": index, "input_ids": list(map(int, e.input_ids)), "mask": [int(v != -100) for v in e.labels]}
            for index, task in enumerate(done.tasks)
            for unit in task.train
            for e in unit
        ]
    random.Random(0).shuffle(lines)
    path.write_text(json.dumps(lines))
    return len(lines)


def base_model(arguments: argparse.Namespace) -> Any:
    """Return the base model in the dtype asked for, with attention through sdpa."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=getattr(torch, arguments.dtype), attn_implementation="sdpa", trust_remote_code=False
    )
    model.config.use_cache = False
    return model


def lora_config() -> Any:
    """Return LoRA on all linear layers but the head."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", bias="none", **LORA)


def trl(arguments: argparse.Namespace, *, packed: bool) -> dict[str, Any]:
    """SFTTrainer over the same examples; trl must be installed, it is no dependency of this project."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    meter = Meter(arguments.device)

    class Counting(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
            meter.see(tokens, int((inputs["labels"][..., 1:] != -100).sum()))
            return super().compute_loss(model, inputs, *given, **named)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.end_step()

    lines = json.loads(arguments.examples.read_text())
    data = Dataset.from_list([{"input_ids": x["input_ids"], "completion_mask": x["mask"]} for x in lines])
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, max_length=MAX_LENGTH, packing=packed, completion_only_loss=True,
            per_device_train_batch_size=1 if packed else BATCH, max_steps=arguments.steps + 1,
            gradient_accumulation_steps=arguments.rows if packed else accumulation(arguments),
            gradient_checkpointing=not packed, bf16=arguments.dtype == "bfloat16", use_cpu=arguments.device == "cpu",
            learning_rate=LEARNING_RATE, save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=False)
        trainer = Counting(
            model=base_model(arguments), args=config, train_dataset=data, processing_class=tokenizer,
            peft_config=lora_config(), callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return meter.result(losses)


def mftcoder(arguments: argparse.Namespace, *, packed: bool) -> dict[str, Any]:
    """MFTCoder's step: forward with all logits, case3 loss, backward; AdamW after `accumulation` micro-batches."""
    import torch
    from peft import get_peft_model
    from torch.nn import functional

    meter = Meter(arguments.device)
    model = base_model(arguments)
    if not packed:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = get_peft_model(model, lora_config()).to(arguments.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    batches = full_rows(arguments) if packed else padded(arguments)
    each = arguments.rows if packed else accumulation(arguments)
    losses = []
    for _ in range(arguments.steps + 1):
        total = 0.0
        for _ in range(each):
            ids, mask, attention, tasks = (tensor.to(arguments.device) for tensor in next(batches))
            precision = torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.dtype == "bfloat16")
            with precision:
                logits = model(input_ids=ids, attention_mask=attention).logits
            shifted, targets, weight = logits[:, :-1].float(), ids[:, 1:], mask[:, 1:].float()
            nll = functional.cross_entropy(
                shifted.reshape(-1, shifted.shape[-1]), targets.reshape(-1), reduction="none"
            )
            nll = nll.view(targets.shape) * weight
            parts = [nll[tasks == t].sum() / weight[tasks == t].sum() for t in range(3) if (tasks == t).any()]
            loss = torch.stack(parts).mean() / each
            loss.backward()
            meter.see(int(attention.sum()), int(weight.sum()))
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        meter.end_step()
    return meter.result(losses)


def padded(arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Yield batches of examples, padded to the longest."""
    import torch

    lines = json.loads(arguments.examples.read_text())
    for start in range(0, len(lines) - BATCH, BATCH):
        part = lines[start : start + BATCH]
        shape = (BATCH, max(len(x["input_ids"]) for x in part))
        ids, mask, attention = torch.zeros(shape, dtype=torch.long), torch.zeros(shape), torch.zeros(shape).long()
        for row, x in enumerate(part):
            size = len(x["input_ids"])
            ids[row, :size] = torch.tensor(x["input_ids"])
            mask[row, :size] = torch.tensor(x["mask"])
            attention[row, :size] = 1
        yield ids, mask, attention, torch.tensor([x["task"] for x in part])


def full_rows(arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Yield one row of `MAX_LENGTH` at a time: a task's examples, next-fit, the rest filled up."""
    import torch

    lines, open_rows = json.loads(arguments.examples.read_text()), {}
    for x in lines:
        ids, mask = open_rows.get(x["task"], ([], []))
        if len(ids) + len(x["input_ids"]) > MAX_LENGTH:
            filling = MAX_LENGTH - len(ids)
            attention = torch.tensor([[1] * len(ids) + [0] * filling])
            yield (
                torch.tensor([ids + [0] * filling]),
                torch.tensor([mask + [0] * filling]),
                attention,
                torch.tensor([x["task"]]),
            )
            ids, mask = [], []
        open_rows[x["task"]] = (ids + x["input_ids"], mask + x["mask"])


def accumulation(arguments: argparse.Namespace) -> int:
    """Return how many batches of `BATCH` examples hold about as many tokens as `rows` packs."""
    lines = json.loads(arguments.examples.read_text())
    mean = sum(len(x["input_ids"]) for x in lines) / len(lines)
    return max(1, round(arguments.rows * MAX_LENGTH / mean / BATCH))


ENGINES = {
    "ours": ours,
    "trl_packed": lambda arguments: trl(arguments, packed=True),
    "trl_unpacked": lambda arguments: trl(arguments, packed=False),
    "mftcoder": lambda arguments: mftcoder(arguments, packed=False),
    "mftcoder_pack": lambda arguments: mftcoder(arguments, packed=True),
}
