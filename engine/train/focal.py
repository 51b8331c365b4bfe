"""The paper's focal loss as per-token coefficients: what is predicted well already counts less.

    sample   sum_b -alpha_t (1 - P_b)^gamma Q_b / B            P_b, Q_b = mean token probability and log-probability
    task     mean over tasks of -alpha_t (1 - P_t)^gamma Q_t   of example b;  P_t, Q_t = their means over the task

Source: Eq. 2 and 3 of MFTCoder (arXiv:2311.02303), of which no code was released.  The formula's gradient also flows
through P; that too is a coefficient, since dP_b/dnll = -p / n_b:

    d loss / d nll  =  c [ (1 - P)^gamma + gamma (1 - P)^(gamma - 1) p (-Q) ]         the second term unless detached

so both forms need one extra pass over the head, to know P, and nothing else changes.  P_b is exact: an example is never
cut across micro-batches.  P_t cannot be known before all of a step's micro-batches ran: it is the mean over the steps
before, on all ranks (`TaskEase`).

M = supervised tokens of a micro-batch, T = tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from engine.contract.recipe import LossSection
from engine.train.loss import per_task_sum

MEMORY = 0.98
"""A task's ease forgets this slowly: it is the mean over about the last 50 steps that held the task."""
HARDEST = 1e-6
"""Floor of 1 - P: its power gamma - 1 stays finite."""


def focal_coefficients(
    nll: Tensor, coefficients: Tensor, probability: Tensor, mean_nll: Tensor, *, gamma: float, detach: bool
) -> tuple[Tensor, Tensor]:
    """Return what each token counts in the loss's value, and in its gradient; equal if `detach`.

    Args:
        nll: Cross entropy of the supervised tokens, nats, without gradient, shape (M,).
        coefficients: Of the loss without the focal factor, shape (M,).
        probability: P of the token's example or task, shape (M,).
        mean_nll: -Q likewise, nats, shape (M,).
        gamma: 0 leaves the coefficients as they are.
        detach: Whether the factor is only a weight.
    """
    rest = (1 - probability).clamp(min=HARDEST)
    value = coefficients * rest**gamma
    if detach or gamma == 0:
        return value, value
    return value, value + coefficients * gamma * rest ** (gamma - 1) * torch.exp(-nll) * mean_nll


def example_means(nll: Tensor, example: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for every token, the mean probability and the mean nll of its example, both shape (M,).

    Args:
        nll: Shape (M,).
        example: Number of the token's example within the micro-batch, below M, shape (M,).
    """
    zeros = torch.zeros_like(nll)  # there are at most as many examples as tokens: no host sync to count them
    length = zeros.index_add(0, example, torch.ones_like(nll)).clamp(min=1)
    probability = zeros.index_add(0, example, torch.exp(-nll)) / length
    mean_nll = zeros.index_add(0, example, nll) / length
    return probability[example], mean_nll[example]


class TaskEase:
    """How well each task is predicted: its mean token probability and nll over the last steps that held it.

    Args:
        num_tasks: T.
        device: Where the sums live.
    """

    def __init__(self, num_tasks: int, device: torch.device | str = "cpu") -> None:
        self._past = torch.zeros(3, num_tasks, dtype=torch.float64, device=device)
        self._now = torch.zeros(3, num_tasks, dtype=torch.float64, device=device)

    def add(self, nll: Tensor, task: Tensor, count: Tensor) -> None:
        """Take a micro-batch: nll, task, and supervised tokens of the example of each token, all shape (M,)."""
        for row, values in enumerate((torch.exp(-nll), nll, torch.ones_like(nll))):
            self._now[row] += per_task_sum(values / count, task, self._now.shape[1]).double()

    def end_step(self, world_size: int) -> None:
        """Count the step in; with several ranks every one must call it."""
        if world_size > 1:
            dist.all_reduce(self._now)
        # a task that is absent keeps what was known; one that diverges (not a number) is not learned from
        usable = (self._now[2] > 0) & torch.isfinite(self._now).all(dim=0)
        self._past = torch.where(usable, MEMORY * self._past + self._now, self._past)
        self._now = torch.zeros_like(self._now)

    def means(self) -> tuple[Tensor, Tensor]:
        """Return P and -Q of every task, float64, shape (T,); a task not seen yet counts as not learned at all."""
        probability, nll, count = self._past
        seen = count.clamp(min=torch.finfo(torch.float64).tiny)
        return probability / seen, nll / seen

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next means depend on, JSON-ready."""
        return {"past": self._past.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: If it belongs to other tasks.
        """
        past = torch.tensor(state["past"], dtype=torch.float64, device=self._past.device)
        if past.shape != self._past.shape:
            raise ValueError("the state of the focal loss belongs to another recipe")
        self._past = past


@dataclass
class Focal:
    """The focal factor of a run.

    Args:
        level: Whether an example or a task is easy.
        gamma: See `focal_coefficients`.
        detach: Likewise.
        ease: Of the tasks, for the level `task`.
    """

    level: Literal["sample", "task"]
    gamma: float
    detach: bool
    ease: TaskEase

    @classmethod
    def of(cls, section: LossSection, num_tasks: int, device: torch.device | str = "cpu") -> Focal | None:
        """Return the factor of a recipe, None if it has none."""
        if section.focal == "none":
            return None
        return cls(section.focal, section.focal_gamma, section.focal_detach, TaskEase(num_tasks, device))

    def __call__(self, nll: Tensor, batch: dict[str, Tensor], coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients of value and gradient for a batch of `engine.data.collate`, both shape (M,)."""
        if self.level == "task":
            self.ease.add(nll, batch["target_task"], batch["target_count"])
            probability, mean_nll = (mean.to(nll.dtype)[batch["target_task"]] for mean in self.ease.means())
        else:
            probability, mean_nll = example_means(nll, batch["target_example"])
        return focal_coefficients(nll, coefficients, probability, mean_nll, gamma=self.gamma, detach=self.detach)
