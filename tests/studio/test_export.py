"""The Export page's logic: what is started, refused, shown and put into the trash."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.export_formats import FORMATS
from engine.contract.files import replace_json
from engine.contract.places import DataRoot
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.launch.jobs import write_job
from studio.logic import export
from tests.fake_runs import RECIPE


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    root = DataRoot(tmp_path).make()
    for name, model in (("r1", "org/base"), ("r2", "org/base"), ("r3", "org/other")):
        run = create_run_at(root.runs / name, override(RECIPE, [f"model_name_or_path={model}"]))
        checkpoint = run.checkpoints / "step-000004"
        checkpoint.mkdir()
        (checkpoint / "manifest.json").write_text("{}")
        (checkpoint / "adapter_config.json").write_text("{}")
    return root


@pytest.fixture
def started(monkeypatch):
    """The argument lists of the jobs that were started."""
    found = []
    monkeypatch.setattr(export, "start_job", lambda _, argv, __: found.append(argv[: argv.index("--status-file")]))
    return found


def test_an_export_needs_a_checkpoint_and_a_free_name(root, started):
    with pytest.raises(UserError, match="checkpoint"):
        export.request_export(root, "r1", "step-999999", "merged", "x")
    with pytest.raises(UserError, match="no format"):
        export.request_export(root, "r1", "step-000004", "pickle", "x")
    export.request_export(root, "r1", "step-000004", "gguf-q8_0", "../My Model; rm -rf")
    assert started[0][started[0].index("--output") + 1] == "my-model-rm--rf"
    (root.runs / "r1" / "merged" / "taken").mkdir()
    with pytest.raises(UserError, match="already"):
        export.request_export(root, "r1", "step-000004", "merged", "taken")


@pytest.mark.parametrize("key", FORMATS)
def test_every_format_shows_what_it_takes(root, key):
    seen = export.look(root, "r1", "step-000004", key)
    assert seen["about"] and seen["command"].endswith(f"--format {key} --checkpoint step-000004")
    assert seen["first"] == (key not in ("adapter", "merged"))
    assert "empty" in export.look(root, "", "", key) and "empty" in export.look(root, "gone", "", key)


def test_only_adapters_of_one_base_are_offered_and_combined(root, started):
    known = [value for _, value in export.adapter_choices(root, "r1")]
    assert known[0] == "r1:step-000004" and set(known) == {"r1:step-000004", "r2:step-000004"}
    rest = ("ties", "", 0.5, "Both")
    for chosen in (["r1:step-000004"], ["r1:step-000004", "r3:step-000004"]):
        with pytest.raises(UserError, match="two adapters"):
            export.request_combine(root, "r1", chosen, *rest)
    export.request_combine(root, "r1", known, "ties", "-1,2", 0.5, "Both")
    assert "--weights=-1,2" in started[0] and "--output=both" in started[0]
    with pytest.raises(UserError, match="order"):
        export.request_combine(root, "r1", known[::-1], "ties", "1,2", 0.5, "Both")


def test_how_a_job_ended_can_be_forgotten_but_not_one_at_work(root):
    job = root.runs / "r1" / "exports" / ".job.json"
    job.parent.mkdir(exist_ok=True)
    write_job(job, state="failed", problem="no token")
    assert export.look(root, "r1", "step-000004", "merged")["job"]["problem"] == "no token"
    export.dismiss(root, "r1")
    assert export.look(root, "r1", "step-000004", "merged")["job"] is None
    write_job(job, phase="at work")
    export.dismiss(root, "r1")
    assert export.look(root, "r1", "step-000004", "merged")["job"]["state"] == "running"


def test_results_are_shown_pushed_and_deleted_to_the_trash(root, started):
    folder = root.runs / "r1" / "exports" / "small"
    folder.mkdir(parents=True)
    (folder / "small.gguf").write_bytes(b"x" * 2**20)
    (folder / "README.md").write_text("# Card")
    told = {"format": "gguf-q8_0", "mean_logit_difference": 0.09, "same_greedy_tokens": "1 of 2", "checkpoint": "s"}
    replace_json(folder / "export.json", told)
    (seen,) = export.look(root, "r1", "step-000004")["results"]
    assert seen["id"] == "exports/small" and seen["compared"] and seen["card"] == "# Card"
    assert ["Size", "1 MiB"] in seen["facts"] and ["Mean logit difference, this to merged", 0.09] in seen["facts"]
    assert {"llama.cpp server", "Ollama"} <= {one["title"] for one in seen["snippets"]}
    with pytest.raises(UserError, match="needs a name"):
        export.request_push(root, "r1", "exports/small", "--public", False)
    export.request_push(root, "r1", "exports/small", "me/small", False)
    assert started[0][-2:] == ["exports/small", "me/small"]
    assert "--public" not in started[0]
    for bad in ("exports/../checkpoints", "checkpoints/step-000004", "exports/none"):
        with pytest.raises(UserError):
            export.request_delete(root, "r1", bad)
    export.request_delete(root, "r1", "exports/small")
    assert not folder.exists() and len(list((root.path / "trash").iterdir())) == 1
    assert export.look(root, "r1", "step-000004")["results"] == []


def test_broken_files_of_results_break_nothing(root):
    folder = root.runs / "r1" / "exports" / "odd"
    folder.mkdir(parents=True)
    (folder / "export.json").write_text('["no", "object"]')
    (folder / "README.md").write_bytes(b"\xff\xfe")
    (seen,) = export.look(root, "r1", "step-000004")["results"]
    assert seen["name"] == "odd" and not seen["compared"]
