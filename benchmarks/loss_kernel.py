"""The loss kernel alone against the plain loss over full logits: CPU seconds and extra memory, ratios in one run.

    python benchmarks/loss_kernel.py [--tokens 4096] [--hidden 576] [--vocabulary 49152] [--dtype float32]

Same hidden states, head, targets and coefficients; forward and backward, head frozen (LoRA) and trained (full).  Each
way runs in a process of its own, in turns, after a small call that wakes the libraries up; extra memory is the peak
above what was resident then.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Run one way a few times and return CPU seconds a call and the extra memory, MiB."""
    import torch
    from torch.nn import functional

    from engine.train.kernel import weighted_token_loss

    torch.manual_seed(0)
    dtype, device = getattr(torch, arguments.dtype), arguments.device
    hidden = torch.randn(arguments.tokens, arguments.hidden, device=device).to(dtype).requires_grad_()
    weight = (torch.randn(arguments.vocabulary, arguments.hidden, device=device) / 24).to(dtype)
    weight.requires_grad_(arguments.trained)
    targets = torch.randint(0, arguments.vocabulary, (arguments.tokens,), device=device)
    coefficients = torch.rand(arguments.tokens, device=device) / arguments.tokens

    def once() -> None:
        hidden.grad = weight.grad = None
        if arguments.way == "kernel":
            loss, _ = weighted_token_loss(hidden, weight, targets, coefficients)
        else:
            nll = functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")
            loss = (nll * coefficients).sum()
        loss.backward()

    (torch.randn(64, 64, device=device) @ torch.randn(64, 64, device=device)).exp().sum().item()
    if device == "cuda":
        once()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:  # the libraries' buffers for products of this shape
        (hidden[:32].detach() @ weight.detach().T).sum().item()
    before = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else _resident()
    seconds = []
    for _ in range(3):
        started = time.perf_counter() if device == "cuda" else time.process_time()
        once()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() if device == "cuda" else time.process_time()) - started)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _peak()
    kept = hidden.numel() * hidden.element_size() / 2**20  # the gradients that both must return
    kept += weight.numel() * 4 / 2**20 if arguments.trained else 0.0
    return {"seconds": statistics.median(seconds), "extra_mib": max(peak - before - kept, 0.1)}


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Measure both ways in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("tokens", 4096), ("hidden", 576), ("vocabulary", 49152), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--way", choices=["kernel", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--trained", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return 0
    given = [f"--{name}={getattr(arguments, name)}" for name in ("tokens", "hidden", "vocabulary", "dtype", "device")]
    print(f"{arguments.tokens} tokens, hidden {arguments.hidden}, vocabulary {arguments.vocabulary}, {arguments.dtype}")
    for trained in ([], ["--trained"]):
        runs: dict[str, list[dict[str, float]]] = {"plain": [], "kernel": []}
        for _ in range(arguments.rounds):
            for way, results in runs.items():
                command = [sys.executable, __file__, *given, "--way", way, *trained]
                results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        told = {
            way: {key: statistics.median(run[key] for run in results) for key in ("seconds", "extra_mib")}
            for way, results in runs.items()
        }
        time_ratio = told["kernel"]["seconds"] / told["plain"]["seconds"]
        memory_ratio = told["kernel"]["extra_mib"] / told["plain"]["extra_mib"]
        name = "trained head" if trained else "frozen head"
        for way, values in told.items():
            print(f"{name:13} {way:7} {values['seconds']:7.2f} s  extra {values['extra_mib']:8.0f} MiB")
        print(f"{name:13} kernel / plain: {time_ratio:.2f} of the time, {memory_ratio:.3f} of the extra memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
