"""What the doctor says of machines: this one, a large one, a broken one."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from engine import doctor
from engine.__main__ import main
from engine.contract.fit import SIZES, largest_that_fits
from engine.launch.devices import Gpu, GpuProcess, Machine

GIB = 2**30


def gpu(index: int = 0, gib: int = 80, used_gib: int = 0, processes: tuple[GpuProcess, ...] = ()) -> Gpu:
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name="NVIDIA A100-SXM4-80GB",
        total_bytes=gib * GIB,
        used_bytes=used_gib * GIB,
        utilization=0,
        temperature_c=40,
        power_w=60,
        bf16=True,
        processes=processes,
    )


def machine(*gpus: Gpu) -> Machine:
    return Machine(
        gpus=gpus, cpu_count=16, cpu_percent=0, ram_total=128 * GIB, ram_used=0, cpu_bf16=True, gpu_note="none"
    )


def test_this_machine_is_looked_at_and_every_problem_has_advice(capsys):
    """Also the probe of torch and bitsandbytes, in its own process."""
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for part in ("Python 3.", "torch 2.", "bitsandbytes quantizes to 4 bit on the", "GiB free at", "port", "QLoRA on"):
        assert part in said, part
    lines = said.splitlines()
    for line, following in zip(lines, [*lines[1:], ""]):
        assert not line.startswith("--") or following.startswith("      "), line


def test_larger_models_fit_with_less_trained_and_with_more_gpus():
    order = list(SIZES)
    one = [order.index(largest_that_fits(machine(gpu()), method)) for method in ("full", "lora", "qlora")]
    assert one == sorted(one) and one[0] < one[2]
    assert largest_that_fits(machine(gpu()), "qlora") == "72B"
    many = machine(*(gpu(index) for index in range(8)))
    assert order.index(largest_that_fits(many, "full")) > one[0]
    assert largest_that_fits(machine(gpu(gib=1)), "full") == ""


def test_a_gpu_that_torch_cannot_use_is_told_with_who_holds_it(monkeypatch):
    held = gpu(used_gib=20, processes=(GpuProcess(pid=7, name="python", user="ada", used_bytes=20 * GIB),))
    broken = replace(machine(held), driver="550.54", driver_cuda="12.4")
    monkeypatch.setattr(doctor, "inventory", lambda: broken)
    monkeypatch.setattr(doctor, "PROBE", "print('torch', '2.13.0', '13.0', False)")
    found = list(doctor.findings())
    facts = {one.fact: one for one in found}
    assert any("60 of 80 GiB free" in fact and "python (7, ada) holds 20.0 GiB" in fact for fact in facts)
    assert "NVIDIA driver 550.54, for CUDA up to 12.4" in facts
    cuda = facts["torch 2.13.0 is built for CUDA 13.0; it cannot use the GPU"]
    assert not cuda.fine and "driver" in cuda.advice
    assert any(not one.fine and "NCCL" in one.fact for one in found)
    assert any(not one.fine and "no QLoRA" in one.fact for one in found)


@pytest.mark.parametrize("probe", ["import sys; sys.exit('libtorch.so is missing')", "import os; os.abort()"])
def test_a_torch_that_dies_is_one_finding(monkeypatch, capsys, probe):
    monkeypatch.setattr(doctor, "PROBE", probe)
    assert main(["doctor"]) == 1
    assert "torch cannot be used" in capsys.readouterr().out


def test_a_port_in_use_is_told():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        assert doctor._is_taken(busy.getsockname()[1])
