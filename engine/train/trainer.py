"""`MultiTaskTrainer`: transformers' Trainer with a multi-task loss that is exact over the optimizer step.

    get_batch_samples   window = all micro-batches of the step; counts = all_reduce(supervised tokens per task + flag)
    compute_loss        coefficients -> head at supervised positions only -> sum of c * nll, times the world size
    evaluate_tasks      per task: sum of nll / sum of tokens over all ranks

The Trainer keeps what users trust it for: sharding, precision, optimizers, schedules.  We own the counts, the loss, the
order of the data and the record.  T = tasks, M = supervised tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import Trainer

from engine.contract.recipe import WeightingSection
from engine.data.collate import Collator, MixtureSampler
from engine.data.mixture import Mixture
from engine.data.prepare import Task
from engine.data.tokenize import Encoded
from engine.train.focal import Focal
from engine.train.head import LossHead, with_value
from engine.train.loss import BY_SAMPLE, Reduction, per_task_sum, token_coefficients, token_nll
from engine.train.weighting.schedule import TaskWeighting

CONTINUE, SAVE, STOP = 0, 1, 2
"""What people ask of a running step; the largest request of all ranks wins."""


class MultiTaskTrainer(Trainer):
    """See the module's header.

    Args:
        tasks: The tasks, in the recipe's order.
        reduction: How tokens are weighted, see `engine.train.loss`.
        expected: Supervised tokens and examples per task that an optimizer step is expected to hold (the estimator
            `dataset`), each of length T; None counts what each step really holds (`global_batch`).
        weighting: Changes the task weights while the run learns; None keeps them.
        focal: Lets what is predicted well count less; None does not.
        router_aux_loss_coef: How much the balance of a mixture-of-experts model counts; 0 = not computed.
        head: Computes the loss inside the model's output head; None takes the logits of the supervised positions.
        mixture: How often each task is seen, and in which order.
        packing: The recipe's `data.packing`: whether batches are padded, and grouped by length.
        eval_batch_size: Examples per forward pass of the evaluation.
        arguments: Those of `transformers.Trainer`; `max_steps` must be set.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[Task],
        mixture: Mixture,
        reduction: Reduction,
        eval_batch_size: int,
        packing: str = "padding_free",
        expected: tuple[Sequence[float], Sequence[float]] | None = None,
        weighting: TaskWeighting | None = None,
        focal: Focal | None = None,
        router_aux_loss_coef: float = 0.0,
        head: LossHead | None = None,
        **arguments: Any,
    ) -> None:
        self.collator = Collator(len(tasks), padded=packing in ("padding", "length_grouped"))
        super().__init__(data_collator=self.collator, **arguments)
        # The loss below is already the share of the whole optimizer step: no division by accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True
        self.tasks, self.reduction = tasks, reduction
        self.mixture, self.packing, self.eval_batch_size = mixture, packing, eval_batch_size
        device = self.args.device
        self.task_weights = torch.tensor([task.weight for task in tasks], dtype=torch.float32, device=device)
        self.weighting = weighting or TaskWeighting(WeightingSection(), [bool(task.heldout) for task in tasks])
        self.focal, self.router_aux_loss_coef = focal, router_aux_loss_coef
        self.head = head
        self.expected = expected and torch.tensor(expected, dtype=torch.float32, device=device)
        self.wanted = CONTINUE
        """What rank 0 was asked for; it tells the other ranks with the counts of the next step."""
        self.requested = CONTINUE
        """What all ranks agreed to do after this step."""
        self.last_grad_norm: Tensor | float | None = None
        self._coefficients = torch.zeros(len(tasks), device=device)
        self._tokens_of_step = torch.ones((), dtype=torch.long, device=device)
        self.reset_sums()

    def reset_sums(self) -> None:
        """Forget what was summed up since the last row of the record."""
        size, device = len(self.tasks), self.args.device
        self._nll = torch.zeros(size, dtype=torch.float64, device=device)
        self._probability = torch.zeros(size, dtype=torch.float64, device=device)
        self._num_supervised = torch.zeros(size, dtype=torch.float64, device=device)
        self._objective = torch.zeros((), dtype=torch.float64, device=device)
        self._aux = torch.zeros((), dtype=torch.float64, device=device)
        self._share = torch.zeros(size, dtype=torch.float64, device=device)
        self._num_rows = torch.zeros(size, dtype=torch.float64, device=device)
        self._window_tokens = torch.zeros((), dtype=torch.long, device=device)

    @property
    def global_batch_size(self) -> int:
        """Rows (examples, or packs) per optimizer step, over all micro-batches and ranks."""
        return self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    @property
    def epoch(self) -> float:
        """Passes over the data so far. (To the Trainer, whose state counts too, the whole stream is one epoch.)"""
        return self.state.global_step * self.global_batch_size / len(self.train_dataset)

    def _get_train_sampler(self, train_dataset: Any = None) -> MixtureSampler:
        if self.mixture.rows_per_step != self.global_batch_size:
            planned, real = self.mixture.rows_per_step, self.global_batch_size
            raise ValueError(f"the mixture was planned for {planned} rows per step, the run has {real}")
        lengths = self.train_dataset.lengths() if self.packing == "length_grouped" else None
        return MixtureSampler(self.mixture, lengths=lengths)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], None]:
        """Collect the micro-batches of one optimizer step and count their supervised tokens over all ranks."""
        window = [batch for _, batch in zip(range(num_batches), epoch_iterator)]
        size = len(self.tasks)
        counts = torch.zeros(3 * size + 3, dtype=torch.long, device=device)
        for batch in window:
            counts[:size] += torch.bincount(batch["target_task"], minlength=size).to(device)
            counts[size] += self._num_tokens(batch)
            counts[size + 3 : 2 * size + 3] += batch["num_rows"].to(device)
            counts[2 * size + 3 :] += batch["num_samples"].to(device)
        # stop and save requests ride along, so that all ranks leave at the same step
        counts[size + SAVE] = int(self.wanted == SAVE)
        counts[size + STOP] = int(self.wanted == STOP)
        self.requested = self.wanted
        if self.args.world_size > 1:
            dist.all_reduce(counts)
            self.requested = STOP if counts[size + STOP] > 0 else SAVE if counts[size + SAVE] > 0 else CONTINUE
        num_tokens, num_samples = counts[:size], counts[2 * size + 3 :]
        tokens, samples = (num_tokens, num_samples) if self.expected is None else self.expected
        weights = self.task_weights
        if self.weighting.is_active:
            weights = weights * torch.tensor(self.weighting.factors, dtype=weights.dtype, device=device)
        self._coefficients = token_coefficients(tokens, samples, weights, reduction=self.reduction)
        if self.focal is not None and not self.reduction.startswith("task_"):
            self._coefficients = self._coefficients * weights  # the paper's alpha
        self._share += (self._coefficients * (num_samples if self.reduction in BY_SAMPLE else num_tokens)).double()
        self._num_rows += counts[size + 3 : 2 * size + 3].double()
        self._tokens_of_step = counts[size]
        self._window_tokens += counts[size]
        return window, None

    def _num_tokens(self, batch: dict[str, Tensor]) -> Tensor | int:
        """Return the tokens of a micro-batch, prompts included, padding not."""
        return batch["attention_mask"].sum() if self.collator.padded else batch["input_ids"].numel()

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return this micro-batch's part of the step's loss, nats per supervised token, times the world size.

        DDP, FSDP and DeepSpeed average gradients over ranks; the factor turns that average into the sum.
        """
        task = inputs["target_task"]
        coefficients = self._coefficients[task]
        if self.reduction in BY_SAMPLE:
            coefficients = coefficients / inputs["target_count"]
        router = self.router_aux_loss_coef > 0
        loss, nll, aux = weighted_loss(model, inputs, coefficients, self.head, focal=self.focal, router=router)
        size = len(self.tasks)
        self._nll += per_task_sum(nll, task, size).double()
        self._probability += per_task_sum(torch.exp(-nll), task, size).double()
        self._num_supervised += torch.bincount(task, minlength=size)
        self._objective += loss.detach().double()
        if aux is not None:
            # it is no sum over tokens, but a micro-batch counts by its tokens like everything else
            aux = aux * (self._num_tokens(inputs) / self._tokens_of_step)
            self._aux += aux.detach().double()
            loss = loss + self.router_aux_loss_coef * aux
        return loss * self.args.world_size

    def end_step(self) -> None:
        """Finish what needs all micro-batches of a step; every rank must call it after each."""
        if self.focal is not None and self.focal.level == "task":
            self.focal.ease.end_step(self.args.world_size)

    def balance_state(self) -> dict[str, Any] | None:
        """Return what the next step's balance depends on besides the weights, JSON-ready; None if nothing."""
        state: dict[str, Any] = self.weighting.state_dict() if self.weighting.is_active else {}
        if self.focal is not None and self.focal.level == "task":
            state["focal"] = self.focal.ease.state_dict()
        return state or None

    def load_balance_state(self, state: dict[str, Any]) -> None:
        """Take over what `balance_state` returned.

        Raises:
            ValueError, KeyError, TypeError: If it belongs to another recipe.
        """
        if self.weighting.is_active:
            self.weighting.load_state_dict(state)
        if self.focal is not None and self.focal.level == "task":
            self.focal.ease.load_state_dict(state["focal"])

    def _clip_grad_norm(self, model: Any) -> Any:
        self.last_grad_norm = super()._clip_grad_norm(model)
        return self.last_grad_norm

    def take_sums(self) -> dict[str, list[float] | float]:
        """Return what was summed up since the last call, over all ranks; every rank must call it at the same step.

        Returns:
            `nll`, `probability` and `num_tokens` per task (T,); `objective`, `aux` and `share` (T,), summed over the
            steps; `num_rows` (T,); `tokens`, prompts included.
        """
        size = len(self.tasks)
        scalars = torch.stack([self._objective, self._aux])
        local = torch.cat([scalars, self._nll, self._probability, self._num_supervised])
        if self.args.world_size > 1:
            dist.all_reduce(local)
        everything = [local, self._share, self._num_rows, self._window_tokens.double().reshape(1)]
        objective, aux, *values, tokens = torch.cat(everything).tolist()
        self.reset_sums()
        names = ("nll", "probability", "num_tokens", "share", "num_rows")
        per_task = {name: values[i * size : (i + 1) * size] for i, name in enumerate(names)}
        return {**per_task, "objective": objective, "aux": aux, "tokens": tokens}

    def measure_weighting(self, step: int) -> None:
        """Let the weighting see the validation losses, if it wants them now; every rank must call it."""
        if self.weighting.is_due(step):
            nll, counts = self.evaluate_tasks(self.weighting.section.validation_examples)
            losses = [total / count if count else float("nan") for total, count in zip(nll, counts, strict=True)]
            self.weighting.observe(step, losses)

    @torch.no_grad()
    def evaluate_tasks(self, limit: int | None = None) -> tuple[list[float], list[float]]:
        """Measure every task on its held-out examples.

        Args:
            limit: Use the first so many of each task only.

        Returns:
            Summed nll in nats and number of supervised tokens per task, over all ranks, each of length T. A task
            without held-out examples has 0 tokens.
        """
        size, rank, world = len(self.tasks), self.args.process_index, self.args.world_size
        batches = self._eval_batches(limit)
        sums = torch.zeros(2 * size, dtype=torch.float64, device=self.args.device)
        model = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        was_training = model.training
        model.eval()
        for start in range(0, len(batches), world):
            mine = start + rank
            # sharded models need the same number of forwards everywhere: a rank without work repeats and discards
            batch = self._prepare_inputs(self.collator(batches[min(mine, len(batches) - 1)]))
            with self.compute_loss_context_manager():
                nll = weighted_loss(model, batch, torch.zeros_like(batch["targets"]), self.head).nll
            if mine < len(batches):
                sums[:size] += per_task_sum(nll, batch["target_task"], size).double()
                sums[size:] += torch.bincount(batch["target_task"], minlength=size)
        model.train(was_training)
        if world > 1:
            dist.all_reduce(sums)
        values = sums.tolist()
        return values[:size], values[size:]

    def _eval_batches(self, limit: int | None) -> list[list[tuple[int, list[Encoded]]]]:
        """Held-out examples of all tasks, sorted by length so that a batch holds similar ones."""
        items = [(index, [example]) for index, task in enumerate(self.tasks) for example in task.heldout[:limit]]
        items.sort(key=lambda item: len(item[1][0].input_ids))
        return [items[i : i + self.eval_batch_size] for i in range(0, len(items), self.eval_batch_size)]


