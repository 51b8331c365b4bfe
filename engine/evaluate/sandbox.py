"""Run Python programs that nobody has read: without network, without files, within limits, killed as a tree.

    program text -> a process of its own, locked in (engine.evaluate.confine) -> Outcome (how it ended, what it printed)

Which lock this machine allows is found out by running a program that tries to get out.  Where none works, programs are
not run, unless the caller insists (`allow_unsandboxed`).  A program's output is text, never HTML.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from engine.contract.errors import UserError

MIB = 2**20
KEPT_BYTES = 16 << 10
"""Of each stream the first and the last so many bytes are kept."""
OUTPUT_BYTES = 16 * MIB
"""A program that prints more is killed."""
GRACE_S = 3.0
"""After a program's wall time has passed, so long its keeper may take to say so."""
LEVELS = {
    "namespaces": "Linux namespaces: no network, no processes, no files but Python's own",
    "landlock": "Landlock and seccomp: no network, no signals, no files but Python's own",
    "limits": "resource limits and refused system calls only: programs see this machine's files",
}
LAUNCH = "import sys; sys.path.insert(0, sys.argv[1]); from engine.evaluate.confine import main; main()"
ESCAPE = """
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), 0.5)
except OSError:
    pass
else:
    raise SystemExit("network")
try:
    open({secret!r}).read()
except OSError:
    pass
else:
    raise SystemExit("files")
print("locked in")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use."""

    cpu_s: int = 10
    """Processor seconds: counted so, a verdict does not depend on what else the machine does."""
    wall_s: float = 30.0
    memory_bytes: int = 1024 * MIB
    """Address space of each of its processes."""
    file_bytes: int = 16 * MIB
    """Largest file."""
    box_bytes: int = 64 * MIB
    """All files together; with `landlock`, which cannot count, only each file is bounded."""
    open_files: int = 64
    processes: int = 32
    core_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended."""

    end: str
    """`exited`, `killed` (by a signal), `timeout`, or `output` (printed too much)."""
    status: int
    """Exit status, or the signal that killed it."""
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float


class Sandbox:
    """Runs programs behind the best lock that works here.

    Args:
        level: One of `LEVELS`, or empty: the first that works.
        allow_unsandboxed: Whether to go on with resource limits alone where nothing else works.
        python: The interpreter of the programs; its installation is all they see.

    Raises:
        UserError: If nothing works and going on was not allowed.
    """

    def __init__(self, level: str = "", *, allow_unsandboxed: bool = False, python: str = sys.executable) -> None:
        self.python = python
        self.level = level or working_level()
        if not self.level and not allow_unsandboxed:
            problem = "Programs written by a model cannot be locked in on this machine, so none was run."
            fix = "`python -m engine doctor` says why; use a machine that allows namespaces or Landlock."
            raise UserError(problem, fix=fix)
        self.level = self.level or "limits"
        self._readable = _installation(python)
        self._processes_of_user = _processes_of_user()

    def run(self, program: str, limits: Limits = Limits()) -> Outcome:
        """Run one program and return how it ended.

        Raises:
            UserError: If the lock did not close: the program was not run then.
        """
        with contextlib.ExitStack() as stack:
            box = "/box"
            if self.level != "namespaces":
                box = stack.enter_context(tempfile.TemporaryDirectory(prefix="mft-box-", ignore_cleanup_errors=True))
                Path(box, "program.py").write_text(program, encoding="utf-8")
            request = {
                "level": self.level,
                "program": program,
                "python": self.python,
                "readable": self._readable,
                "processes_of_user": self._processes_of_user,
                "box": box,
                **{name: getattr(limits, name) for name in Limits.__dataclass_fields__},
            }
            return _launch(request, limits)

    def run_all(self, programs: Iterable[str], limits: Limits = Limits()) -> Iterator[Outcome]:
        """Run programs on all cores and yield their outcomes in order."""
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            yield from pool.map(lambda program: self.run(program, limits), programs)


@lru_cache(maxsize=1)
def working_level() -> str:
    """Return the first level that locks a program in, found by a program that tries to get out; empty if none does."""
    return next((level for level in ("namespaces", "landlock") if not level_fault(level)), "")


@lru_cache(maxsize=4)
def level_fault(level: str, python: str = sys.executable) -> str:
    """Return why a level does not lock a program in here, empty if it does."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.NamedTemporaryFile("w", prefix="mft-") as secret:
        secret.write("secret")
        secret.flush()
        os.chmod(secret.name, 0o644)  # only the lock keeps it from being read
        program = ESCAPE.format(port=server.getsockname()[1], secret=secret.name)
        try:
            outcome = Sandbox(level, python=python).run(program)
        except UserError as error:
            return error.problem
    if outcome.stdout.strip() == "locked in":
        return ""
    return f"a program could reach {outcome.stderr.strip()[-200:] or outcome.end}"


