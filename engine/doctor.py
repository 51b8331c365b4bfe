"""`python -m engine doctor`: what this machine can do, why not, and what to do about it.  Installs nothing."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.contract.fit import largest_that_fits
from engine.contract.models import STARTER_MODEL, find_local
from engine.contract.places import MIN_FREE_BYTES, data_root, free_bytes
from engine.evaluate.sandbox import LEVELS, level_fault, working_level
from engine.launch.devices import Machine, inventory
from engine.launch.jobs import write_job

GIB = 2**30
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "gradio")
STUDIO_PORT = 7860
PROBE_S = 120
MIN_SHM_BYTES = GIB
METHODS = {"qlora": "QLoRA", "lora": "LoRA", "full": "full fine-tuning"}

PROBE = """
import torch
print("torch", torch.__version__, torch.version.cuda or "none", torch.cuda.is_available())
if torch.cuda.is_available():
    print("nccl", ".".join(map(str, torch.cuda.nccl.version())))
    print("cuda", float(torch.ones(8, device="cuda").sum()) == 8.0)
print("gloo", torch.distributed.is_gloo_available())
import bitsandbytes.functional as F
device = "cuda" if torch.cuda.is_available() else "cpu"
weights = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
packed, state = F.quantize_4bit(weights, quant_type="nf4")
print("bitsandbytes", device, float((F.dequantize_4bit(packed, state) - weights).abs().max()) < 0.2)
"""
"""Run in a process of its own: a broken CUDA or bitsandbytes may take its process with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    fine: bool
    fact: str
    advice: str = ""
    """What to do if it is not fine."""
    essential: bool = False
    """Whether nothing works without it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where to report besides the terminal."""
    parser.add_argument("--status", type=Path, help="also report into this file, as a job of the studio")


def run(arguments: argparse.Namespace) -> int:
    """Print one line per finding; 1 if something is missing that nothing works without."""
    healthy, told = True, []
    write_job(arguments.status, phase="looking")
    for one in findings():
        told.append({"fine": one.fine, "fact": one.fact, "advice": one.advice})
        advice = f"\n      {one.advice}" if one.advice and not one.fine else ""
        print(f"{'ok' if one.fine else '--'}  {one.fact}{advice}", flush=True)
        healthy = healthy and (one.fine or not one.essential)
    write_job(arguments.status, state="done", phase="", result={"findings": told})
    return 0 if healthy else 1


def findings() -> Iterator[Finding]:
    """Yield what was found."""
    machine = inventory()
    yield from _packages()
    yield from _hardware(machine)
    yield from _libraries(machine)
    yield from _surroundings()
    yield from _hub()
    yield from _reach(machine)


def _packages() -> Iterator[Finding]:
    fine, fix = (3, 11) <= sys.version_info[:2] <= (3, 13), "run make with Python 3.11 to 3.13."
    yield Finding(fine=fine, fact=f"Python {platform.python_version()}", advice=fix, essential=True)
    for name in PACKAGES:
        try:
            yield Finding(fine=True, fact=f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(fine=False, fact=f"{name} is not installed", advice="run make studio.", essential=True)


def _hardware(machine: Machine) -> Iterator[Finding]:
    for gpu in machine.gpus:
        numbers = "bfloat16" if gpu.bf16 else "no bfloat16"
        free = (gpu.total_bytes - gpu.used_bytes) / GIB
        text = f"GPU {gpu.index}: {gpu.name}, {free:.0f} of {gpu.total_bytes / GIB:.0f} GiB free, {numbers}"
        users = ", ".join(f"{p.name} ({p.pid}, {p.user}) holds {p.used_bytes / GIB:.1f} GiB" for p in gpu.processes)
        yield Finding(fine=True, fact=text + (f"; {users}" if users else ""))
    if not machine.gpus:
        fix = "small models train on the CPU; larger ones need an NVIDIA GPU."
        yield Finding(fine=False, fact=f"no GPU: {machine.gpu_note}", advice=fix)
    elif machine.driver:
        yield Finding(fine=True, fact=f"NVIDIA driver {machine.driver}, for CUDA up to {machine.driver_cuda}")
    native, memory = "with" if machine.cpu_bf16 else "without", machine.ram_total / GIB
    yield Finding(fine=True, fact=f"CPU: {machine.cpu_count} cores, {native} native bfloat16, {memory:.0f} GiB memory")


def _libraries(machine: Machine) -> Iterator[Finding]:
    """Whether torch, CUDA, NCCL and bitsandbytes work, found out by using them."""
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_S)
        words = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if " " in line}
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        words, last = {}, f"no answer within {PROBE_S} s"
    if "torch" not in words:
        yield Finding(fine=False, fact=f"torch cannot be used: {last}", advice="run make studio.", essential=True)
        return
    version, cuda, available = words["torch"]
    if machine.gpus:
        built = (
            f"torch {version} is built for CUDA {cuda}" if cuda != "none" else f"torch {version} is built without CUDA"
        )
        fix = "install the torch wheel for your driver: https://pytorch.org/get-started/locally"
        works = available == "True" and words.get("cuda") == ["True"]
        yield Finding(fine=works, fact=built if works else f"{built}; it cannot use the GPU", advice=fix)
        nccl = words.get("nccl")
        text = f"NCCL {nccl[0]}" if nccl else "no NCCL: several GPUs cannot be used together"
        yield Finding(fine=bool(nccl), fact=text, advice=fix)
    gloo = words.get("gloo") == ["True"]
    text = "gloo is there: several processes on the CPU" if gloo else "gloo is missing: one process on the CPU only"
    yield Finding(fine=gloo, fact=text)
    device, right = words.get("bitsandbytes", ["", "False"])
    text = f"bitsandbytes quantizes to 4 bit on the {device.upper()}"
    fix = "`python -m bitsandbytes` says more; LoRA and full fine-tuning work without it."
    works = right == "True"
    yield Finding(fine=works, fact=text if works else f"bitsandbytes does not work, so no QLoRA: {last}", advice=fix)
    flash = importlib.util.find_spec("flash_attn") is not None
    yield Finding(
        fine=True, fact="flash-attn is installed" if flash else "flash-attn is not installed, nor needed: sdpa"
    )
    compiler = shutil.which("c++") or shutil.which("g++")
    text = (
        f"C++ compiler: {compiler}" if compiler else "no C++ compiler: ZeRO with CPU offload cannot build its optimizer"
    )
    yield Finding(fine=bool(compiler), fact=text, advice="install g++ (Debian: build-essential), or use fsdp2.")


