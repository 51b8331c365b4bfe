"""How busy the machine of rank 0 is while a run trains: its GPUs through NVML, CPU and memory through psutil.

    every SAMPLE_S a sample, in a thread of its own -> mean (memory: highest) since the last row of metrics -> that row

Steps wait for nothing here: a row takes what the thread has gathered, and goes without where it gathered nothing.  A
reading that fails is left out; a machine without a driver is asked for GPUs once.
"""

from __future__ import annotations

import contextlib
import threading

import psutil

from engine.contract.metrics import gpu_key
from engine.launch.devices import GpuMeter

SAMPLE_S = 2.0
"""Seconds between two samples; one costs about a millisecond of another core."""


class UsageWatch:
    """Gathers samples between `start` and `close`.

    Args:
        every_s: Seconds between two samples; `SAMPLE_S` if None.
    """

    def __init__(self, *, every_s: float | None = None) -> None:
        self._every_s = SAMPLE_S if every_s is None else every_s
        self._lock = threading.Lock()
        self._samples: list[dict[str, float]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to sample."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="usage", daemon=True)
            self._thread.start()

    def take(self) -> dict[str, float]:
        """Return what was gathered since the last call, by metric key; empty if nothing was."""
        with self._lock:
            samples, self._samples = self._samples, []
        found: dict[str, float] = {}
        for key in dict.fromkeys(key for sample in samples for key in sample):
            values = [sample[key] for sample in samples if key in sample]
            found[key] = max(values) if key.endswith("_bytes") else round(sum(values) / len(values), 1)
        return found

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _watch(self) -> None:
        psutil.cpu_percent()  # psutil tells the share since the call before, per thread
        with contextlib.closing(GpuMeter()) as gpus:
            while not self._over.wait(self._every_s):
                sample = _gpus(gpus)
                with contextlib.suppress(psutil.Error, OSError):  # a /proc that cannot be read for a moment
                    sample |= _host()
                with self._lock:
                    self._samples.append(sample)


def _host() -> dict[str, float]:
    """Return CPU and memory in use on the machine, and what this process and its workers hold."""
    memory = psutil.virtual_memory()
    held = 0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # a worker that has just ended
            held += process.memory_info().rss
    used = memory.total - memory.available
    return {"host/cpu_percent": psutil.cpu_percent(), "host/memory_bytes": used, "host/rss_bytes": held}


def _gpus(gpus: GpuMeter) -> dict[str, float]:
    found: dict[str, float] = {}
    for index, (busy, used) in enumerate(gpus.read()):
        if busy is not None:
            found[gpu_key(index, "utilization_percent")] = busy
        if used is not None:
            found[gpu_key(index, "memory_bytes")] = used
    return found
