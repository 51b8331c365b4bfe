"""What happens around the steps: record, evaluate, obey, save.  No loss is computed here.

before the first step   base evaluation (step 0)
after each step         status; a row of metrics; control.json and signals (rank 0); evaluation; checkpoint; stop
"""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engine.contract.files import read_json
from engine.contract.metrics import task_key
from engine.contract.recipe import RecordSection
from engine.train.record import RunRecord
from engine.train.trainer import CONTINUE, SAVE, STOP, MultiTaskTrainer

FIRST_STEPS = 20
"""Steps at the start that are all logged, so that a curve appears within seconds."""


class RunCallback(TrainerCallback):
    """Records the run and carries out what people ask of it.

    Args:
        record: The pen of this attempt.
        schedule: When to log, evaluate and save.
    """

    def __init__(self, record: RunRecord, schedule: RecordSection) -> None:
        self.record, self.schedule = record, schedule
        self.trainer: MultiTaskTrainer | None = None
        """Set after construction: the trainer takes its callbacks as arguments."""
        self.signalled = False
        """Whether SIGTERM came: the run is to end with a checkpoint."""
        self._logged_step = 0
        self._logged_at = 0.0
        self._learning_rate = 0.0
        self._process = psutil.Process()

    # ---- the Trainer's hooks ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._logged_step = state.global_step
        if state.global_step == 0:
            self._evaluate(state)
            self._trainer.measure_weighting(0)
        self.record.update(
            state="running",
            phase="training",
            step=state.global_step,
            total_steps=state.max_steps,
            started_at=time.time(),
            started_step=state.global_step,
        )
        self._logged_at = time.monotonic()
        return control

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._learning_rate = float(self._trainer._get_learning_rate())
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        step, last = state.global_step, state.global_step >= state.max_steps
        self.record.update(force=False, step=step, epoch=self._trainer.epoch)
        if step <= FIRST_STEPS or step % self.schedule.logging_steps == 0 or last:
            self._log(state)
        before = time.monotonic()
        self._trainer.measure_weighting(step)
        self._logged_at += time.monotonic() - before  # not training time, like an evaluation
        self._listen()
        # alone, a request takes effect at once; several ranks agree on it with the counts of the next step
        request = self._trainer.requested if args.world_size > 1 else self._trainer.wanted
        if request == STOP:
            control.should_training_stop = True
        if step % self.schedule.eval_steps == 0 or last:
            self._evaluate(state)
        if step % self.schedule.save_steps == 0 or last or request in (SAVE, STOP):
            control.should_save = True
        if request != CONTINUE:
            self._trainer.wanted = CONTINUE
        return control

    # ---- what they do ----

    @property
    def _trainer(self) -> MultiTaskTrainer:
        assert self.trainer is not None
        return self.trainer

    def _listen(self) -> None:
        """Let rank 0 read what people asked for."""
        if self.record.rank != 0:
            return
        trainer, status = self._trainer, self.record.status
        if self.signalled:
            trainer.wanted = STOP
            return
        control = read_json(self.record.run.control_file) or {}
        request, number = control.get("request"), control.get("id", 0)
        if control.get("attempt") != status.attempt or number <= status.handled_control:
            return
        trainer.wanted = {"save": SAVE, "stop": STOP}.get(str(request), CONTINUE)
        self.record.update(handled_control=number, **({"state": "stopping"} if request == "stop" else {}))
        if request == "stop":
            self.record.event("stop", "Stop was asked for: the run ends after the next step, with a checkpoint.")

    def _log(self, state: TrainerState) -> None:
        """Write the row of metrics of the steps since the last one."""
        trainer, steps = self._trainer, state.global_step - self._logged_step
        sums = trainer.take_sums()
        now = time.monotonic()
        elapsed = max(now - self._logged_at, 1e-9)
        state.num_input_tokens_seen += int(sums["tokens"])  # saved with the checkpoint
        row: dict[str, Any] = {
            "step": state.global_step,
            "epoch": self._trainer.epoch,
            "tokens_seen": state.num_input_tokens_seen,
            "train/loss": sums["objective"] / steps,
            "optim/learning_rate": self._learning_rate,
            "perf/step_time_s": elapsed / steps,
            "perf/tokens_per_second": sums["tokens"] / elapsed,
            "perf/memory_bytes": self._memory_bytes(),
        }
        if trainer.last_grad_norm is not None:
            row["optim/grad_norm"] = float(trainer.last_grad_norm)
        columns = (sums["nll"], sums["num_tokens"], sums["share"], sums["num_rows"])
        for task, nll, count, share, rows in zip(trainer.tasks, *columns, strict=True):
            if count:  # an absent task has no point: 0 would be a lie
                row[task_key(task.name, "loss")] = nll / count
                row[task_key(task.name, "num_tokens")] = int(count)
            row[task_key(task.name, "weight")] = share / steps
            row[task_key(task.name, "num_rows")] = int(rows)
        if trainer.weighting.is_active:
            for task, factor in zip(trainer.tasks, trainer.weighting.factors, strict=True):
                row[task_key(task.name, "factor")] = float(factor)
        self.record.metrics(row)
        self._logged_step, self._logged_at = state.global_step, now

    def _evaluate(self, state: TrainerState) -> None:
        """Measure all tasks on held-out examples and write the row."""
        before = time.monotonic()
        self.record.update(phase="evaluating")
        nll, counts = self._trainer.evaluate_tasks()
        losses = {
            task.name: total / count
            for task, total, count in zip(self._trainer.tasks, nll, counts, strict=True)
            if count
        }
        if losses:
            mean = sum(losses.values()) / len(losses)
            row = {task_key(name, "eval_loss"): loss for name, loss in losses.items()}
            self.record.metrics({"step": state.global_step, "eval/loss": mean, **row})
            words = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            took = time.monotonic() - before
            self.record.event("eval", f"Evaluation: {words} ({took:.1f} s).", step=state.global_step)
        self.record.update(phase="training")
        self._logged_at += time.monotonic() - before  # evaluation is not training time

    def _memory_bytes(self) -> int:
        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_reserved())
        return int(self._process.memory_info().rss)
