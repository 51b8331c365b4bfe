"""The process that trains: recipe -> tokenizer, tasks, model -> Trainer -> checkpoints.

Started by accelerate, once per rank, with the run directory as its only input.  The one place where exceptions become
sentences for people: `errors/rank-N.json` and a failed status.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from engine.contract.best import best_checkpoint
from engine.contract.errors import Problem, UserError
from engine.contract.files import read_json, replace_json
from engine.contract.memory import gigabytes, range_text
from engine.contract.metrics import task_key
from engine.contract.model_facts import read_config
from engine.contract.models import commit_of, pinned_revision
from engine.contract.places import data_root, require_free
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir
from engine.contract.strategy import Strategy, choose_strategy
from engine.launch.command import resolve_device
from engine.launch.devices import inventory
from engine.launch.processes import be_killed_first, die_with_parent
from engine.train.record import RunRecord, own_process
from engine.train.sinks import open_sinks

logger = logging.getLogger("engine.train")
LOST_EACH_OTHER = ("DistBackendError", "DistNetworkError", "DistStoreError")
"""Errors of torch.distributed about other ranks."""


def main() -> int:
    """Entry point of one rank; returns the exit status."""
    die_with_parent(signal.SIGTERM)
    be_killed_first()
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--resume-from", default="")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run, rank = RunDir(arguments.run), int(os.environ.get("RANK", "0"))
    attempt = run.last_attempt()
    record = RunRecord(run, attempt=attempt.number if attempt else 0, rank=rank)
    record.update(ranks=(own_process(),))
    try:
        train(run, record, resume_from=_where_from(run, arguments.resume_from))
    except UserError as error:
        logger.error("%s", error)
        record.error(error.problems[0], error)
        return 1
    except (Exception, KeyboardInterrupt) as error:  # the engine's entry point: the last chance to say why
        logger.exception("the run failed")
        record.error(_explain(error), error)
        return 1
    return 0


def _where_from(run: RunDir, wanted: str) -> str:
    """Return the checkpoint to go on from: the newest if a launcher has started this rank in place of a dead one."""
    anew = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return "latest" if anew and run.checkpoint_dirs() else wanted


def leave(status: int) -> NoReturn:
    """End the process at once, everything being written.

    An orderly shutdown destroys the threads of gloo, NCCL and DeepSpeed in any order: now and then one is still running
    and a finished process aborts.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def train(run: RunDir, record: RunRecord, *, resume_from: str = "") -> None:
    """Do one attempt of a run.

    Args:
        run: With its frozen recipe.
        record: The pen of this attempt.
        resume_from: Name of a checkpoint, or "latest"; empty = from the start.

    Raises:
        UserError: If the user can mend what is wrong.
    """
    recipe = run.recipe()
    record.phase("loading the libraries", stage="libraries")
    from engine.train import checkpoint

    tell = _teller(record)
    resumed = checkpoint.choose_checkpoint(run, resume_from, tell) if resume_from else None
    if record.rank == 0:
        checkpoint.sweep(run)
        record.sinks = open_sinks(run, recipe, tell)
    trainer, callback = build_trainer(run, recipe, record, resumed=resumed is not None)
    signal.signal(signal.SIGTERM, lambda *_: setattr(callback, "signalled", True))
    if resumed:
        _restore_balance(trainer, resumed)
        record.event("resume", f"Resumed from {resumed.name}.", step=int(resumed.name[5:]), checkpoint=resumed.name)
    record.phase("measuring the base model" if not resumed else "loading the checkpoint", stage="base")
    try:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    finally:
        callback.usage.close()
    _tell_realised(record, trainer)
    stopped = trainer.state.global_step < trainer.state.max_steps and not callback.ended_early
    text = f"Stopped at step {trainer.state.global_step}." if stopped else "Finished."
    if (best := best_checkpoint(run)) is not None:
        text += f" The best checkpoint is {best.name}."
    record.event("end", text, step=trainer.state.global_step)
    end = "stopped" if stopped else "finished"
    if (cost := callback.cost) is not None and cost.cost.peak_bytes:
        expected = range_text(cost.cost.shown_low_bytes, cost.cost.shown_high_bytes)
        record.event("estimate", f"Memory: {expected} expected, {gigabytes(cost.cost.peak_bytes)} measured.")
    record.sinks.close()
    record.update(state=end, phase=end, step=trainer.state.global_step)