class Computed(NamedTuple):
    """What a forward pass gives."""

    loss: Tensor
    """Scalar, with gradient."""
    nll: Tensor
    """Of every supervised token, nats, float32, without gradient, shape (M,)."""
    aux: Tensor | None
    """Balance of the experts as the family computes it, scalar, with gradient; None if not asked for."""


def weighted_loss(
    model: Any,
    inputs: dict[str, Tensor],
    coefficients: Tensor,
    head: LossHead | None = None,
    *,
    focal: Focal | None = None,
    router: bool = False,
) -> Computed:
    """Return the loss of a batch.

    Args:
        model: A causal language model, wrapped or not.
        inputs: A batch of `engine.data.collate`.
        coefficients: Of each supervised token, shape (M,).
        head: The model's loss head, if it has one.
        focal: Lets what is predicted well count less.
        router: Whether the balance of the experts is wanted.
    """
    # the head is computed at supervised positions only, in one call; use_cache=False, else packed rows see each other
    given: dict[str, Any] = {k: inputs[k] for k in ("input_ids", "position_ids", "attention_mask") if k in inputs}
    given.update({"output_router_logits": True} if router else {}, use_cache=False, logits_to_keep=inputs["keep"])
    if head is not None:
        with head.expecting(inputs, coefficients, focal):
            output = model(**given)
        return Computed(*head.result(output), output.aux_loss if router else None)
    output = model(**given)
    aux = output.aux_loss if router else None
    # one row: its kept columns are the supervised positions already; several: each takes its own of their union
    logits = output.logits
    chosen = logits[0] if logits.shape[0] == 1 else logits[inputs["row"], inputs["column"]]
    nll = token_nll(chosen, inputs["targets"])
    if focal is None:
        return Computed((nll * coefficients).sum(), nll.detach(), aux)
    value, coefficients = focal(nll.detach(), inputs, coefficients)
    return Computed(with_value((nll * coefficients).sum(), (value * nll.detach()).sum()), nll.detach(), aux)
