"""What happens around the steps: record, evaluate, obey, save.  No loss is computed here.

before the first step   base evaluation (step 0)
after each step         status; a row of metrics; control.json and signals (rank 0); evaluation; checkpoint; stop

All ranks decide from the same numbers, so they decide the same.
"""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engine.contract.best import best_and_stall, evaluations
from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.contract.metrics import task_key
from engine.contract.recipe import RecordSection
from engine.contract.strategy import Strategy
from engine.train.cost import CostWatch, peak_memory
from engine.train.record import RunRecord
from engine.train.samples import Sampler
from engine.train.sharding import check_wrapping
from engine.train.trainer import CONTINUE, SAVE, STOP, MultiTaskTrainer
from engine.train.usage import UsageWatch
from engine.train.watch import LossWatch, convergence

FIRST_STEPS = 20
"""Steps at the start that are all logged, so that a curve appears within seconds."""


class RunCallback(TrainerCallback):
    """Records the run and carries out what people ask of it.

    Args:
        record: The pen of this attempt.
        schedule: When to log, evaluate and save.
        strategy: How the processes are to share the model.
    """

    def __init__(self, record: RunRecord, schedule: RecordSection, strategy: Strategy) -> None:
        self.record, self.schedule, self.strategy = record, schedule, strategy
        self.trainer: MultiTaskTrainer | None = None
        """Set after construction: the trainer takes its callbacks as arguments."""
        self.signalled = False
        """Whether SIGTERM came: the run is to end with a checkpoint."""
        self.ended_early = False
        """Whether the run ended because its evaluations no longer improved."""
        self._logged_step = 0
        self._logged_at = 0.0
        self._watch = LossWatch()
        self.usage = UsageWatch()
        """How busy the machine is, from the start of the training until who trains closes it."""
        self._learning_rate = 0.0
        self.cost: CostWatch | None = None
        """Set after construction too; None if the model's sizes are not known."""
        self.sampler: Sampler | None = None
        """Set after construction too; None if the run has no samples, and on ranks that have no part in them."""

    # ---- the Trainer's hooks ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        check_wrapping(self._trainer.model_wrapped, self.strategy)
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
        if self.record.rank == 0:
            self.usage.start()
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
        self._trainer.end_step()
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
        is_best = self._evaluate(state) if step % self.schedule.eval_steps == 0 or last else False
        if self._has_stalled(state):
            control.should_training_stop = self.ended_early = True
        ends = last or control.should_training_stop
        wanted = ends or request == SAVE or step % self.schedule.save_steps == 0
        control.should_save = (wanted or (is_best and self.schedule.save_best)) and self._is_sound(step)
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
            **({"train/aux_loss": sums["aux"] / steps} if trainer.router_aux_loss_coef > 0 else {}),
            "optim/learning_rate": self._learning_rate,
            "perf/step_time_s": elapsed / steps,
            "perf/tokens_per_second": sums["tokens"] / elapsed,
            "perf/memory_bytes": peak_memory(),
            **self.usage.take(),
        }
        if trainer.last_grad_norm is not None:
            row["optim/grad_norm"] = float(trainer.last_grad_norm)
        columns = (sums[name] for name in ("nll", "probability", "num_tokens", "share", "num_rows"))
        for task, nll, probability, count, share, rows in zip(trainer.tasks, *columns, strict=True):
            if count:  # an absent task has no point: 0 would be a lie
                row[task_key(task.name, "loss")] = nll / count
                row[task_key(task.name, "mean_token_probability")] = probability / count
                row[task_key(task.name, "num_tokens")] = int(count)
            row[task_key(task.name, "weight")] = share / steps
            row[task_key(task.name, "num_rows")] = int(rows)
        if trainer.weighting.is_active:
            for task, factor in zip(trainer.tasks, trainer.weighting.factors, strict=True):
                row[task_key(task.name, "factor")] = float(factor)
        self.record.metrics(row)
        if self.cost is not None:
            peak = int(row["perf/memory_bytes"])
            cost = self.cost.measured(peak_bytes=peak, tokens=float(sums["tokens"]), seconds=elapsed)
            self.record.update(force=False, cost=cost)
        self._logged_step, self._logged_at = state.global_step, now
        self._look_for_trouble(row)

    def _look_for_trouble(self, row: dict[str, Any]) -> None:
        """Tell spikes; end the run if a loss is not a number any more.

        Raises:
            UserError: Naming the tasks.
        """
        losses = {task.name: row.get(task_key(task.name, "loss")) for task in self._trainer.tasks}
        known = {name: loss for name, loss in losses.items() if loss is not None}
        for name in self._watch.spikes(known):
            text = (
                f"The loss of {name} jumped to {known[name]:.3g}. If it stays there, stop the run and resume it from "
            )
            text += "a checkpoint before this step, or begin anew with a lower learning rate."
            self.record.event("spike", text, step=row["step"], task=name)
        broken = [name for name, loss in known.items() if not math.isfinite(loss)]
        norm = row.get("optim/grad_norm", 0.0)
        if not self.schedule.stop_on_nan or not (broken or not math.isfinite(norm)):
            return
        what = f"The loss of {', '.join(broken)}" if broken else "The gradient"
        saved = self.record.run.checkpoint_dirs()
        back = f"resume from {saved[-1].name}, or begin anew, " if saved else "begin anew "
        fix = back + "with a lower learning rate; also look at the task's longest examples."
        problem = f"{what} is not a number at step {row['step']}."
        raise UserError(problem, fix=fix, field="optim.learning_rate", kind="not_a_number")

    def _is_sound(self, step: int) -> bool:
        """Whether the weights may be saved: one gradient that is not a number makes all later ones so, too."""
        norm = self._trainer.last_grad_norm
        if norm is None or math.isfinite(float(norm)):
            return True
        self.record.event("problem", f"Step {step} is not saved: its gradient is not a number.", step=step)
        return False

    def _has_stalled(self, state: TrainerState) -> bool:
        """Whether the evaluations have not improved for as long as the recipe waits."""
        patience, metric = self.schedule.early_stopping_patience, self.schedule.metric_for_best_model
        if patience is None or not state.log_history or state.log_history[-1]["step"] != state.global_step:
            return False
        values = evaluations(state.log_history, metric)
        best, stall = best_and_stall(values, self.schedule.early_stopping_threshold)
        if stall < patience:
            return False
        what = "mean evaluation loss" if metric == "mean" else f"evaluation loss of {metric}"
        text = f"Ended early: the {what} has not improved for {stall} evaluations; the best was at step {best}."
        self.record.event("early_stop", text, step=state.global_step, best=best)
        return True

    def _evaluate(self, state: TrainerState) -> bool:
        """Measure all tasks on held-out examples and write the row; return whether it is the best so far."""
        before = time.monotonic()
        self.record.update(phase="evaluating")
        nll, counts = self._trainer.evaluate_tasks()
        losses = {
            task.name: total / count
            for task, total, count in zip(self._trainer.tasks, nll, counts, strict=True)
            if count
        }
        is_best = False
        if losses:
            mean = sum(losses.values()) / len(losses)
            row = {task_key(name, "eval_loss"): loss for name, loss in losses.items()}
            # the Trainer's own state is saved with each checkpoint: a resumed run knows the evaluations before it
            state.log_history.append({"step": state.global_step, "eval/loss": mean, **row})
            best, _ = best_and_stall(evaluations(state.log_history, self.schedule.metric_for_best_model))
            is_best = best == state.global_step > 0
            for name in losses:
                row.update(convergence(state.log_history, name))
            self.record.metrics({"step": state.global_step, "eval/loss": mean, **row})
            words = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            took = time.monotonic() - before
            self.record.event("eval", f"Evaluation: {words} ({took:.1f} s).", step=state.global_step)
        if self.sampler is not None:
            self.record.update(phase="answering held-out prompts")
            self.sampler.take(state.global_step)
        self.record.update(phase="training")
        self._logged_at += time.monotonic() - before  # evaluation is not training time
        return is_best
