"""Invariants 1 and 3 of the training step: the loss does not depend on how a batch is cut, and equals a plain loop."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments

from engine.data.collate import MixtureDataset, MixtureSampler
from engine.data.mixture import MixTask, Mixture, plan_mixture
from engine.data.prepare import Task
from engine.data.tokenize import IGNORE, Encoded
from engine.train.trainer import MultiTaskTrainer
from tests.tiny_model import tiny_llama


def example(length: int, prompt: int, seed: int) -> Encoded:
    """Return random tokens, the first `prompt` of them without loss."""
    ids = torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Encoded(ids, [IGNORE] * prompt + ids[prompt:])


def three_tasks() -> list[Task]:
    """Return tasks of unequal size, length and weight: 16 examples in all."""
    sizes = {"long": (4, 31, 7, 0.5), "short": (9, 9, 5, 3.0), "rare": (3, 17, 2, 0.2)}
    return [
        Task(name, weight, [[example(length + i, prompt, 100 * k + i)] for i in range(count)], [])
        for k, (name, (count, length, prompt, weight)) in enumerate(sizes.items())
    ]


class Norms(TrainerCallback):
    """Keeps loss and gradient norm of every step."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []
        self.trainer: MultiTaskTrainer | None = None

    def on_step_end(self, args, state, control, **_):
        sums = self.trainer.take_sums()
        self.rows.append((sums["objective"], float(self.trainer.last_grad_norm)))


def train(folder: Path, tasks: list[Task], *, batch: int, accumulate: int, steps: int = 3, reduction="task_mean"):
    """Train the tiny model and return (loss, gradient norm) per step and the final weights."""
    model = tiny_llama()
    norms = Norms()
    trainer = MultiTaskTrainer(
        tasks=tasks,
        reduction=reduction,
        mixture=mixture_of(tasks, rows_per_step=batch * accumulate, steps=steps),
        eval_batch_size=4,
        model=model,
        train_dataset=MixtureDataset(tasks),
        callbacks=[norms],
        args=plain_arguments(folder, batch=batch, accumulate=accumulate, steps=steps),
    )
    norms.trainer = trainer
    trainer.train()
    return norms.rows, model


def mixture_of(tasks: list[Task], *, rows_per_step: int, steps: int) -> Mixture:
    known = [MixTask(name=task.name, num_rows=len(task.train)) for task in tasks]
    return plan_mixture(known, max_steps=steps, rows_per_step=rows_per_step, seed=5)


def plain_arguments(folder: Path, *, batch: int, accumulate: int, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        use_cpu=True,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=5,
    )


@pytest.mark.parametrize("reduction", ["task_mean", "token_mean", "sample_mean", "task_sample_mean"])
def test_loss_and_gradient_do_not_depend_on_how_the_batch_is_cut(tmp_path, reduction):
    """Micro-batch 8 x 1 = 4 x 2 = 1 x 8, with unequal tasks, lengths and weights."""
    whole, _ = train(tmp_path, three_tasks(), batch=8, accumulate=1, reduction=reduction)
    for batch, accumulate in ((4, 2), (1, 8)):
        cut, _ = train(tmp_path, three_tasks(), batch=batch, accumulate=accumulate, reduction=reduction)
        torch.testing.assert_close(torch.tensor(cut), torch.tensor(whole), rtol=2e-6, atol=1e-6)


def test_the_trainer_agrees_with_a_plain_loop_over_unpacked_examples(tmp_path):
    """Weighted tasks, no Trainer, one example per forward pass, AdamW by hand: losses of every step are equal."""
    tasks = three_tasks()
    rows, trained = train(tmp_path, tasks, batch=5, accumulate=2, steps=4)  # 10 of 16 examples: steps span epochs
    losses, model = plain_loop(tasks, global_batch=10, steps=4)
    torch.testing.assert_close(torch.tensor([loss for loss, _ in rows]), torch.tensor(losses), rtol=2e-6, atol=1e-6)
    for ours, plain in zip(trained.parameters(), model.parameters()):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=2e-4)  # AdamW magnifies rounding of tiny gradients


def plain_loop(tasks: list[Task], *, global_batch: int, steps: int) -> tuple[list[float], torch.nn.Module]:
    """The oracle: mean nll per task, weighted over the tasks that are present."""
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    dataset, losses = MixtureDataset(tasks), []
    stream = list(MixtureSampler(mixture_of(tasks, rows_per_step=global_batch, steps=steps)))
    for step in range(steps):
        nll: dict[int, list[torch.Tensor]] = {}
        for task, (item,) in (dataset[i] for i in stream[step * global_batch : (step + 1) * global_batch]):
            logits = model(torch.tensor([item.input_ids])).logits[0, :-1]
            labels = torch.tensor(item.labels[1:])
            nll.setdefault(task, []).append(
                functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")[labels != IGNORE]
            )
        total = sum(tasks[task].weight for task in nll)
        loss = sum(tasks[task].weight * torch.cat(parts).mean() for task, parts in nll.items()) / total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def test_one_task_of_weight_one_is_the_stock_trainer(tmp_path):
    """With a single task the loss is transformers' own token mean over the optimizer step."""
    task = Task("only", 1.0, [[example(20, 6, i)] for i in range(12)], [])
    rows, _ = train(tmp_path, [task], batch=3, accumulate=2, steps=2)

    items = [
        {"input_ids": torch.tensor(e.input_ids), "labels": torch.tensor(e.labels), "attention_mask": torch.ones(20)}
        for (e,) in copy.deepcopy(task.train)
    ]

    class Stock(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return MixtureSampler(mixture_of([task], rows_per_step=6, steps=2))

    stock = Stock(
        model=tiny_llama(), args=plain_arguments(tmp_path, batch=3, accumulate=2, steps=2), train_dataset=items
    )
    result = stock.train()
    assert result.training_loss == pytest.approx(sum(loss for loss, _ in rows) / 2, rel=2e-6)


@pytest.mark.parametrize("reduction", ["task_mean", "task_sample_mean"])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_task_with_two_percent_of_the_data_has_its_whole_share_of_the_loss(tmp_path, batch, reduction):
    """Five tasks of equal weight: 20 % each over an epoch, at any micro-batch. MFTCoder's rule gives 2 to 6 %."""
    sizes = {"rare": 4, "a": 49, "b": 49, "c": 49, "d": 49}
    tasks = [
        Task(name, 1.0, [[example(9 + (i + k) % 5, 4, 100 * k + i)] for i in range(count)], [])
        for k, (name, count) in enumerate(sizes.items())
    ]
    mixture = plan_mixture(
        [MixTask(name=name, num_rows=count) for name, count in sizes.items()], rows_per_step=8, max_steps=25, seed=5
    )
    expected = [
        [sum(row.num_supervised for unit in task.train for row in unit) / 25 for task in tasks],
        [count / 25 for count in sizes.values()],
    ]
    trainer = MultiTaskTrainer(
        tasks=tasks, mixture=mixture, reduction=reduction, eval_batch_size=4, model=tiny_llama(), expected=expected,
        train_dataset=MixtureDataset(tasks),
        args=plain_arguments(tmp_path, batch=batch, accumulate=8 // batch, steps=25),
    )  # fmt: skip
    trainer.train()
    share = torch.tensor(trainer.take_sums()["share"])
    torch.testing.assert_close(share / share.sum(), torch.full((5,), 0.2, dtype=share.dtype), rtol=0, atol=0.005)
