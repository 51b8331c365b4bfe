"""Hostile programs: none leaves a trace, none outlives its limit, none sees what is ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.evaluate import sandbox
from engine.evaluate.sandbox import Limits, Sandbox, level_fault

SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin") or sys.executable
LIMITS = Limits(cpu_s=2, wall_s=1.0, memory_bytes=128 * sandbox.MIB)
PATIENT = replace(LIMITS, cpu_s=10, wall_s=120.0)
MARK = "mft-outlives-its-sandbox"


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def box(request):
    """The sandbox, behind each lock that this machine allows."""
    python = sys.executable if not level_fault(request.param) else SYSTEM_PYTHON
    if fault := level_fault(request.param, python):
        pytest.skip(fault)
    return Sandbox(request.param, python=python)


def living(mark: str) -> list[str]:
    """Return the processes of this machine whose command line holds a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_an_honest_program_prints_ends_and_uses_its_folder(box):
    outcome = box.run(
        "import os, sys; open('x', 'w').write('7'); print(open('x').read(), os.listdir('.')); sys.exit(3)"
    )
    assert (outcome.end, outcome.status, outcome.stderr) == ("exited", 3, "")
    assert outcome.stdout == "7 ['program.py', 'x']\n" or outcome.stdout == "7 ['x', 'program.py']\n"


@pytest.mark.parametrize(
    ("program", "end"),
    [
        pytest.param("while True: pass", "timeout", id="infinite loop"),
        pytest.param("import time; time.sleep(600)", "timeout", id="sleeper"),
        pytest.param(
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
            "timeout",
            id="ignores SIGTERM",
        ),
        pytest.param("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "timeout", id="fork bomb"),
        pytest.param("while True: print('x' * 10000)", "output", id="infinite output"),
        pytest.param("x = []\nwhile True: x.append(bytearray(1 << 24))", "exited", id="memory bomb"),
        pytest.param("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", "exited", id="huge file"),
        pytest.param("f = []\nwhile True: f.append(open('/dev/null'))", "exited", id="open files"),
        pytest.param("import os; os.abort()", "killed", id="abort"),
    ],
)
def test_what_takes_too_much_is_stopped(box, program, end):
    outcome = box.run(program, LIMITS if end == "timeout" else PATIENT)
    assert outcome.end == end and (outcome.end, outcome.status) != ("exited", 0)
    assert len(outcome.stdout) + len(outcome.stderr) < 5 * sandbox.KEPT_BYTES


def test_the_network_cannot_be_reached(box):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        attempt = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1).send(b'x')"
        assert box.run(attempt, PATIENT).status == 1
        assert (
            box.run(
                "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
            ).status
            == 1
        )
        with pytest.raises(TimeoutError):
            server.accept()


def test_nothing_of_ours_is_seen_or_changed(box, tmp_path, monkeypatch):
    """A file, the environment and the folders of the user; by path, by link, by /proc, by its own folder's parents."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret_canary")
    canary = tmp_path / "canary.txt"
    canary.write_text("secret canary")
    os.chmod(canary, 0o666)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        os.chmod(folder, 0o777)
    before = (canary.stat().st_mtime_ns, canary.stat().st_mode, sorted(os.listdir(tmp_path)))
    program = f"""
import os, pathlib
canary = {str(canary)!r}
def tried(what):
    try:
        print(what())
    except OSError as error:
        print(type(error).__name__)