def _restore_balance(trainer: Any, checkpoint: Path) -> None:
    """Give what changes the tasks' balance the state it had at the checkpoint.

    Raises:
        UserError: If the checkpoint has none that fits.
    """
    from engine.train.run_trainer import WEIGHTING_FILE

    try:
        trainer.load_balance_state(read_json(checkpoint / WEIGHTING_FILE) or {})
    except (ValueError, KeyError, TypeError):
        problem = f"{checkpoint.name} holds no state of the task weights of this recipe."
        raise UserError(problem, fix="start a new run; its weights would begin anew.", field="weighting") from None


def build_trainer(run: RunDir, recipe: Recipe, record: RunRecord, *, resumed: bool = False) -> tuple[Any, Any]:
    """Build everything a run needs, telling each decision; returns the trainer and its callback.

    Args:
        run: The run directory.
        recipe: Its recipe.
        record: The pen of this attempt.
        resumed: Whether a checkpoint's weights will be loaded: then those of `continue_from` are not needed.
    """
    from transformers import set_seed

    from engine.model.build import build_model
    from engine.model.sources import resolve_model
    from engine.model.tokenizer import load_tokenizer
    from engine.train.run_trainer import training_arguments
    from engine.train.samples import build_sampler

    tell, device = _teller(record), resolve_device(recipe)
    record.phase("looking for the model", stage="model")
    folder = resolve_model(
        recipe.model_name_or_path,
        revision=pinned_revision(run),
        root=data_root(),
        progress=lambda text, share: record.phase(text, stage="model", share=share),
    )
    commit = commit_of(folder)
    of_commit = f", commit {commit[:12]}" if commit else ""
    record.event("model", f"Model: {recipe.model_name_or_path}{of_commit}.", **({"revision": commit} if commit else {}))
    tokenizer = load_tokenizer(folder, tell, chat_template=recipe.data.chat_template)
    prepared, local = _read_data(run, recipe, record, tokenizer)
    record.phase("loading the model", stage="load")
    set_seed(recipe.seed)  # the adapter's random start belongs to the recipe too
    strategy = Strategy.read(read_json(run.strategy_file)) or choose_strategy(recipe, inventory(), None)
    model = build_model(folder, recipe, device=device, tell=tell, resumed=resumed, strategy=strategy)
    _check_disk(run, recipe, model)
    arguments = training_arguments(recipe, run, device=device, strategy=strategy)
    trainer, callback = _assemble(
        run, recipe, record, model=model, tokenizer=tokenizer, prepared=prepared, arguments=arguments, strategy=strategy
    )
    callback.cost = _estimated(recipe, record, folder, prepared, device=device, strategy=strategy)
    callback.sampler = build_sampler(local, record, trainer, strategy, is_urgent=lambda: callback.signalled)
    return trainer, callback


def _estimated(
    recipe: Recipe, record: RunRecord, folder: Path, prepared: Any, *, device: str, strategy: Strategy
) -> Any:
    """Tell the estimate of the memory and return what watches the real one."""
    from engine.train.cost import watch_cost

    config, runs = read_config(folder) or {}, data_root().runs
    watch = watch_cost(recipe, config, prepared.facts, device=device, strategy=strategy, runs=runs)
    if watch is not None:
        text = range_text(watch.cost.shown_low_bytes, watch.cost.shown_high_bytes)
        record.event("estimate", f"Memory: about {text} expected for each process.")
    return watch


