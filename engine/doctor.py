"""`python -m engine doctor`: what this machine can do, and why not.  Looks only; installs nothing."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Iterator

from engine.contract.models import STARTER_MODEL, find_local
from engine.contract.places import MIN_FREE_BYTES, data_root, free_bytes
from engine.launch.devices import inventory

GIB = 2**30
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "gradio")

Finding = tuple[bool, str, str]
"""Whether it is fine, the fact, and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes no arguments."""


def run(_: argparse.Namespace) -> int:
    """Print one line per finding; 1 if something is missing that nothing works without."""
    essential = True
    for fine, fact, advice in findings():
        print(f"{'ok' if fine else '--'}  {fact}" + (f"\n      {advice}" if advice and not fine else ""))
        essential = essential and (fine or not advice.startswith("run make"))
    return 0 if essential else 1


def findings() -> Iterator[Finding]:
    """Yield what was found."""
    yield (
        (3, 11) <= sys.version_info[:2] <= (3, 13),
        f"Python {platform.python_version()}",
        "run make with Python 3.11 to 3.13.",
    )
    for name in PACKAGES:
        try:
            yield True, f"{name} {importlib.metadata.version(name)}", ""
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{name} is not installed", "run make studio."
    machine = inventory()
    for gpu in machine.gpus:
        numbers = "bfloat16" if gpu.bf16 else "no bfloat16"
        free = (gpu.total_bytes - gpu.used_bytes) / GIB
        yield True, f"GPU {gpu.index}: {gpu.name}, {free:.0f} of {gpu.total_bytes / GIB:.0f} GiB free, {numbers}", ""
    if not machine.gpus:
        yield False, f"no GPU: {machine.gpu_note}", "small models train on the CPU; larger ones need an NVIDIA GPU."
    native = "with" if machine.cpu_bf16 else "without"
    yield (
        True,
        f"CPU: {machine.cpu_count} cores, {native} native bfloat16, {machine.ram_total / GIB:.0f} GiB memory",
        "",
    )
    root = data_root()
    free = free_bytes(root.path)
    yield free > MIN_FREE_BYTES, f"{free / GIB:.0f} GiB free at {root.path}", "set MFT_STUDIO_HOME to a larger disk."
    here = find_local(STARTER_MODEL, root) is not None
    yield here, f"starter model {'is here' if here else 'is not here yet'}", "python -m engine fetch"
