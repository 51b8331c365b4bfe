"""What this machine can compute on, as a snapshot that costs a millisecond.

GPUs are read through NVML and filtered by CUDA_VISIBLE_DEVICES; a machine without driver simply has none.  No torch.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import psutil

CACHE_S = 1.0
"""Many viewers ask at once; the hardware is asked once a second at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A program that holds memory of a GPU."""

    pid: int
    name: str
    """Name of the program, a few letters."""
    user: str
    used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU as it is now."""

    index: int
    """Index among the visible devices: 0 is what torch calls cuda:0."""
    uuid: str
    name: str
    total_bytes: int
    used_bytes: int
    utilization: int | None
    """Busy share of the last second, percent; None if the driver does not tell."""
    temperature_c: int | None
    power_w: int | None
    bf16: bool
    """Whether it computes bfloat16 natively (compute capability 8.0 and up)."""
    processes: tuple[GpuProcess, ...] = ()
    """Programs that compute on it, ours and others', as far as the driver tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """CPU, memory and GPUs of this computer."""

    gpus: tuple[Gpu, ...]
    cpu_count: int
    cpu_percent: float
    ram_total: int
    """Bytes."""
    ram_used: int
    """Bytes that programs hold and cannot be reclaimed."""
    cpu_bf16: bool
    """Whether the CPU multiplies bfloat16 natively (avx512_bf16 or amx_bf16)."""
    gpu_note: str
    """Why there is no GPU to see, one sentence; empty if there is one."""
    driver: str = ""
    """Version of the NVIDIA driver."""
    driver_cuda: str = ""
    """Newest CUDA that the driver can run, as `13.0`."""


_lock = threading.Lock()
_cached: tuple[float, Machine] | None = None


def inventory() -> Machine:
    """Return the current state of the machine, at most `CACHE_S` old.  Never raises."""
    global _cached
    with _lock:
        if _cached is None or time.monotonic() - _cached[0] > CACHE_S:
            _cached = (time.monotonic(), _read())
        return _cached[1]


class GpuMeter:
    """Utilization and used memory of the visible GPUs, read often: NVML stays open between two readings."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._open = False
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None and visible.strip() in ("", "-1"):
            return
        import pynvml

        try:
            pynvml.nvmlInit()
            self._open = True
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            self._handles = _visible_handles([part for handle in handles for part in _slices(handle)], visible)
        except pynvml.NVMLError:  # no driver, or one that does not answer: nothing to read
            self._handles = []

    def read(self) -> list[tuple[int | None, int | None]]:
        """Return per GPU its busy share in percent and its used memory in bytes; None for what it does not tell."""
        if not self._handles:
            return []
        import pynvml

        def ask(function: Any, handle: Any) -> Any:
            try:
                return function(handle)
            except pynvml.NVMLError:  # a MIG slice has no utilization; a GPU may fall off the bus
                return None

        found: list[tuple[int | None, int | None]] = []
        for handle in self._handles:
            rates, memory = (
                ask(pynvml.nvmlDeviceGetUtilizationRates, handle),
                ask(pynvml.nvmlDeviceGetMemoryInfo, handle),
            )
            found.append((None if rates is None else int(rates.gpu), None if memory is None else int(memory.used)))
        return found

    def close(self) -> None:
        """Let go of NVML."""
        if self._open:
            import pynvml

            self._handles, self._open = [], False
            pynvml.nvmlShutdown()


def _read() -> Machine:
    (gpus, note), (driver, cuda) = _read_gpus(), _read_driver()
    memory = psutil.virtual_memory()
    return Machine(
        gpus=gpus,
        cpu_count=os.cpu_count() or 1,
        cpu_percent=psutil.cpu_percent(),
        ram_total=memory.total,
        ram_used=memory.total - memory.available,
        cpu_bf16=_cpu_bf16(),
        gpu_note=note,
        driver=driver,
        driver_cuda=cuda,
    )


def _cpu_bf16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _read_gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return the visible GPUs and, if there is none, why."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return (), "CUDA_VISIBLE_DEVICES hides every GPU."
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), f"No NVIDIA driver answers ({error})."
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        chosen = _visible_handles([part for handle in handles for part in _slices(handle)], visible)
        found = tuple(_read_gpu(index, handle) for index, handle in enumerate(chosen))
        return found, "" if found else "The NVIDIA driver reports no GPU."
    except pynvml.NVMLError as error:
        return (), f"The NVIDIA driver does not answer ({error})."
    finally:
        pynvml.nvmlShutdown()


def _read_driver() -> tuple[str, str]:
    """Return the versions of the driver and of the CUDA it can run; empty without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return "", ""
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return str(pynvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}"
    except pynvml.NVMLError:
        return "", ""
    finally:
        pynvml.nvmlShutdown()


def _slices(handle: object) -> list[Any]:
    """Return the MIG slices of a GPU if it is cut, else the GPU itself."""
    import pynvml

    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
        if current != pynvml.NVML_DEVICE_MIG_ENABLE:
            return [handle]
        slices = []
        for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                slices.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
            except pynvml.NVMLError_NotFound:
                continue
        return slices or [handle]
    except pynvml.NVMLError:  # a GPU that cannot be cut says so by an error
        return [handle]


def _visible_handles(handles: list, visible: str | None) -> list:
    """Apply CUDA_VISIBLE_DEVICES: indices or UUID prefixes; like CUDA, stop at the first invalid entry."""
    if visible is None:
        return handles
    import pynvml

    by_uuid = {str(pynvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
    chosen = []
    for entry in visible.split(","):
        entry = entry.strip()
        if entry.isdigit() and int(entry) < len(handles):
            chosen.append(handles[int(entry)])
        elif match := [handle for uuid, handle in by_uuid.items() if entry and uuid.startswith(entry)]:
            chosen.append(match[0])
        else:
            break
    return chosen


def _read_gpu(index: int, handle: object) -> Gpu:
    import pynvml

    def ask(function, *args):
        try:
            return function(handle, *args)
        except pynvml.NVMLError:
            return None

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    rates, power = ask(pynvml.nvmlDeviceGetUtilizationRates), ask(pynvml.nvmlDeviceGetPowerUsage)
    capability = ask(pynvml.nvmlDeviceGetCudaComputeCapability)
    return Gpu(
        index=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        name=str(pynvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        utilization=None if rates is None else int(rates.gpu),
        temperature_c=ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
        power_w=None if power is None else round(power / 1000),
        bf16=bool(capability and capability[0] >= 8),
        processes=tuple(_describe(one) for one in ask(pynvml.nvmlDeviceGetComputeRunningProcesses) or ()),
    )


def _describe(process: Any) -> GpuProcess:
    """Say whose a process is; in a container its pid may be unknown here."""
    name, user = "a program", "unknown user"
    try:
        known = psutil.Process(int(process.pid))
        name, user = known.name()[:40], known.username()[:40]
    except (psutil.Error, ValueError):
        pass
    return GpuProcess(pid=int(process.pid), name=name, user=user, used_bytes=int(process.usedGpuMemory or 0))
