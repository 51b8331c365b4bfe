"""`python -m engine families [--check]`: the model families, and whether everything works with each on this machine.

The check trains tiny random models of every architecture with the very code that trains real ones: LoRA, QLoRA and
full, a merge with its parity check, a reload with plain peft, and an answer of the chat.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

STEPS = 4
SAME = 1e-4
"""Largest logit difference in float32 between two ways to compute the same model."""
COLUMNS = ("load", "LoRA", "experts", "QLoRA", "full", "merge", "reload", "generate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--check", action="store_true", help="train, merge, reload and ask a tiny model of each")
    parser.add_argument("--only", default="", metavar="TYPE", help="one architecture, as config.json calls it")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 1 if anything of it failed."""
    from transformers.utils import logging

    from engine.contract.errors import UserError
    from engine.model.convert.tiny_old import TINY_OLD
    from engine.model.families import FAMILIES

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = {family.model_type: (family, None) for family in FAMILIES}
    rows |= {name: (old.family, old) for name, old in TINY_OLD.items()}
    chosen = {name: row for name, row in rows.items() if arguments.only in ("", name)}
    if not chosen:
        known = ", ".join(rows)
        raise UserError(f"There is no family {arguments.only}.", fix=f"choose from {known}.")
    width = max(map(len, chosen)) + 2
    if not arguments.check:
        for name, (family, old) in chosen.items():
            print(f"{name:{width}}{f'{family.model_type}, after `engine convert`' if old else family.known_as}")
        return 0
    print(f"{'':{width}}" + "".join(f"{name:10}" for name in COLUMNS), flush=True)
    reasons = []
    for name, (family, old) in chosen.items():
        with tempfile.TemporaryDirectory(prefix="families-") as folder:
            found = check_family(family, Path(folder), old)
        print(f"{name:{width}}" + "".join(f"{found[column].split(':')[0]:10}" for column in COLUMNS), flush=True)
        reasons += [f"{name} {column}: {text}" for column, text in found.items() if not text.startswith("ok")]
    print("\n" + "\n".join(reasons))
    return 1 if any("failed" in reason for reason in reasons) else 0


