"""Every number a run records: key, unit, direction, label.  One row of `metrics.jsonl` is one optimizer step.

    {"step": 20, "time": 1764000000.0, "tokens_seen": 81234, "train/loss": 1.93, "task/<name>/loss": 1.2, ...}

Declares only; the numbers are computed in `engine.train`.  Keys with `<name>` exist once per task, with `<index>` once
per GPU of rank 0's machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What one key of `metrics.jsonl` means."""

    key: str
    """Key; `<name>` stands for a task name, `<index>` for a GPU as torch counts them."""
    unit: str
    """Unit of the value; empty for plain numbers."""
    better: Literal["lower", "higher", "neither"]
    """Which direction is good."""
    label: str
    """Axis label."""


METRICS: tuple[Metric, ...] = (
    Metric(key="step", unit="optimizer steps", better="neither", label="Step"),
    Metric(key="time", unit="s since 1970", better="neither", label="Time"),
    Metric(key="epoch", unit="epochs", better="neither", label="Epoch"),
    Metric(key="tokens_seen", unit="tokens", better="neither", label="Tokens"),
    Metric(key="train/loss", unit="nats per token", better="lower", label="Training loss"),
    Metric(key="train/aux_loss", unit="", better="lower", label="Expert balance"),
    Metric(key="eval/loss", unit="nats per token", better="lower", label="Evaluation loss"),
    Metric(key="task/<name>/loss", unit="nats per token", better="lower", label="Training loss"),
    Metric(key="task/<name>/num_tokens", unit="supervised tokens", better="neither", label="Supervised tokens"),
    Metric(key="task/<name>/num_rows", unit="rows", better="neither", label="Rows seen"),
    Metric(key="task/<name>/weight", unit="share of the loss", better="neither", label="Loss share"),
    Metric(key="task/<name>/factor", unit="times the task's weight", better="neither", label="Weight factor"),
    Metric(key="task/<name>/eval_loss", unit="nats per token", better="lower", label="Evaluation loss"),
    Metric(key="task/<name>/mean_token_probability", unit="", better="higher", label="Mean token probability"),
    Metric(key="task/<name>/relative_loss", unit="times the start", better="lower", label="Relative loss"),
    Metric(key="task/<name>/slope", unit="of the start per 100 steps", better="lower", label="Convergence slope"),
    Metric(key="optim/learning_rate", unit="", better="neither", label="Learning rate"),
    Metric(key="optim/grad_norm", unit="", better="neither", label="Gradient norm"),
    Metric(key="perf/tokens_per_second", unit="tokens/s", better="higher", label="Throughput"),
    Metric(key="perf/step_time_s", unit="s", better="lower", label="Time per step"),
    Metric(key="perf/memory_bytes", unit="bytes", better="lower", label="Peak memory"),
    Metric(key="gpu/<index>/utilization_percent", unit="%", better="higher", label="GPU utilization"),
    Metric(key="gpu/<index>/memory_bytes", unit="bytes", better="lower", label="GPU memory"),
    Metric(key="host/cpu_percent", unit="%", better="neither", label="CPU of the machine"),
    Metric(key="host/memory_bytes", unit="bytes", better="lower", label="Memory of the machine"),
    Metric(key="host/rss_bytes", unit="bytes", better="lower", label="Memory of rank 0"),
)


def metric_of(key: str) -> Metric | None:
    """Return the declaration of a key, or None if it is unknown (unknown keys are fine to keep)."""
    parts = key.split("/")
    stands_for = {"task": "<name>", "gpu": "<index>"}.get(parts[0])
    generic = f"{parts[0]}/{stands_for}/{parts[-1]}" if stands_for and len(parts) == 3 else key
    return next((metric for metric in METRICS if metric.key == generic), None)


def task_key(name: str, what: str) -> str:
    """Return the key of a task's metric: `task_key("sql", "loss")` is `task/sql/loss`."""
    return f"task/{name}/{what}"


def gpu_key(index: int, what: str) -> str:
    """Return the key of a GPU's metric: `gpu_key(0, "memory_bytes")` is `gpu/0/memory_bytes`."""
    return f"gpu/{index}/{what}"
