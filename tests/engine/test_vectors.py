"""Our formulas against reference vectors made by running MFTCoder's own code (and FAMO's) in float64.

`MFT_VECTORS` may name another folder with the same two files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from engine.train.focal import TaskEase, example_means, focal_coefficients
from engine.train.loss import Reduction, per_task_sum, token_coefficients, token_nll
from engine.train.weighting.coba import Coba
from engine.train.weighting.famo import Famo
from engine.train.weighting.self_paced import self_paced_weights
from engine.train.weighting.slopes import slope

FOLDER = Path(os.environ.get("MFT_VECTORS", Path(__file__).parents[1] / "data" / "vectors"))
INDEX = json.loads((FOLDER / "mft_vectors.json").read_text())
VECTORS = np.load(FOLDER / "mft_vectors.npz")
MODES: dict[str, Reduction] = {
    "case1": "token_mean",
    "case2": "sample_mean",
    "case3": "task_mean",
    "case4": "task_sample_mean",
    "coba": "task_mean",
}
LOSSES = [(case["name"], mode) for case in INDEX["loss"] for mode in case["modes"]]
FOCAL = [case["name"] for case in INDEX["loss"] if "focal" in case]


def of(name: str, field: str) -> np.ndarray:
    return VECTORS[f"{name}/{field}"]


def supervised(name: str, dtype: torch.dtype):
    """Return logits (requiring grad), and of each supervised token: its nll, task, sample."""
    logits = torch.tensor(of(name, "logits"), dtype=dtype, requires_grad=True)
    labels = torch.tensor(of(name, "labels"), dtype=torch.long)
    mask = torch.tensor(of(name, "mask"), dtype=torch.bool) & (labels != -100)
    sample = torch.arange(len(labels))[:, None].expand_as(labels)[mask]
    nll = token_nll(logits[mask], labels[mask])
    return logits, nll, torch.tensor(of(name, "task"), dtype=torch.long)[sample], sample


@pytest.mark.parametrize(("name", "mode"), LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_losses_and_gradients_are_mftcoders(name, mode, dtype, tolerance):
    """On one micro-batch and one rank, where its per-micro-batch rule and ours are the same thing."""
    logits, nll, task, sample = supervised(name, dtype)
    weights = torch.tensor(of(name, "weights"), dtype=dtype)
    per_sample = torch.bincount(sample, minlength=len(of(name, "task")))
    present = torch.tensor(of(name, "task"), dtype=torch.long)[per_sample > 0]
    coefficients = token_coefficients(
        torch.bincount(task, minlength=len(weights)),
        torch.bincount(present, minlength=len(weights)),
        weights,
        reduction=MODES[mode],
    )
    by_sample = MODES[mode] in ("sample_mean", "task_sample_mean")
    scale = 1.0 / per_sample[sample].to(dtype) if by_sample else 1.0
    loss = (coefficients.to(dtype)[task] * scale * nll).sum()
    expected = float(of(name, f"{mode}/loss64"))
    assert loss.item() == pytest.approx(expected, abs=tolerance, rel=tolerance)
    if dtype == torch.float64 and f"{name}/{mode}/grad64" in VECTORS:
        loss.backward()
        torch.testing.assert_close(logits.grad, torch.tensor(of(name, f"{mode}/grad64")), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FOCAL)
def test_focal_losses_are_the_papers(name):
    _, nll, task, sample = supervised(name, torch.float64)
    nll, alpha = nll.detach(), torch.tensor(of(name, "focal_alpha"))
    length = torch.bincount(sample)[sample]
    present = torch.tensor(of(name, "task"), dtype=torch.long)[torch.bincount(sample) > 0]
    counts = torch.bincount(task, minlength=len(alpha)), torch.bincount(present, minlength=len(alpha))
    by_sample = token_coefficients(*counts, alpha, reduction="sample_mean")[task] * alpha[task] / length
    by_task = (
        token_coefficients(*counts, torch.ones_like(alpha), reduction="task_sample_mean")[task] * alpha[task] / length
    )
    ease = TaskEase(len(alpha))
    ease.add(nll, task, length)
    ease.end_step(1)
    of_task = [mean[task] for mean in ease.means()]
    gammas = next(case for case in INDEX["loss"] if case["name"] == name)["focal"]["gamma"]
    for level, base, means, digits in (
        ("sample", by_sample, example_means(nll, sample), 1e-12),
        ("task", by_task, of_task, 1e-7),
    ):
        for gamma, expected in zip(gammas, of(name, f"focal_{level}"), strict=True):
            value, _ = focal_coefficients(nll, base, *means, gamma=gamma, detach=True)
            assert (value * nll).sum().item() == pytest.approx(float(expected), abs=digits)


@pytest.mark.parametrize("case", INDEX["coba"], ids=lambda case: case["name"])
def test_coba_as_mftcoder_computes_it(case):
    name = case["name"]
    coba = coba_of(case, "mftcoder")
    for step, expected, df in zip(of(name, "call_steps"), of(name, "weights"), of(name, "df"), strict=True):
        feed(coba, of(name, "ratios"), int(step), case["interval"])
        assert np.abs(coba.weights(int(step)) - expected).max() < 1e-8
        assert coba.last_df == pytest.approx(float(df), abs=1e-8)


@pytest.mark.parametrize("case", [c for c in INDEX["coba"] if f"{c['name']}/from_paper_weights" in VECTORS], ids=str)
def test_coba_as_the_paper_says(case):
    name = case["name"]
    coba = coba_of(case, "paper")
    steps, weights, factors = (of(name, field) for field in ("call_steps", "from_paper_weights", "from_paper_df"))
    for step, expected, df in zip(steps, weights, factors, strict=True):
        feed(coba, of(name, "ratios"), int(step), case["interval"])
        assert np.abs(coba.weights(int(step)) - expected).max() < 1e-8, int(step)
        assert coba.last_df == pytest.approx(float(df), abs=1e-8)


def coba_of(case, variant) -> Coba:
    return Coba(
        case["num_tasks"], warmup_steps=case["warmup"], history_length=case["history"], tau=case["tau"],
        update_interval=case["interval"], variant=variant,
    )  # fmt: skip


def feed(coba: Coba, ratios: np.ndarray, step: int, interval: int) -> None:
    """Record what is known before a step: one column for every update since the first."""
    known = (step - 1) // interval
    while len(coba._ratios) < min(known, len(ratios)):
        coba.record(ratios[len(coba._ratios)])


@pytest.mark.parametrize("case", INDEX["moe"], ids=lambda case: case["name"])
def test_the_balance_of_experts_is_the_familys_own(case):
    """The library's auxiliary loss, which a run uses, is the one that MFTCoder used. Its shares are float32."""
    name = case["name"]
    gates = tuple(torch.tensor(of(name, f"gate{layer}")) for layer in range(case["layers"]))
    mask = torch.tensor(of(name, "mask")) if case["masked"] else None
    ours = load_balancing_loss_func(gates, case["experts"], case["top_k"], mask)
    assert float(ours) == pytest.approx(float(of(name, "aux64")), rel=2e-5)


