"""A training configuration of MFTCoder (mftcoder_accelerate, MftTrainArgs) as a recipe of ours.

    {"data_paths": "[a,b]", "weighted_loss_mode": "case3", ...} -> values of a recipe, and a note per option

Every option is mapped, changed in meaning (told), ignored with its reason, or refused.  What the file leaves out has
MFTCoder's default, not ours.  The options and what they really do were read from MFTCoder v0.5.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from engine.contract.errors import Problem, UserError
from engine.contract.files import slug

DEFAULTS: dict[str, Any] = {
    "task_weights": None, "data_split": "98,2,0", "padding_mode": "padding", "tokenize_mode": "sft", "seq_length": 4096,
    "role_markers": None, "weighted_loss_mode": "case3", "peft_type": "qlora", "quantization": "4bit", "lora_rank": 96,
    "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": None, "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8, "gradient_accumulation_steps": 1, "learning_rate": 5e-5, "min_lr": 5e-6,
    "weight_decay": 0.01, "lr_scheduler_type": "cosine", "num_warmup_steps": 0.05, "num_train_epochs": 4,
    "max_train_steps": None, "seed": 1234, "log_interval": 10, "evaluation_steps": 100, "checkpointing_steps": 100,
    "saving_limit": None, "early_stopping": True, "early_stopping_stall_num": 5,
    "attn_implementation": "flash_attention_2",
    "coba_warmup_steps": 100, "coba_history_length": 200, "coba_tau": 5, "coba_update_interval": 1,
    "coba_sample_valid_num": 1,
}  # fmt: skip

SAME: dict[str, str] = {
    "seq_length": "data.max_length",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "per_device_train_batch_size": "optim.per_device_train_batch_size",
    "per_device_eval_batch_size": "record.per_device_eval_batch_size",
    "gradient_accumulation_steps": "optim.gradient_accumulation_steps",
    "learning_rate": "optim.learning_rate",
    "num_train_epochs": "optim.num_train_epochs",
    "max_train_steps": "optim.max_steps",
    "num_warmup_steps": "optim.warmup_steps",
    "seed": "seed",
    "log_interval": "record.logging_steps",
    "evaluation_steps": "record.eval_steps",
    "checkpointing_steps": "record.save_steps",
}
"""Options whose value is ours under another name."""
CHANGED: dict[str, tuple[str, str]] = {
    "min_lr": ("optim.min_lr", "the cosine ends there; MFTCoder cut the rate off below it"),
    "weight_decay": ("optim.weight_decay", "not applied to biases and norms; MFTCoder applied it to all weights"),
}
"""The same value with another meaning: path, and what is different."""

IGNORED: dict[str, str] = {
    "output_dir": "every run has a folder of its own in the data root",
    "tb_dir": "event files for TensorBoard lie in the run's folder",
    "model_type": "the architecture is read from the model's config.json",
    "load_raw_dataset": "task files are read as they are and their tokens cached",
    "data_weights": "MFTCoder overwrites it with ones; mixing.strategy decides how often a task is seen",
    "shuffle_before_split": "what is held out is always chosen with the seed",
    "use_dynamic_padding": "a batch is never padded further than its longest example",
    "resume_from_checkpoint": "resume a run on its page, or with `python -m engine train --resume RUN`",
    "auto_resume": "a run is resumed when somebody asks for it",
    "epoch_checkpointing": "checkpoints come every record.save_steps, and after the last step",
    "init_timeout_seconds": "the launcher's own time-outs hold",
    "save_transformers_model": "every checkpoint can be loaded with transformers and peft",
    "distributed_type": "launch.strategy chooses among DDP, FSDP2 and ZeRO by what fits",
    "micro_batch_size": "per_device_train_batch_size is read",
    **dict.fromkeys(
        ("low_cpu_mem_usage", "use_random_sampler", "use_xformers", "trust_remote_code", "use_slow_tokenizer",
         "chat_template", "dtype", "ignore_bias_buffers", "disable_tqdm"),
        "MFTCoder never reads it",
    ),
    **dict.fromkeys(
        ("tokenizer_type", "make_vocab_size_divisible_by", "model_parallel_size", "world_size", "local_rank",
         "weight_by_num_documents", "vocab_file", "vocab_size", "valid_interval", "num_workers", "padded_vocab_size",
         "total_batch_size", "distributed_backend", "sample_from_what"),
        "left over from older versions, or worked out anew",
    ),
}  # fmt: skip
REFUSED: dict[str, str] = {
    **dict.fromkeys(("xxpo", "beta", "rpo_alpha", "max_prompt_length"), "training on preference pairs is not offered"),
}
HANDLED = frozenset(
    {"data_paths", "task_weights", "data_split", "padding_mode", "tokenize_mode", "role_markers", "weighted_loss_mode",
     "peft_type", "quantization", "target_modules", "lr_scheduler_type", "saving_limit", "early_stopping",
     "early_stopping_stall_num", "attn_implementation", "pretrained_model_path", "coba_warmup_steps",
     "coba_history_length", "coba_tau", "coba_update_interval", "coba_sample_valid_num"}
)  # fmt: skip
LOSS_MODES: dict[str, tuple[str, str]] = {
    "case1": ("token_mean", "static"),
    "case2": ("sample_mean", "static"),
    "case3": ("task_mean", "static"),
    "case4": ("task_sample_mean", "static"),
    "coba": ("task_mean", "coba"),
    "selfpaced": ("task_mean", "self_paced"),
    "self-paced": ("task_mean", "self_paced"),
}
Kind = Literal["mapped", "changed", "ignored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of one option."""

    option: str
    kind: Kind
    text: str