def _installation(python: str) -> list[str]:
    """Return the paths that an interpreter needs: a link before what it points at."""
    prefixes = [sys.prefix, sys.base_prefix] if python == sys.executable else []
    system = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"]
    found: list[str] = []
    for path in [*system, *prefixes]:
        for one in (*_links(path), os.path.realpath(path)):
            inside = any(one == seen or one.startswith(seen + "/") for seen in found if not os.path.islink(seen))
            if os.path.exists(one) and one != "/" and not inside:
                found.append(one)
    return found


def _links(path: str) -> Iterator[str]:
    """Yield a path and each link that it leads to, as an environment that links to another one does."""
    for _ in range(40):  # as many as the kernel follows
        yield path
        if not os.path.islink(path):
            return
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))


def _processes_of_user() -> int:
    """Return how many threads this user has: the limit of `landlock` is added to them."""
    count, user = 0, os.getuid()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and folder.stat().st_uid == user:
                count += len(os.listdir(folder / "task"))
    return count


class _Stream:
    """The first and the last bytes of a stream that may have no end."""

    def __init__(self) -> None:
        self.head, self.tail, self.total = b"", b"", 0

    def add(self, piece: bytes) -> None:
        self.total += len(piece)
        room = KEPT_BYTES - len(self.head)
        self.head += piece[:room]
        self.tail = (self.tail + piece[room:])[-KEPT_BYTES:] if len(piece) > room else self.tail

    def text(self) -> str:
        cut = self.total - len(self.head) - len(self.tail)
        middle = f"\n... {cut} bytes left out ...\n".encode() if cut else b""
        return (self.head + middle + self.tail).decode("utf-8", "replace")


def _launch(request: dict[str, Any], limits: Limits) -> Outcome:
    """Start the launcher, feed it, read what comes back, and see that it ends."""
    report_read, report_write = os.pipe()
    root = str(Path(__file__).resolve().parents[2])
    argv = [sys.executable, "-I", "-S", "-c", LAUNCH, root, str(report_write)]
    pipe = subprocess.PIPE
    started = time.monotonic()
    launcher = subprocess.Popen(
        argv,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        pass_fds=[report_write],
        env={"LANG": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
    )
    os.close(report_write)
    assert launcher.stdin and launcher.stdout and launcher.stderr
    with launcher, open(report_read, "rb", buffering=0) as report:
        with contextlib.suppress(BrokenPipeError):
            launcher.stdin.write(json.dumps(request).encode())
            launcher.stdin.close()
        deadline = started + limits.wall_s + GRACE_S
        out, err, told, why = _read(
            {"out": launcher.stdout, "err": launcher.stderr, "report": report}, deadline, launcher
        )
    answer = json.loads(told.splitlines()[-1]) if told.strip() else {}
    if "error" in answer:
        raise UserError(
            f"The sandbox could not be closed: {answer['error']}.",
            fix="`python -m engine doctor` says what works here.",
        )
    if not answer and not why:
        raise UserError(
            f"The sandbox could not be started: {err.text()[-300:]}",
            fix="`python -m engine doctor` says what works here.",
        )
    status = int(answer.get("status", signal.SIGKILL))
    killed, cpu = os.WIFSIGNALED(status), float(answer.get("cpu_s", 0.0))
    late = why == "timeout" or answer.get("timed_out") or (killed and cpu >= limits.cpu_s - 0.5)
    end = "output" if why == "output" else "timeout" if late else "killed" if killed else "exited"
    return Outcome(
        end=end,
        status=os.WTERMSIG(status) if killed else os.WEXITSTATUS(status),
        stdout=out.text(),
        stderr=err.text(),
        wall_s=float(answer.get("wall_s", time.monotonic() - started)),
        cpu_s=cpu,
    )


def _read(
    files: dict[str, IO[bytes]], deadline: float, launcher: subprocess.Popen[bytes]
) -> tuple[_Stream, _Stream, str, str]:
    """Read all streams to their ends, which come when the last process inside is dead.

    Returns:
        Output, errors, the keeper's report, and why the program was stopped from here: `timeout`, `output` or empty.
    """
    streams, why = {name: _Stream() for name in files}, ""
    with selectors.DefaultSelector() as waiting:
        for name, file in files.items():
            waiting.register(file, selectors.EVENT_READ, name)
        while waiting.get_map():
            left = deadline - time.monotonic()
            if left <= 0 or (not why and streams["out"].total + streams["err"].total > OUTPUT_BYTES):
                if why:
                    launcher.kill()
                    break
                why, deadline = "timeout" if left <= 0 else "output", time.monotonic() + GRACE_S
                launcher.terminate()
            for key, _ in waiting.select(max(0.0, min(left, 1.0))):
                piece = os.read(key.fd, 1 << 16)
                streams[key.data].add(piece)
                if not piece:
                    waiting.unregister(key.fileobj)
    return streams["out"], streams["err"], streams["report"].text(), why
