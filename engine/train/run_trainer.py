"""`RunTrainer`: the multi-task trainer with the run directory's checkpoint protocol, and its arguments."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from peft.optimizers import create_loraplus_optimizer
from transformers import TrainingArguments

from engine.contract.best import best_and_stall, evaluations
from engine.contract.files import replace_json
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir
from engine.contract.strategy import Strategy
from engine.train.checkpoint import finish_checkpoint, prune
from engine.train.record import RunRecord
from engine.train.sharding import allow_fsdp_on_cpu, sharding_arguments
from engine.train.trainer import MultiTaskTrainer

WEIGHTING_FILE = "weighting.json"
"""State of the task weighting, beside the weights in a checkpoint."""


class RunTrainer(MultiTaskTrainer):
    """Saves into `checkpoints/step-NNNNNN`, complete or not at all.

    Args:
        run: The run directory.
        loraplus_lr_ratio: How many times faster the adapter's B matrices learn than A; None = the same.
        record: Told of every checkpoint.
        save_total_limit: Newest checkpoints to keep, besides the best.
        arguments: Those of `MultiTaskTrainer`.
    """

    def __init__(
        self,
        *,
        run: RunDir,
        record: RunRecord,
        save_total_limit: int,
        loraplus_lr_ratio: float | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.run, self.record, self.keep = run, record, save_total_limit
        self.loraplus_lr_ratio = loraplus_lr_ratio

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimizer; with LoRA+ the adapter's B matrices are in a group of their own."""
        if self.loraplus_lr_ratio is None or self.optimizer is not None:
            return super().create_optimizer(model)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        decay = {"loraplus_weight_decay": self.args.weight_decay}
        ratio = self.loraplus_lr_ratio
        adapted = self.model if model is None else model
        self.optimizer = create_loraplus_optimizer(adapted, kind, loraplus_lr_ratio=ratio, **options, **decay)
        return self.optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Let the Trainer write everything into a temporary folder, then make it a checkpoint by rename."""
        step = self.state.global_step
        phase = self.record.status.phase
        self.record.update(phase="saving a checkpoint")
        temporary = self.run.checkpoints / f".tmp-step-{step:06d}"
        self.args.output_dir = str(temporary)
        try:
            super()._save_checkpoint(model, trial)
            if self.args.world_size > 1:
                dist.barrier()
            if self.record.rank == 0:
                self._finish(temporary / f"checkpoint-{step}", step)
        finally:  # also on a full disk, where it would only take the room of others
            if self.record.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
        if self.args.world_size > 1:
            dist.barrier()
        self.record.update(phase=phase)

    def _finish(self, written: Path, step: int) -> None:
        """Make a checkpoint of what was written, and delete those that are not to be kept."""
        if (state := self.balance_state()) is not None:
            replace_json(written / WEIGHTING_FILE, state)
        finished = finish_checkpoint(written, self.run, step=step)
        prune(self.run, keep=self.keep, best=self._best_saved())
        self.record.event("save", f"Saved {finished.name}.", step=step, checkpoint=finished.name)

    def _best_saved(self) -> int:
        """Return the step of the best evaluation that has a checkpoint, 0 if there is none."""
        saved = {int(path.name[5:]) for path in self.run.checkpoint_dirs()}
        metric = self.run.recipe().record.metric_for_best_model
        values = evaluations(self.state.log_history, metric)
        return best_and_stall((step, value) for step, value in values if step in saved)[0]


def training_arguments(recipe: Recipe, run: RunDir, *, device: str, strategy: Strategy) -> TrainingArguments:
    """Return the Trainer's arguments for a recipe, `max_steps` still to be set by the mixture.

    Logging, evaluation and saving are decided by our callback.
    """
    optim, full = recipe.optim, recipe.method == "full"
    bf16 = full and recipe.model.dtype in ("auto", "bfloat16") and _native_bf16(device)
    arguments: dict[str, Any] = {
        "output_dir": str(Path(run.checkpoints) / ".tmp-unused"),
        "seed": recipe.seed,
        "data_seed": recipe.order_seed,
        "learning_rate": optim.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        # as a share: DeepSpeed's optimizer does not tell the schedule its learning rate
        "lr_scheduler_kwargs": {"min_lr_rate": optim.min_lr / optim.learning_rate},
        "warmup_steps": optim.warmup_steps,
        "per_device_train_batch_size": optim.per_device_train_batch_size,
        "gradient_accumulation_steps": optim.gradient_accumulation_steps,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        # FSDP2 does it itself, outside of its own wrapping
        "activation_checkpointing": recipe.model.gradient_checkpointing and strategy.name != "fsdp2",
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": bf16,
        "use_cpu": device == "cpu",
        "optim": "adamw_torch_fused" if device == "cuda" and optim.optimizer == "adamw_torch" else optim.optimizer,
        "adam_beta1": optim.adam_beta1,
        "adam_beta2": optim.adam_beta2,
        "logging_strategy": "no",
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": device == "cuda",
        "average_tokens_across_devices": False,
    }
    made = TrainingArguments(**arguments, **sharding_arguments(strategy, recipe))
    if strategy.name == "fsdp2" and device == "cpu":
        allow_fsdp_on_cpu()
    return made


def _native_bf16(device: str) -> bool:
    import torch

    from engine.launch.devices import inventory

    return bool(torch.cuda.is_bf16_supported()) if device == "cuda" else inventory().cpu_bf16
