"""The inside of the sandbox: a process that locks itself in and then becomes the program.

    launcher (reads one request from stdin)  ->  keeper (first process of the sandbox)  ->  program (python program.py)

Two ways, tried by `engine.evaluate.sandbox` once per machine:

- `namespaces`: own user, process, mount, network, IPC and host-name namespaces.  The root is an empty tmpfs with the
  Python installation bound read-only.  When the keeper, process 1 in there, ends, the kernel kills everything in there.
- `landlock`: no namespaces (containers, Ubuntu's AppArmor rule).  Landlock hides the file system but for the Python
  installation and the folder; seccomp forbids sockets, signals, changes of files' owners and modes, and leaving the
  process group, which is killed at the end.

Both: seccomp, resource limits, no privileges to be gained, an environment of a few lines.  Started by root, the program
runs as a user that nobody else is.  Standard library only, started with -I -S: a launcher costs 15 ms.  Reports are
JSON lines on the descriptor named in argv.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from engine.evaluate import landlock, seccomp

BOX = "/box"
OLD = "/old"
NOBODY = 65534
LONELY_UID = 2_000_000_000
"""Started by root, a program is user LONELY_UID + pid of its launcher, who owns no file and no process here."""
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 4096, 16384, 1 << 19
MNT_DETACH, AT_RECURSIVE = 2, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
NAMESPACES = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWPID, NEWNET."""
NEW_USER = 0x10000000
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
DEVICES = ("null", "zero", "full", "random", "urandom")

libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Run one program, told by the request on stdin; the report goes to descriptor argv[-1]."""
    report = int(sys.argv[-1])
    os.set_inheritable(report, False)
    request = json.loads(sys.stdin.buffer.read())
    request["launcher"] = os.getpid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # if the studio's process is killed
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory ends, this goes first
        if request["level"] == "namespaces":
            _enter_namespaces()
            keeper = os.fork()
            if keeper:
                os.close(report)
                os.waitpid(keeper, 0)
                os._exit(0)
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _build_root(request)
        else:
            libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # no ptrace of the keeper, no look into its memory
        _keep(request, report)
    except OSError as error:
        _tell(report, error=str(error))
    os._exit(0)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _tell(report: int, **values: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(report, json.dumps(values).encode() + b"\n")


# ---- the keeper ----


def _keep(request: dict[str, Any], report: int) -> None:
    """Start the program, wait for its end or the end of its time, kill what is left, and report."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    started = time.monotonic()
    program = os.fork()
    if not program:
        try:
            _become(request)
        except OSError as error:
            _tell(report, error=str(error))
        finally:
            os._exit(125)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(program, program)  # as the child does, whoever comes first
    timed_out = False
    while os.waitid(os.P_PID, program, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        left = started + request["wall_s"] - time.monotonic()
        told = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, max(left, 0.0)) if left > 0 else None
        timed_out = told is None
        if timed_out or (told is not None and told.si_signo == signal.SIGTERM):
            break
        _reap(but=program)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program, signal.SIGKILL)
    _, status, usage = os.wait4(program, 0)
    _tell(
        report,
        status=status,
        timed_out=timed_out,
        wall_s=time.monotonic() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
    )
    if request["level"] != "namespaces":  # there the kernel does it
        _end_children()