def check_family(family: Any, folder: Path, old: Any = None) -> dict[str, str]:
    """Try everything with a tiny model of a family.

    Args:
        family: Its record.
        folder: An empty folder to work in.
        old: A tiny model of an old family that becomes one of `family`; it is converted first.

    Returns:
        Column -> `ok`, `none: why`, or `failed: why`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from engine.model.convert.convert import convert_model
    from engine.model.convert.tiny_old import save_tiny_old
    from engine.model.families import save_tiny_model

    told = {name: "" for name in COLUMNS}
    if not old:
        save_tiny_model(family, folder / "model")

    def load() -> None:
        if old:
            convert_model(save_tiny_old(old, folder / "old"), folder / "model")
        model = AutoModelForCausalLM.from_pretrained(folder / "model", use_safetensors=True, trust_remote_code=False)
        logits = model(torch.arange(3, 20)[None], use_cache=False).logits
        assert bool(torch.isfinite(logits).all()), "its logits are not finite"

    def experts() -> None:
        _train(family, folder, "lora", "experts", {"target_experts": True})

    told["load"] = _attempt(load)
    told["LoRA"] = _attempt(lambda: _train(family, folder, "lora", "lora"))
    told["experts"] = _attempt(experts) if family.experts else "none: a dense model"
    told["QLoRA"] = _attempt(lambda: _train(family, folder, "qlora", "qlora")) if family.quantized else "none: no 4 bit"
    told["full"] = _attempt(lambda: _train(family, folder, "full", "full"))
    told["merge"] = _attempt(lambda: _merge(folder, family))
    told["reload"] = _attempt(lambda: _reload(folder, family))
    told["generate"] = _attempt(lambda: _generate(folder, family))
    return told


def _attempt(work: Callable[[], None]) -> str:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            work()
    except Exception as error:  # noqa: BLE001 - the table says why, whatever it was
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
    return "ok"


def _train(family: Any, folder: Path, method: str, name: str, lora: dict[str, Any] | None = None) -> None:
    """Train a few steps as a run does; the loss must fall and the trained weights must be those that were asked for."""
    import os

    from engine.contract.recipe import Recipe
    from engine.contract.rundir import Attempt, ProcessId, claim_attempt, create_run_at
    from engine.train.main import train
    from engine.train.record import RunRecord

    rows = [
        {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i} {i}"}]}
        for i in range(24)
    ]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.model_validate(
        {
            "model_name_or_path": str(folder / "model"),
            "method": method,
            "tasks": [{"name": "say", "path": str(folder / "task.jsonl")}],
            "model": {"dtype": "float32"},
            "lora": {"r": 4, **(lora or {})},
            "data": {"eval_split": 0.2, "chat_template": "model"},
            "optim": {"learning_rate": 2e-2, "max_steps": STEPS, "warmup_steps": 0, "per_device_train_batch_size": 8},
            "record": {"logging_steps": 1, "save_steps": STEPS, "eval_steps": STEPS},
            "launch": {"device": "cpu"},
        }
    )
    run = create_run_at(folder / name, recipe)
    claim_attempt(run, Attempt(number=1, supervisor=asdict(ProcessId.of(os.getpid())), started_at=1.0))
    train(run, RunRecord(run, attempt=1, rank=0))
    losses = [row["train/loss"] for row in run.metrics()[0] if "train/loss" in row]
    assert len(losses) == STEPS and losses[-1] < losses[0], f"the loss went {losses}"
    said = " ".join(event["text"] for event in run.events()[0])
    if family.experts and method != "full":
        wanted = f"and {family.experts} fused experts" if lora or method == "qlora" else "the experts and the router"
        assert wanted in said, said
    attention = "Attention: eager" if family.eager else "Attention: sdpa"
    assert attention in said, said


def _merge(folder: Path, family: Any) -> None:
    """Merge every adapter; the merge itself refuses one that answers differently."""
    from engine.contract.files import read_json
    from engine.contract.places import data_root
    from engine.contract.rundir import RunDir
    from engine.export.merge import merge_run

    for name in ("lora", "experts", "qlora"):
        if (folder / name).is_dir():
            merged = merge_run(RunDir(folder / name), "latest", "whole", root=data_root(), progress=lambda *_: None)
            report = read_json(merged / "merge.json") or {}
            largest = report["stored_max_logit_difference"]
            assert largest <= SAME, f"{name}: the logits differ by {largest:.2g}"


def _reload(folder: Path, family: Any) -> None:
    """Load base and adapter with nothing but transformers and peft; it must be the merged model."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(3, 40)[None]
    for name in ("lora", "experts"):
        if not (folder / name).is_dir():
            continue
        checkpoint = sorted((folder / name / "checkpoints").iterdir())[-1]
        base = AutoModelForCausalLM.from_pretrained(folder / "model", use_safetensors=True, trust_remote_code=False)
        plain = base(tokens, use_cache=False).logits
        adapted = PeftModel.from_pretrained(base, checkpoint).eval()
        merged = AutoModelForCausalLM.from_pretrained(
            folder / name / "merged" / "whole", use_safetensors=True, trust_remote_code=False
        )
        with torch.no_grad():
            ours, theirs = adapted(tokens, use_cache=False).logits, merged(tokens, use_cache=False).logits
        difference = float((ours - theirs).abs().max())
        assert difference <= SAME, f"{name}: adapter and merged model differ by {difference:.2g}"
        assert float((plain - theirs).abs().max()) > 10 * SAME, f"{name}: nothing was learned"


def _generate(folder: Path, family: Any) -> None:
    """Ask base and tuned model through the chat: together they say what each says alone."""
    from engine.chat.answering import answer_all
    from engine.chat.models import ChatModels
    from engine.chat.prompts import chat_prompt
    from engine.chat.question import Answer, Question
    from engine.contract.records import Message
    from engine.contract.rundir import RunDir
    from engine.contract.speakers import base_of, speakers_of

    run = RunDir(folder / "lora")
    speakers = speakers_of(run)[:2]
    models = ChatModels(base_of(run), lambda _: None)
    models.bring(speakers)
    questions = [
        Question(
            speaker=speaker,
            prompt=chat_prompt(models.codec(speaker), [Message("user", text)], context=None, max_new_tokens=8),
        )
        for speaker, text in zip(speakers, ("say 3", "a longer one: say 4"), strict=True)
    ]

    def ask(several: list[Question]) -> list[Answer]:
        return [answer for _, answer in answer_all(models, several, lambda *_: None, threading.Event())]

    answers, alone = ask(questions), [ask([question])[0] for question in questions]
    assert [answer.speaker for answer in answers] == ["base model, adapter off", f"adapter {speakers[1].name}"]
    assert all(answer.together != bool(family.experts) for answer in answers), "dense models share a batch"
    assert [answer.text for answer in answers] == [answer.text for answer in alone], "a batch says something else"
    for answer in answers:
        assert answer.num_tokens > 0, "no answer"
