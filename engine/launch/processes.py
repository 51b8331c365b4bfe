"""Start detached processes and signal exactly the ones that were recorded.

Torch elastic starts every rank in a session of its own, and return codes do not tell the truth; so processes are known
by (pid, start time, boot id) and nothing is ever signalled by name or group.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from engine.contract.redact import is_secret_name
from engine.contract.rundir import ProcessId

PROJECT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
NEEDED_SECRETS = frozenset(
    {
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "MODELSCOPE_API_TOKEN",
        "WANDB_API_KEY",
        "TOKENIZERS_PARALLELISM",
    }
)
PR_SET_CHILD_SUBREAPER = 36


def start_detached(
    argv: Sequence[str], log_file: Path, *, environment: Mapping[str, str] | None = None, keep: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output appended to a file that nobody has to drain.

    Args:
        argv: Program and arguments; no shell is involved.
        log_file: Where its output goes.
        environment: Variables on top of `child_environment`.
        keep: Open files that it inherits.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with open(log_file, "ab", buffering=0) as log:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
            cwd=PROJECT,
            env={**child_environment(), **(environment or {})},
            pass_fds=tuple(keep),
        )


def child_environment() -> dict[str, str]:
    """Return the environment for engine processes: without the web framework's switches, telemetry off.

    Secrets stay behind, but for those of the services a run may talk to.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GRADIO_") and (name in NEEDED_SECRETS or not is_secret_name(name))
    }
    inherited = environment.get("PYTHONPATH")
    environment.update(
        PYTHONPATH=os.pathsep.join([str(PROJECT), inherited] if inherited else [str(PROJECT)]),
        PYTHONUNBUFFERED="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="true",
    )
    return environment


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel to signal this process when its parent dies (Linux); elsewhere do nothing.

    Only for a process whose parent's *main* thread started it: the kernel watches the thread, not the process.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:  # it died between the two lines
        os.kill(os.getpid(), signal_number)


def be_killed_first() -> None:
    """Offer this process to the kernel when memory runs out (Linux): rather a training than the studio."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        return


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants (Linux), so that they can be reaped."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def send_signal(process: ProcessId, signal_number: int) -> bool:
    """Signal a recorded process if it is still that process; return whether it was."""
    if not process.alive():
        return False
    try:
        os.kill(process.pid, signal_number)
    except ProcessLookupError:
        return False
    return True


def descendants(pid: int) -> list[ProcessId]:
    """Return the living descendants of a process."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for process in children:
        try:
            found.append(ProcessId.of(process.pid))
        except psutil.NoSuchProcess:
            continue
    return found


def end_processes(processes: Sequence[ProcessId], *, grace_s: float) -> None:
    """End recorded processes: SIGTERM, wait, SIGKILL what is left."""
    living = [process for process in processes if send_signal(process, signal.SIGTERM)]
    handles = []
    for process in living:
        try:
            handles.append(psutil.Process(process.pid))
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(handles, timeout=grace_s)
    for process in living:
        send_signal(process, signal.SIGKILL)