def _end_children() -> None:
    """Kill what has become a child of this process, its maker being dead, until there is none."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in Path("/proc/thread-self/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


def _reap(but: int) -> None:
    """Take note of orphans that have ended, but leave the program itself to `waitid`."""
    with contextlib.suppress(ChildProcessError):
        while (
            ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        ) is not None and ended.si_pid != but:
            os.waitpid(ended.si_pid, 0)


# ---- the program ----


def _become(request: dict[str, Any]) -> NoReturn:
    """Take on the limits and execute the program; only errors come back."""
    namespaces, box = request["level"] == "namespaces", request["box"]
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.chdir(box)
    if os.geteuid() == 0:
        _drop_root(box, request["launcher"])
    elif not namespaces:
        request["processes"] += request["processes_of_user"]  # the limit counts all of this user
    for name in ("core_bytes", "cpu_s", "memory_bytes", "file_bytes", "open_files", "processes"):
        _limit(name, request[name])
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if request["level"] == "landlock":
        landlock.restrict([*request["readable"], *(f"/dev/{name}" for name in DEVICES)], box)
    if seccomp.has_filter():
        seccomp.install_filter(seccomp.build_filter(namespaces=namespaces, pid=os.getpid()))
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": box,
        "TMPDIR": box,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # a score does not depend on the order of a set
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    os.execve(request["python"], [request["python"], "-s", "program.py"], environment)


def _limit(name: str, value: int) -> None:
    numbers = {
        "core_bytes": resource.RLIMIT_CORE,
        "cpu_s": resource.RLIMIT_CPU,
        "memory_bytes": resource.RLIMIT_AS,
        "file_bytes": resource.RLIMIT_FSIZE,
        "open_files": resource.RLIMIT_NOFILE,
        "processes": resource.RLIMIT_NPROC,
    }
    hard = resource.getrlimit(numbers[name])[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(numbers[name], (value, value))


def _drop_root(box: str, launcher: int) -> None:
    """Become a user that owns nothing but the box."""
    user = LONELY_UID + launcher
    os.setgroups([])
    try:
        os.setresgid(user, user, user)
    except OSError:  # inside a container that knows few users
        user = NOBODY
        os.setresgid(user, user, user)
    os.chown(box, user, -1)
    os.setresuid(user, user, user)


# ---- namespaces ----


def _enter_namespaces() -> None:
    """Leave the machine's namespaces; the next child is process 1 of the new one."""
    user, group = os.getuid(), os.getgid()
    if user == 0:
        _check(libc.unshare(NAMESPACES), "unshare")
        return
    _check(libc.unshare(NAMESPACES | NEW_USER), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = (
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(libc.mount(*arguments), f"mount {target}")


def _protect(path: str, attributes: int, *, recursive: bool = False) -> None:
    """Add attributes to a mount without touching those it has, which an unprivileged user may not clear."""
    values = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    where, flags, size = path.encode(), AT_RECURSIVE if recursive else 0, ctypes.sizeof(values)
    _check(
        libc.syscall(MOUNT_SETATTR, -100, where, flags, ctypes.byref(values), ctypes.c_size_t(size)), f"protect {path}"
    )


def _build_root(request: dict[str, Any]) -> None:
    """Make an empty root with the Python installation, a few devices and the box; the old one is gone afterwards."""
    _mount("none", "/", flags=MS_REC | MS_SLAVE)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    os.mkdir("/tmp" + OLD)
    os.chdir("/tmp")
    _check(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", OLD[1:].encode()), "pivot_root")
    os.chdir("/")
    for path in request["readable"]:
        _show(path)
    os.mkdir("/dev")
    for name in DEVICES:
        Path(f"/dev/{name}").touch()
        _mount(f"{OLD}/dev/{name}", f"/dev/{name}", flags=MS_BIND)
        _protect(f"/dev/{name}", ATTR_NOSUID)
    os.mkdir("/proc")
    with contextlib.suppress(OSError):  # in a container that hides parts of it, there is none
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    os.mkdir(BOX)
    _mount("tmpfs", BOX, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=0700,size={request['box_bytes']},nr_inodes=4096")
    with contextlib.suppress(FileExistsError):  # an installation may lie below
        os.symlink(BOX, "/tmp")
    Path(BOX, "program.py").write_text(request["program"], encoding="utf-8")
    _check(libc.umount2(OLD.encode(), MNT_DETACH), "leaving the old root")
    os.rmdir(OLD)
    _protect("/", ATTR_RDONLY)
    request["box"] = BOX


def _show(path: str) -> None:
    """Bind a file or folder read-only where it was; a link is made anew, what it points at is in the list too."""
    before = OLD + path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(before):
        os.symlink(os.readlink(before), path)
    elif not os.path.lexists(path):
        if os.path.isdir(before):
            os.mkdir(path)
        else:
            Path(path).touch()
        _mount(before, path, flags=MS_BIND | MS_REC)
        _protect(path, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, recursive=True)
