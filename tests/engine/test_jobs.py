"""What a job says of itself: as it goes, when it is done, and every problem that ended it."""

from __future__ import annotations

import pytest

from engine.contract.errors import Problem, UserError
from engine.launch.jobs import JobStatus, reporting


def test_a_job_tells_what_it_does_and_what_it_made(tmp_path, capsys):
    with reporting(tmp_path / "job.json") as job:
        job.progress("merging", 0.5)
        status = JobStatus.read(tmp_path / "job.json")
        assert status and (status.state, status.phase, status.fraction) == ("running", "merging", 0.5)
        job.result = {"folder": "there"}
    status = JobStatus.read(tmp_path / "job.json")
    assert status and (status.state, status.fraction, status.result) == ("done", 1.0, {"folder": "there"})
    assert capsys.readouterr().out == "  merging\n"


def test_without_a_status_file_it_tells_the_terminal_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with reporting(None) as job:
        job.progress("merging", None)
    assert capsys.readouterr().out == "  merging\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), ("No such run.", "choose another.")),
        (
            (Problem(problem="No room.", fix="free some."),),
            ("No such run.\n  -> choose another.\nNo room.\n  -> free some.", ""),
        ),
    ],
)
def test_every_problem_is_told(tmp_path, more, told):
    with pytest.raises(UserError), reporting(tmp_path / "job.json"):
        raise UserError("No such run.", fix="choose another.", more=more)
    status = JobStatus.read(tmp_path / "job.json")
    assert status and status.state == "failed" and (status.problem, status.fix) == told
