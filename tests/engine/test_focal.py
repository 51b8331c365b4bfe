"""The focal loss: value and gradient are those of the written formula; what it remembers of tasks."""

from __future__ import annotations

import pytest
import torch

from engine.contract.recipe import LossSection
from engine.data.collate import lay_side_by_side
from engine.data.tokenize import IGNORE, Encoded
from engine.train.focal import Focal, TaskEase
from engine.train.head import attach_loss_head
from engine.train.trainer import weighted_loss
from tests.tiny_model import tiny_llama


def batch():
    """Three examples of two tasks, 4, 7 and 2 supervised tokens."""
    documents = []
    for task, length, prompt in ((0, 9, 5), (1, 12, 5), (0, 6, 4)):
        ids = torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(length)).tolist()
        documents.append((task, Encoded(ids, [IGNORE] * prompt + ids[prompt:])))
    return lay_side_by_side(documents)


def written_formula(nll, batch, alpha, gamma, detach):
    """Eq. 2: the mean over examples of -alpha (1 - P)^gamma Q, by autograd."""
    total = torch.zeros(())
    for example in range(3):
        mine = batch["target_example"] == example
        mean = nll[mine].mean()
        factor = (1 - torch.exp(-nll[mine]).mean()) ** gamma
        total = total + alpha[batch["target_task"][mine][0]] * (factor.detach() if detach else factor) * mean
    return total / 3


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("with_head", [True, False])
def test_value_and_gradient_are_those_of_the_written_formula(detach, gamma, with_head):
    data, alpha = batch(), torch.tensor([1.0, 3.0])
    oracle = tiny_llama()
    logits = oracle(data["input_ids"], position_ids=data["position_ids"], use_cache=False).logits[0, data["keep"]]
    nll = torch.nn.functional.cross_entropy(logits, data["targets"], reduction="none")
    expected = written_formula(nll, data, alpha, gamma, detach)
    expected.backward()

    model = tiny_llama()
    head = attach_loss_head(model) if with_head else None
    coefficients = alpha[data["target_task"]] / data["target_count"] / 3
    focal = Focal.of(LossSection(focal="sample", focal_gamma=gamma, focal_detach=detach), 2)
    loss = weighted_loss(model, data, coefficients, head, focal=focal).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, plain in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_the_level_task_weighs_by_what_the_steps_before_told():
    data, focal = batch(), Focal.of(LossSection(focal="task", focal_gamma=1.0), 2)
    nll, ones = torch.full((13,), 0.5), torch.ones(13)
    value, _ = focal(nll, data, ones)
    assert torch.equal(value, ones)  # nothing is known in the first step
    focal.ease.end_step(1)
    value, _ = focal(nll * 9, data, ones)
    torch.testing.assert_close(value, torch.full((13,), 1 - 2.718281828**-0.5))


def test_a_task_that_is_absent_or_broken_keeps_what_was_known():
    ease = TaskEase(3)
    ease.add(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]), torch.tensor([1, 1]))
    ease.end_step(1)
    before = [mean.clone() for mean in ease.means()]
    ease.add(torch.tensor([float("nan")]), torch.tensor([1]), torch.tensor([1]))
    ease.end_step(1)
    for mean, was in zip(ease.means(), before, strict=True):
        torch.testing.assert_close(mean, was)
    assert ease.means()[0][2] == 0  # never seen: not learned at all


def test_the_memory_of_tasks_survives_a_checkpoint():
    one, two = TaskEase(2), TaskEase(2)
    one.add(torch.tensor([1.0, 0.3]), torch.tensor([0, 1]), torch.tensor([1, 1]))
    one.end_step(1)
    two.load_state_dict(one.state_dict())
    assert torch.equal(torch.stack(one.means()), torch.stack(two.means()))
    with pytest.raises(ValueError, match="another recipe"):
        TaskEase(3).load_state_dict(one.state_dict())