def test_a_validation_batch_gives_mftcoders_ratios():
    """Per-task token mean over its start: what CoBa records of one batch."""
    logits, labels = torch.tensor(of("vb", "logits")), torch.tensor(of("vb", "labels"), dtype=torch.long)
    mask = torch.tensor(of("vb", "mask"), dtype=torch.bool)
    task = torch.tensor(of("vb", "task"), dtype=torch.long)[:, None].expand_as(labels)[mask]
    start = of("vb", "start")
    nll = per_task_sum(token_nll(logits[mask], labels[mask]).double(), task, len(start)).numpy()
    counts = torch.bincount(task, minlength=len(start)).numpy()
    ratios = np.where(counts > 0, nll / np.maximum(counts, 1), 0.0) / start
    assert np.abs(ratios - of("vb", "ratio")).max() < 2e-6


@pytest.mark.parametrize("case", INDEX["famo"], ids=lambda case: case["name"])
def test_famo_is_the_official_one(case):
    losses = of(case["name"], "losses")
    famo = Famo(case["num_tasks"], learning_rate=case["lr"], gamma=case["gamma"])
    for step, (weights, surrogate, xi) in enumerate(
        zip(*(of(case["name"], field) for field in ("grad_weights", "surrogate", "xi")), strict=True)
    ):
        assert np.abs(famo.weights(losses[step]) - weights).max() < 1e-10
        assert famo.surrogate(losses[step]) == pytest.approx(float(surrogate), abs=1e-10)
        famo.update(losses[step], losses[step + 1])
        assert np.abs(famo.xi - xi).max() < 1e-10


@pytest.mark.parametrize("case", INDEX["selfpaced"], ids=lambda case: case["name"])
def test_self_paced_is_mftcoders(case):
    """float32 upstream: 2e-5."""
    name = case["name"]
    for history, slopes, weights in zip(*(of(name, field) for field in ("history", "slope", "weights")), strict=True):
        ours = [slope(column[column != 0], np.flatnonzero(column)) for column in history.T.astype(np.float64)]
        assert np.abs(np.array(ours) - slopes).max() < 2e-5
        assert np.abs(self_paced_weights(history, scale_factor=case["scale"]) - weights).max() < 2e-5