tried(lambda: open(canary).read())
tried(lambda: open(canary, "w").write("mine"))
tried(lambda: os.unlink(canary))
tried(lambda: os.chmod(canary, 0))
tried(lambda: os.utime(canary, (1, 1)))
tried(lambda: open({str(tmp_path / "new")!r}, "w"))
tried(lambda: (os.symlink(canary, "link"), open("link").read()))
tried(lambda: (os.symlink("/", "root"), open("root" + canary).read()))
tried(lambda: os.link(canary, "hard"))
tried(lambda: open("/etc/shadow").read())
tried(lambda: open("../../../../etc/shadow").read())
tried(lambda: os.listdir("/home"))
tried(lambda: open("/usr/lib/mft", "w"))
tried(lambda: open("/proc/1/environ").read())
tried(lambda: open(f"/proc/{{os.getppid()}}/environ").read())
tried(lambda: os.listdir("/proc/1/root/home"))
print(sorted(os.environ))
"""
    outcome = box.run(program)
    assert outcome.stderr == "" and "canary" not in outcome.stdout
    lines = outcome.stdout.splitlines()
    assert len(lines) == 17 and all(line.endswith("Error") for line in lines[:-1]), lines
    assert "HF_TOKEN" not in lines[-1] and "LANG" in lines[-1]
    assert canary.read_text() == "secret canary"
    assert (canary.stat().st_mtime_ns, canary.stat().st_mode, sorted(os.listdir(tmp_path))) == before


def test_daemons_die_with_their_sandbox(box):
    """By double fork and setsid, ignoring all signals, its maker having ended long ago."""
    outcome = box.run(f"""
import os, signal, sys, time
if not os.fork():
    try:
        os.setsid()
    except OSError:
        pass
    if not os.fork():
        for number in (1, 2, 15):
            signal.signal(number, signal.SIG_IGN)
        code = "import time; open('up', 'w').close(); time.sleep(300)"
        os.execv(sys.executable, [sys.executable, "-c", code, "{MARK}"])
    os._exit(0)
while not os.path.exists("up"):
    time.sleep(0.01)
""")
    assert outcome.end == "exited" and living(MARK) == []


def test_other_processes_are_out_of_reach(box):
    """A process of ours survives `kill -9` of everything, of the parent, and an attempt to trace it."""
    decoy = subprocess.Popen(["sleep", "60"])
    try:
        outcome = box.run(f"""
import ctypes, os, signal
for pid in ({decoy.pid}, os.getppid(), 1):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
    print(ctypes.CDLL(None).ptrace(16, pid, 0, 0), flush=True)  # PTRACE_ATTACH
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
print("still here")
""")
        assert outcome.stdout == "-1\n-1\n-1\nstill here\n"
        assert decoy.poll() is None
    finally:
        decoy.kill()
        decoy.wait()


def test_new_namespaces_and_privileges_are_refused(box):
    outcome = box.run("""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(0x10000000), libc.mount(b"tmpfs", b"/", b"tmpfs", 0, None), libc.setns(0, 0), os.getuid() == 0)
if os.path.exists("/proc/self/status"):
    print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
""")
    first, *rest = outcome.stdout.splitlines()
    assert first == "-1 -1 -1 False"
    assert rest == [] or set(rest[0]) <= set("[]'0")


def test_nothing_is_left_of_a_sandbox(box, monkeypatch):
    """No folder, no process of its session, also when the program was stopped; other sandboxes may be at work."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    launchers: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: launchers.append(start(*a, **k)) or launchers[-1])
    assert box.run("open('left', 'w').write('x'); print(7)").stdout == "7\n"
    assert box.run("while True: pass", Limits(cpu_s=1, wall_s=0.5)).end == "timeout"
    sessions = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            sessions.add(os.getsid(int(process.name)))
    assert len(launchers) == 2 and not {launcher.pid for launcher in launchers} & sessions
    folder.rmdir()  # refused if something is left


def test_an_environment_behind_several_links_is_shown_with_each_of_them(tmp_path, monkeypatch):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to("three")  # relative to its own folder
    (tmp_path / "three").symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "one"))
    shown = sandbox._installation(sys.executable)
    links = [str(tmp_path / name) for name in ("one", "two", "three")]
    assert [path for path in shown if path in links] == links and os.path.realpath(sys.prefix) in shown


def test_without_a_lock_programs_are_not_run(monkeypatch):
    monkeypatch.setattr(sandbox, "working_level", lambda: "")
    with pytest.raises(UserError, match="locked in"):
        Sandbox()
    assert Sandbox(allow_unsandboxed=True).level == "limits"