class _Import:
    """Values and notes that grow while the options are gone through."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.given = config
        self.config = {**DEFAULTS, **config}
        self.values: dict[str, Any] = {"schema_version": 1}
        self.notes: list[Note] = []
        self.problems: list[Problem] = []

    def put(self, path: str, value: Any) -> None:
        """Set a value of the recipe by its dotted path."""
        *sections, name = path.split(".")
        place = self.values
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value

    def note(self, option: str, kind: Kind, text: str) -> None:
        """Tell what became of an option."""
        self.notes.append(Note(option=option, kind=kind, text=text))

    def refuse(self, option: str, why: str, fix: str) -> None:
        """Tell why an option cannot be taken over."""
        self.problems.append(Problem(problem=f"`{option}`: {why}.", fix=fix, field=option))


def import_mftcoder(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """Return the values of a recipe and what became of every option of the configuration.

    Raises:
        UserError: With everything that cannot be taken over.
    """
    work = _Import(config)
    _names(work)
    _tasks(work)
    _method(work)
    _data(work)
    _loss(work)
    _plain(work)
    _record(work)
    if work.problems:
        raise UserError.of(work.problems)
    return work.values, tuple(work.notes)


def _names(work: _Import) -> None:
    known = {*SAME, *CHANGED, *IGNORED, *REFUSED, *HANDLED}
    for option in work.given:
        if option in IGNORED:
            work.note(option, "ignored", IGNORED[option])
        elif option in REFUSED and work.given[option] not in (None, ""):
            work.refuse(option, REFUSED[option], "train the SFT part here and remove it from the file.")
        elif option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            fix = f"is it {near[0]}? Correct it or remove it." if near else "remove it from the file."
            work.refuse(option, "it is no option of MFTCoder that is known here", fix)


def _tasks(work: _Import) -> None:
    paths, weights = _listed(work.config.get("data_paths")), _listed(work.config["task_weights"])
    if not paths:
        work.refuse("data_paths", "no task is named", 'give the folders of the tasks: "[data/a,data/b]"')
        return
    if weights and len(weights) != len(paths):
        work.refuse("task_weights", f"{len(weights)} weights for {len(paths)} tasks", "give one per task, in order.")
        return
    tasks: list[dict[str, Any]] = []
    for index, path in enumerate(paths):
        stem = PurePosixPath(path.rstrip("/")).name
        name = slug(stem.removesuffix(".jsonl"), fallback=f"task-{index}", any_script=True)
        while any(task["name"] == name for task in tasks):
            name = f"{name[:60]}-{index}"
        tasks.append({"name": name, "path": path, **({"weight": weights[index]} if weights else {})})
    work.values["tasks"] = tasks
    work.note("data_paths", "mapped", f"tasks: {', '.join(task['name'] for task in tasks)}")
    if weights:
        work.note("task_weights", "changed", "exact over the whole optimizer step, also for a task absent from a batch")


def _method(work: _Import) -> None:
    model, peft, bits = (work.config.get(key) for key in ("pretrained_model_path", "peft_type", "quantization"))
    if not model:
        work.refuse("pretrained_model_path", "no model is named", "give the hub id or folder of the base model.")
    work.put("model_name_or_path", model)
    work.put("model.gradient_checkpointing", True)
    if peft not in ("lora", "qlora", None, "", "full"):
        work.refuse("peft_type", f"{peft!r} is not offered", "choose lora, qlora, or null for full fine-tuning.")
        return
    if bits not in (None, "", "4bit"):
        work.refuse("quantization", f"{bits!r} is not offered", "choose 4bit or null.")
        return
    method = "full" if peft in (None, "", "full") else "qlora" if peft == "qlora" or bits else "lora"
    work.put("method", method)
    work.note("peft_type", "mapped", f"method: {method}")
    if method != "full":
        work.put("lora.target_modules", work.config["target_modules"] or "all-linear")
        work.note("peft_type", "changed", "biases stay as they are; MFTCoder trained those of the adapted layers")
    attention = work.config["attn_implementation"]
    work.put("model.attn_implementation", attention if attention in ("sdpa", "eager") else "auto")
    if attention not in ("sdpa", "eager", "auto"):
        work.note(
            "attn_implementation", "changed", "auto: set flash_attention_2 yourself where flash-attn is installed"
        )


def _data(work: _Import) -> None:
    config = work.config
    work.put("data.chat_template", "mftcoder")
    if config["role_markers"]:
        work.refuse("role_markers", "own markers are given as a Jinja template here",
                    "write one, name it in data.chat_template of the recipe, and remove this option.")  # fmt: skip
    if config["tokenize_mode"] != "sft":
        work.refuse("tokenize_mode", f"{config['tokenize_mode']!r} learns whole texts",
                    'give records of the form {"text": "..."}, learned whole, and set it to sft.')  # fmt: skip
    packing = {"padding": "padding", "pack": "bfd", "concat": "bfd"}.get(str(config["padding_mode"]))
    if packing is None:
        work.refuse("padding_mode", f"{config['padding_mode']!r} is unknown", "choose padding, pack or concat.")
    work.put("data.packing", packing)
    if packing == "bfd":
        work.note("padding_mode", "changed", "packs hold one task, nothing is lost, and examples do not see each other")
    cut = config["padding_mode"] == "concat"
    work.put("data.truncation", "split" if cut else "drop")
    text = "examples that are too long are split" if cut else "examples that are too long are left out, and counted"
    work.note("seq_length", "changed", text)
    try:
        shares = [float(part) for part in str(config["data_split"]).replace("/", ",").split(",")]
        whole = 1.0 if sum(shares) <= 1.001 else 100.0
        held = round(1 - shares[0] / whole, 6)
    except ValueError:
        held = -1.0
    if not 0 <= held < 1:
        work.refuse("data_split", f"{config['data_split']!r} is no split", 'give percentages: "98,2,0"')
    work.put("data.eval_split", held)
    work.note("data_split", "changed", "held out per task, the same examples on any number of GPUs")
    work.put("data.max_eval_samples", None)


def _loss(work: _Import) -> None:
    mode = str(work.config["weighted_loss_mode"])
    if mode not in LOSS_MODES:
        work.refuse("weighted_loss_mode", f"{mode!r} is unknown", f"choose one of {', '.join(LOSS_MODES)}.")
        return
    reduction, weighting = LOSS_MODES[mode]
    work.put("loss.reduction", reduction)
    work.put("weighting.method", weighting)
    text = f"loss.reduction {reduction}, over the whole optimizer step and all GPUs instead of each micro-batch"
    work.note("weighted_loss_mode", "changed", text)
    if weighting != "coba":
        return
    work.put("weighting.variant", "mftcoder")
    names = {"coba_warmup_steps": "warmup_steps", "coba_history_length": "history_length", "coba_tau": "tau",
             "coba_update_interval": "update_interval", "coba_sample_valid_num": "validation_examples"}  # fmt: skip
    for option, name in names.items():
        work.put(f"weighting.{name}", work.config[option])
    work.note("coba_sample_valid_num", "changed", "examples per task, always the same; MFTCoder drew batches")


def _plain(work: _Import) -> None:
    full = work.values.get("method") == "full"
    for option, path in SAME.items():
        if option in work.config and not (full and path.startswith("lora.")):
            work.put(path, work.config[option])
            if option in work.given and option != "seq_length":
                work.note(option, "mapped", path)
    for option, (path, text) in CHANGED.items():
        work.put(path, work.config[option])
        work.note(option, "changed", text)
    if work.config["lr_scheduler_type"] != "cosine":
        work.refuse("lr_scheduler_type", f"{work.config['lr_scheduler_type']!r} is not offered", "choose cosine.")
    text = "the schedule is in optimizer steps; MFTCoder's is stretched by the accumulation and the number of GPUs"
    work.note("lr_scheduler_type", "changed", text)


def _record(work: _Import) -> None:
    config = work.config
    patience = config["early_stopping_stall_num"] if config["early_stopping"] else None
    work.put("record.early_stopping_patience", patience)
    if patience:
        text = f"ends after {patience} evaluations without a better mean of the tasks; the best is kept"
        work.note("early_stopping", "changed", text)
    if config["saving_limit"]:
        work.put("record.save_total_limit", config["saving_limit"])
        work.note("saving_limit", "mapped", "record.save_total_limit; the best checkpoint is kept besides")
    else:
        work.note("saving_limit", "changed", "the newest 3 and the best are kept; MFTCoder kept all")


def _listed(value: Any) -> list[str]:
    """Return the parts of "[a,b]", of a list, or of one name."""
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [str(part).strip() for part in value]
    return [part.strip().strip("'\"") for part in str(value).strip().strip("[]").split(",") if part.strip()]