def _surroundings() -> Iterator[Finding]:
    root = data_root()
    free = free_bytes(root.path)
    fix = "set MFT_STUDIO_HOME to a larger disk."
    yield Finding(fine=free > MIN_FREE_BYTES, fact=f"{free / GIB:.0f} GiB free at {root.path}", advice=fix)
    shared = Path("/dev/shm")
    size = free_bytes(shared) if shared.is_dir() else 0
    fix = "in a container: --shm-size=8g or --ipc=host; several GPUs talk over it."
    yield Finding(fine=size >= MIN_SHM_BYTES, fact=f"{size / GIB:.1f} GiB shared memory", advice=fix)
    taken = _is_taken(STUDIO_PORT)
    text = f"port {STUDIO_PORT} is taken" if taken else f"port {STUDIO_PORT} is free"
    yield Finding(fine=not taken, fact=text, advice="the studio may be open already; else: python app.py --port 7861")
    try:
        address = socket.gethostbyname(socket.gethostname())
        yield Finding(fine=True, fact=f"this machine's name is {socket.gethostname()}, {address}")
    except OSError:
        fix = "add it to /etc/hosts: processes of one run find each other by it."
        yield Finding(fine=False, fact=f"this machine's name {socket.gethostname()} has no address", advice=fix)
    level = working_level()
    why = "; ".join(f"{one}: {level_fault(one)}" for one in ("namespaces", "landlock")) if not level else ""
    text = (
        f"programs of HumanEval run locked in by {LEVELS[level]}"
        if level
        else f"no lock for programs of HumanEval ({why})"
    )
    fix = "allow user namespaces (Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0), or use Linux 6.2 or newer."
    yield Finding(fine=bool(level), fact=text, advice=fix)
    slurm = shutil.which("sbatch")
    yield Finding(fine=True, fact="Slurm: sbatch is here" if slurm else "no Slurm here (only for clusters)")


def _hub() -> Iterator[Finding]:
    root = data_root()
    here = find_local(STARTER_MODEL, root) is not None
    yield Finding(
        fine=here,
        fact="the starter model is here" if here else "the starter model is not here yet",
        advice="python -m engine fetch",
    )
    import huggingface_hub

    told = bool(huggingface_hub.get_token())
    text = (
        "a token of Hugging Face is here" if told else "not logged in at Hugging Face: no gated models (Llama, Gemma)"
    )
    yield Finding(fine=told, fact=text, advice="accept the model's terms on its page, then: hf auth login")
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        yield Finding(fine=False, fact="HF_HUB_OFFLINE is set: nothing is fetched", advice="unset it to fetch models.")


def _reach(machine: Machine) -> Iterator[Finding]:
    """What can be trained here."""
    where = "this CPU" if not machine.gpus else "one GPU" if len(machine.gpus) == 1 else f"{len(machine.gpus)} GPUs"
    for method, name in METHODS.items():
        size = largest_that_fits(machine, method)
        text = f"{name} on {where}: models up to about {size}" if size else f"{name}: not even the smallest model fits"
        yield Finding(fine=bool(size), fact=text, advice="close what holds memory, or choose QLoRA.")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
