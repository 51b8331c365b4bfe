"""The run directory: states as they are, not as somebody wrote them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.files import replace_json
from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import (
    Attempt,
    ProcessId,
    Status,
    claim_attempt,
    create_run,
    create_run_at,
    effective_state,
    list_runs,
    open_run,
    request,
)

RECIPE = parse_recipe("model_name_or_path: a/b\ntasks: [{name: t, path: t.jsonl}]")


@pytest.fixture
def run(tmp_path: Path):
    return create_run(tmp_path, RECIPE)


def dead_process() -> ProcessId:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = ProcessId.of(process.pid)
    process.kill()
    process.wait()
    return identity


def claim(run, process: ProcessId, number: int = 1, **changes) -> Attempt:
    attempt = Attempt(number=number, supervisor=asdict(process), started_at=1.0, **changes)
    claim_attempt(run, attempt)
    return attempt


def say(run, state: str, attempt: int = 1, **changes) -> None:
    replace_json(run.status_file, asdict(Status(attempt=attempt, state=state, **changes)))


def test_a_run_goes_from_queued_to_running_to_stopping(run):
    assert effective_state(run) == "queued"
    claim(run, ProcessId.of(os.getpid()))
    assert effective_state(run) == "preparing"
    say(run, "running")
    assert effective_state(run) == "running"
    request(run, "stop")
    assert effective_state(run) == "stopping"


def test_a_run_whose_processes_are_gone_is_lost(run):
    gone = dead_process()
    claim(run, gone)
    say(run, "running", ranks=(asdict(gone),))
    assert effective_state(run) == "lost"


def test_a_rank_that_outlives_its_supervisor_keeps_the_run_alive(run):
    claim(run, dead_process())
    say(run, "running", ranks=(asdict(ProcessId.of(os.getpid())),))
    assert effective_state(run) == "running"


def test_a_recycled_pid_or_another_boot_is_another_process():
    me = ProcessId.of(os.getpid())
    assert me.alive()
    assert not replace(me, started_at=me.started_at - 100).alive()
    assert not replace(me, boot_id="another").alive()


def test_the_supervisors_word_counts_at_the_end(run):
    attempt = claim(run, ProcessId.of(os.getpid()))
    say(run, "running")
    replace_json(run.attempts / "001.json", asdict(replace(attempt, ended_at=2.0, end="failed", problem="killed")))
    assert effective_state(run) == "failed"


def test_a_new_attempt_forgets_the_old_status(run):
    claim(run, dead_process(), ended_at=2.0, end="stopped")
    say(run, "stopped")
    assert effective_state(run) == "stopped"
    claim(run, ProcessId.of(os.getpid()), number=2)
    assert effective_state(run) == "preparing"


def test_an_attempt_is_claimed_once(run):
    claim(run, ProcessId.of(os.getpid()))
    with pytest.raises(UserError, match="started by somebody else"):
        claim(run, ProcessId.of(os.getpid()))


def test_a_run_is_never_overwritten(run):
    with pytest.raises(UserError, match="a run in"):
        create_run_at(run.path, RECIPE)
    assert run.recipe() == RECIPE


def test_runs_are_listed_newest_first_and_opened_by_plain_names(tmp_path: Path):
    older, newer = create_run_at(tmp_path / "20260101-a", RECIPE), create_run_at(tmp_path / "20260102-b", RECIPE)
    assert [run.id for run in list_runs(tmp_path)] == [newer.id, older.id]
    assert open_run(tmp_path, older.id).path == older.path
    for name in ("..", "nothing-here", "../20260101-a"):
        with pytest.raises(UserError):
            open_run(tmp_path, name)


def test_broken_and_future_status_files_do_not_break_a_reader(run):
    run.status_file.write_text('{"state": "run')
    assert run.status() == Status()
    run.status_file.write_text('{"state": "running", "attempt": 1, "from_the_future": 1}')
    assert run.status().state == "running"


def test_only_complete_checkpoints_are_listed(run):
    for name, complete in (
        ("step-000020", True),
        ("step-000003", True),
        ("step-000030", False),
        (".tmp-step-000040", True),
    ):
        (run.checkpoints / name).mkdir()
        if complete:
            (run.checkpoints / name / "manifest.json").write_text("{}")
    assert [path.name for path in run.checkpoint_dirs()] == ["step-000003", "step-000020"]