def _assemble(
    run: RunDir,
    recipe: Recipe,
    record: RunRecord,
    *,
    model: Any,
    tokenizer: Any,
    prepared: Any,
    arguments: Any,
    strategy: Strategy,
) -> tuple[Any, Any]:
    """Return the trainer over a model and prepared tasks, and its callback."""
    from engine.data.collate import MixtureDataset
    from engine.data.preview import expected_counts, plan
    from engine.model.build import router_coefficient
    from engine.train.callbacks import RunCallback
    from engine.train.focal import Focal
    from engine.train.head import attach_loss_head
    from engine.train.neftune import add_neftune
    from engine.train.run_trainer import RunTrainer
    from engine.train.weighting.schedule import TaskWeighting

    tell = _teller(record)
    head = attach_loss_head(model, tell)
    if recipe.optim.neftune_noise_alpha is not None:
        add_neftune(model, recipe.optim.neftune_noise_alpha)
    callback = RunCallback(record, recipe.record, strategy)
    mixture, dataset = plan(recipe, prepared.facts), MixtureDataset(prepared.tasks)
    arguments.max_steps = mixture.num_steps
    expected = expected_counts(mixture, prepared.facts) if recipe.loss.estimator == "dataset" else None
    trainer = RunTrainer(
        run=run,
        record=record,
        save_total_limit=recipe.record.save_total_limit,
        loraplus_lr_ratio=recipe.lora.loraplus_lr_ratio if recipe.method != "full" else None,
        tasks=prepared.tasks,
        mixture=mixture,
        packing=recipe.data.packing,
        reduction=recipe.loss.reduction,
        expected=expected,
        head=head,
        focal=Focal.of(recipe.loss, len(prepared.tasks), arguments.device),
        router_aux_loss_coef=router_coefficient(model, recipe.loss.router_aux_loss_coef, tell),
        weighting=TaskWeighting(recipe.weighting, [bool(task.heldout) for task in prepared.tasks]),
        eval_batch_size=recipe.record.per_device_eval_batch_size,
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    callback.trainer = trainer
    _check_world(trainer, recipe, record, strategy)
    return trainer, callback


def _read_data(run: RunDir, recipe: Recipe, record: RunRecord, tokenizer: Any) -> tuple[Any, Recipe]:
    """Read, encode and split all tasks, fetching those that lie on a hub, and tell what became of them.

    Returns:
        What was prepared, and the recipe with the paths on this disk.
    """
    from engine.data.codec import Codec
    from engine.data.hub import local_recipe
    from engine.data.prepare import prepare, report_json

    root = data_root().make()
    record.phase("reading and encoding the tasks", stage="data")
    local = local_recipe(recipe, root, lambda text, share: record.phase(text, stage="data", share=share))
    prepared = prepare(
        local,
        Codec.of(tokenizer),
        root.prepared,
        lambda text, share: record.phase(text, stage="data", share=share),
    )
    _tell_data(run, recipe, record, prepared, report_json(recipe, prepared))
    best = recipe.record.metric_for_best_model
    if best != "mean" and not next(task for task in prepared.tasks if task.name == best).heldout:
        problem = f"The best checkpoint is to be told by {best}, which has no held-out examples."
        raise UserError(problem, fix="give it some, or use mean.", field="record.metric_for_best_model")
    return prepared, local


def _tell_data(run: RunDir, recipe: Recipe, record: RunRecord, prepared: Any, report: dict[str, Any]) -> None:
    """Write data/report.json and say in events what became of every task.

    Raises:
        UserError: If the run was begun with other data: the order of its examples would not be the one it has seen.
    """
    before = {task.get("path"): task.get("sha256") for task in (read_json(run.report_file) or {}).get("tasks", ())}
    changed = [
        facts.name
        for facts, source in zip(prepared.facts, prepared.sources, strict=True)
        if before.get(source["path"], source["sha256"]) != source["sha256"]
    ]
    if changed:
        problem = f"The data of {', '.join(changed)} changed since this run was begun."
        raise UserError(
            problem, fix="put the file back, or start a new run with the new data.", field="tasks", kind="data"
        )
    if record.rank == 0:
        replace_json(run.report_file, report)
    for facts, notes, source in zip(prepared.facts, prepared.notes, prepared.sources, strict=True):
        cached = " (from the cache)" if source["from_cache"] else ""
        text = f"Task {facts.name}: {facts.num_rows} to train, {facts.num_heldout} held out{cached}"
        record.event("data", "; ".join([text, *notes]) + ".")
    mix = prepared.preview
    if mix.ended_by_caps:
        text = f"Every task reaches its max_epochs after {mix.steps} steps, so the run ends there."
        record.event("data", text)


def _tell_realised(record: RunRecord, trainer: Any) -> None:
    """Say how many rows of each task the run has seen, beside what was planned for so many steps."""
    rows = {row["step"]: row for row in record.run.metrics()[0] if "train/loss" in row}
    names = [task.name for task in trainer.tasks]
    seen = {name: sum(int(row.get(task_key(name, "num_rows")) or 0) for row in rows.values()) for name in names}
    share = trainer.state.global_step / trainer.state.max_steps
    planned = {name: round(count * share, 1) for name, count in zip(names, trainer.mixture.drawn.tolist(), strict=True)}
    words = ", ".join(f"{name} {count}" for name, count in seen.items())
    record.event("mixture", f"Rows seen: {words}.", realised=seen, planned=planned)


def _check_disk(run: RunDir, recipe: Recipe, model: Any) -> None:
    """Refuse to start a run whose checkpoints will not fit: each holds the trained weights and two AdamW moments."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    require_free(run.path, 3 * weights * (recipe.record.save_total_limit + 1), what="Saving checkpoints")


def _check_world(trainer: Any, recipe: Recipe, record: RunRecord, strategy: Strategy) -> None:
    """Assert that accelerate started what was asked for: it falls back to fewer processes without a word."""
    asked, got = recipe.launch.num_processes, trainer.args.world_size
    if asked != got:
        raise RuntimeError(f"{asked} processes were asked for and {got} were started")
    text = f"Training on {got} process(es), {trainer.global_batch_size} examples per optimizer step."
    record.event("start", text)
    if got > 1:
        record.event("strategy", f"Strategy: {strategy.text} ({strategy.reason}).")


def _teller(record: RunRecord) -> Any:
    def tell(text: str) -> None:
        logger.info(text)
        record.event("model", text)

    return tell


def _explain(error: BaseException) -> Problem:
    """Return a sentence and a way out for an exception that is not a `UserError`."""
    text = str(error)
    if "out of memory" in text.lower() or isinstance(error, MemoryError):
        fix = "halve the batch size and double gradient_accumulation_steps: the loss stays equal."
        field = "optim.per_device_train_batch_size"
        return Problem(problem="Out of memory.", fix=fix, field=field, kind="out_of_memory")
    full = ("No space left", "unexpected pos", "PytorchStreamWriter failed")  # as torch and safetensors put it
    if (isinstance(error, OSError) and error.errno == 28) or any(words in text for words in full):
        return Problem(problem="The disk is full.", fix="free some space, then resume.", kind="disk_full")
    if type(error).__name__ in LOST_EACH_OTHER or "NCCL" in text:
        problem = (
            f"The training processes lost each other: {text.splitlines()[0][:200] if text else type(error).__name__}"
        )
        return Problem(problem=problem, fix="resume from the last checkpoint.", kind="communication")
    if isinstance(error, KeyboardInterrupt):
        return Problem(problem="Interrupted from the keyboard.", fix="resume from the last checkpoint.")
    first = text.splitlines()[0][:300] if text else ""
    return Problem(
        problem=f"{type(error).__name__}: {first}", fix="read the log; this looks like a fault of the program."
    )


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    logger.info("ended with status %d after %.0f s", status, time.monotonic() - started)
    leave(status)
