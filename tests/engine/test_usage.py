"""What a run writes about its machine: means of utilization, peaks of memory, nothing where nothing was read."""

from __future__ import annotations

import threading

import pynvml
import pytest

from engine.contract.metrics import metric_of
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.launch import devices
from engine.train import usage
from engine.train.callbacks import RunCallback
from engine.train.main import train
from tests.tiny_run import new_attempt, train_losses


class Driver:
    """Two GPUs: the first reads 10 and 30 %, the second is a slice that tells only its memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.closed = 0, 0
        self.busy = iter([10, 30])
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(devices, "_slices", lambda handle: [handle])
        for name, function in {
            "nvmlInit": self.open,
            "nvmlShutdown": self.close,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetUtilizationRates": self.rates,
            "nvmlDeviceGetMemoryInfo": lambda handle: type("Memory", (), {"used": (handle + 1) * 2**30}),
        }.items():
            monkeypatch.setattr(pynvml, name, function)

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closed += 1

    def rates(self, handle: int) -> object:
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return type("Rates", (), {"gpu": next(self.busy)})


def test_a_gpu_that_tells_only_part_is_read_for_that_part(monkeypatch):
    driver = Driver(monkeypatch)
    meter = devices.GpuMeter()
    assert meter.read() == [(10, 2**30), (None, 2 * 2**30)]
    assert meter.read()[0] == (30, 2**30)
    meter.close()
    meter.close()
    assert (driver.opened, driver.closed) == (1, 1)
    assert meter.read() == []


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_GPU_IS_LOST])
def test_without_a_driver_nothing_is_read_and_nothing_fails(monkeypatch, code):
    asked = []

    def fail() -> None:
        asked.append(code)
        raise pynvml.NVMLError(code)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    meter = devices.GpuMeter()
    assert [meter.read() for _ in range(3)] == [[], [], []]
    meter.close()
    assert len(asked) == 1  # asked once, not at every sample


def test_hidden_gpus_are_not_even_asked_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: pytest.fail("the driver was asked"))
    assert devices.GpuMeter().read() == []


def test_a_row_holds_the_mean_share_and_the_highest_memory_since_the_last(monkeypatch):
    watch, read = usage.UsageWatch(every_s=0.001), threading.Event()
    samples = iter([{"host/cpu_percent": 10.0, "host/rss_bytes": 7}, {"host/cpu_percent": 25.0, "host/rss_bytes": 5}])

    def sample() -> dict[str, float]:
        found = next(samples, None)
        if found is None:
            read.set()
        return found or {}

    monkeypatch.setattr(usage, "_host", sample)
    monkeypatch.setattr(usage, "_gpus", lambda gpus: {})
    assert watch.take() == {}
    watch.start()
    assert read.wait(120)
    watch.close()
    assert watch.take() == {"host/cpu_percent": 17.5, "host/rss_bytes": 7}
    assert watch.take() == {}


def test_what_is_read_here_is_declared_and_plausible():
    found = usage._host()
    assert all(metric_of(key) for key in (*found, "gpu/0/memory_bytes", "gpu/12/utilization_percent"))
    assert 0 < found["host/rss_bytes"] <= found["host/memory_bytes"]


def test_a_watched_run_is_the_unwatched_one_and_its_rows_hold_the_usage(recipe, tmp_path, monkeypatch):
    recipe = override(recipe, ["optim.max_steps=3"])
    monkeypatch.setattr(usage, "SAMPLE_S", 3600.0)
    plain = create_run_at(tmp_path / "plain", recipe)
    train(plain, new_attempt(plain))
    assert not any(key.startswith("host/") for row in plain.metrics()[0] for key in row)  # no sample: no number

    init = RunCallback.__init__

    def often(self, *args) -> None:
        init(self, *args)
        self.usage = usage.UsageWatch(every_s=0.001)

    monkeypatch.setattr(RunCallback, "__init__", often)
    watched, before = create_run_at(tmp_path / "watched", recipe), set(threading.enumerate())
    train(watched, new_attempt(watched))
    assert train_losses(watched) == train_losses(plain)  # to the last bit
    rows = [row for row in watched.metrics()[0] if "train/loss" in row]
    assert any(row.get("host/rss_bytes", 0) > 0 for row in rows)
    assert not any(thread.name == "usage" for thread in set(threading.enumerate()) - before)
