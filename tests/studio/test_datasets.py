"""Task files in, a table out: names, atomic folders, held-out files, hostile uploads, delete."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from studio.logic import dataset_store, datasets
from studio.logic.colors import known_colors
from studio.logic.dataset_store import add_files, delete_task
from studio.logic.task_scan import scan_in_child

GOOD = '{"messages": [{"role": "user", "content": "add"}, {"role": "assistant", "content": "a + b"}]}\n'


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path / "root").make()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    samples = tmp_path / "project" / "assets" / "samples"
    samples.mkdir(parents=True)
    (samples / "sorting.jsonl").write_text(GOOD * 4)
    (samples / "sorting.heldout.jsonl").write_text(GOOD)
    return tmp_path / "project"


def upload(folder: Path, name: str, text: str) -> tuple[str, Path]:
    path = folder / f"upload-{len(list(folder.iterdir()))}"
    path.write_text(text)
    return name, path


def rows(root: DataRoot, project: Path) -> dict[str, datasets.TaskRow]:
    return {row.name: row for row in datasets.look(root, project).rows}


def test_samples_are_there_before_anybody_uploads(root, project):
    row = rows(root, project)["sorting"]
    assert (row.kind, row.report.num_used, row.heldout.num_used) == ("sample", 4, 1)
    assert row.state != "unusable"


def test_each_file_becomes_a_task_with_its_counts(root, project, tmp_path):
    files = [upload(tmp_path, "My Task.jsonl", GOOD * 2 + "no json\n"), upload(tmp_path, "Other.JSONL", GOOD)]

    notes = add_files(root, project, files)

    assert [note.task for note in notes] == ["my-task", "other"]
    row = rows(root, project)["my-task"]
    assert (row.report.num_records, row.report.num_used, row.report.num_skipped) == (3, 2, 1)
    assert row.report.skipped[0][0] == 3
    assert row.state == "warnings"
    assert Path(row.path).read_text() == GOOD * 2 + "no json\n"


def test_a_new_task_has_in_the_table_the_color_that_it_keeps(root, project, tmp_path):
    add_files(root, project, [upload(tmp_path, "b.jsonl", GOOD), upload(tmp_path, "a.jsonl", GOOD)])
    first = {row["name"]: row["color"] for row in datasets.table(root, project)}
    add_files(root, project, [upload(tmp_path, "aa.jsonl", GOOD)])  # stands between the others

    then = {row["name"]: row["color"] for row in datasets.table(root, project)}

    assert len(set(then.values())) == 4  # with the sample
    assert first.items() <= then.items() == known_colors(root).items()


def test_the_second_of_two_equal_names_gets_a_number_and_a_notice(root, project, tmp_path):
    notes = add_files(root, project, [upload(tmp_path, "a.jsonl", GOOD), upload(tmp_path, "a.jsonl", GOOD)])

    assert [note.task for note in notes] == ["a", "a-2"]
    assert "`a` is taken" in notes[1].text


def test_a_name_of_a_sample_is_taken(root, project, tmp_path):
    assert add_files(root, project, [upload(tmp_path, "sorting.jsonl", GOOD)])[0].task == "sorting-2"


def test_a_heldout_file_goes_to_its_task_in_any_order(root, project, tmp_path):
    files = [upload(tmp_path, "a.heldout.jsonl", GOOD), upload(tmp_path, "a.jsonl", GOOD * 3)]

    assert all(note.ok for note in add_files(root, project, files))
    row = rows(root, project)["a"]
    assert row.eval_path.endswith("a/heldout.jsonl")
    assert row.heldout.num_used == 1


def test_a_heldout_file_without_a_task_says_what_to_do(root, project, tmp_path):
    note = add_files(root, project, [upload(tmp_path, "a.heldout.jsonl", GOOD)])[0]
    assert not note.ok
    assert "Upload its training file with it" in note.text


def test_an_unusable_file_leaves_its_reason_and_not_its_bytes(root, project, tmp_path):
    note = add_files(root, project, [upload(tmp_path, "bad.jsonl", "not json\n")])[0]

    assert not note.ok
    row = rows(root, project)["bad"]
    assert row.state == "unusable"
    assert row.problem
    assert not (root.datasets / "bad" / "data.jsonl").exists()


def test_a_mended_file_takes_the_place_of_the_unusable_one(root, project, tmp_path):
    add_files(root, project, [upload(tmp_path, "a.jsonl", "not json\n")])
    assert add_files(root, project, [upload(tmp_path, "a.jsonl", GOOD)])[0].task == "a"


@pytest.mark.parametrize("name", ["notes.txt", "noext", "", "..", "a.jsonl.exe"])
def test_other_files_are_refused_by_name(root, project, tmp_path, name):
    note = add_files(root, project, [upload(tmp_path, name, GOOD)])[0]
    assert not note.ok
    assert ".jsonl" in note.text
    assert not any(root.datasets.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "../../x.jsonl",
        "-rf.jsonl",
        ".hidden.jsonl",
        "semi;touch pwned;.jsonl",
        "数据🙂.jsonl",
        "new\nline.jsonl",
        "x" * 300 + ".jsonl",
    ],
)
def test_hostile_names_become_plain_folders(root, project, tmp_path, name):
    note = add_files(root, project, [upload(tmp_path, name, GOOD)])[0]

    assert note.ok
    assert (root.datasets / note.task / "data.jsonl").is_file()
    assert [path.name for path in root.datasets.iterdir()] == [note.task]
    assert "\n" not in note.text


def test_links_and_folders_are_refused(root, project, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(GOOD)
    link = tmp_path / "link"
    os.symlink(secret, link)

    notes = add_files(root, project, [("a.jsonl", link), ("b.jsonl", tmp_path), ("c.jsonl", tmp_path / "gone")])

    assert [note.ok for note in notes] == [False, False, False]
    assert not any(root.datasets.iterdir())


def test_too_large_and_a_full_disk_are_refused(root, project, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_store, "MAX_FILE_BYTES", 10)
    assert "larger than" in add_files(root, project, [upload(tmp_path, "a.jsonl", GOOD)])[0].text
    monkeypatch.setattr(dataset_store, "MAX_FILE_BYTES", 2**40)
    monkeypatch.setattr("engine.contract.places.free_bytes", lambda path: 0)
    assert "disk" in add_files(root, project, [upload(tmp_path, "a.jsonl", GOOD)])[0].text
    assert not any(root.datasets.iterdir())


def test_a_scan_that_hangs_is_ended(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD)
    with pytest.raises(UserError, match="took longer"):
        scan_in_child(path, time_limit_s=0.001)


def test_a_deleted_task_is_in_the_trash_and_not_in_the_table(root, project, tmp_path):
    add_files(root, project, [upload(tmp_path, "a.jsonl", GOOD)])
    gone = delete_task(root, "a")

    assert (gone / "data.jsonl").read_text() == GOOD
    assert "a" not in rows(root, project)


@pytest.mark.parametrize("name", ["", "..", "../runs", ".trash", "sorting", "a/b", "nul\0byte"])
def test_only_uploads_can_be_deleted(root, project, name):
    assert not datasets.request_delete(root, name).ok
    assert (root.path / "runs").is_dir()


def test_the_detail_shows_rows_lines_and_examples_as_data(root, project, tmp_path):
    hostile = json.dumps({"prompt": "<img src=x onerror=alert(1)>", "completion": "${alert(1)}"}) + "\n"
    add_files(root, project, [upload(tmp_path, "a.jsonl", hostile + "broken\n" + hostile)])

    shown = datasets.detail(root, project, "a")

    assert shown["examples"][0] == [["user", "<img src=x onerror=alert(1)>"], ["assistant", "${alert(1)}"]]
    assert shown["skipped"][0][0] == 2
    assert shown["used_text"] == "2 of 3 records used"
    assert shown["can_delete"]
    json.dumps(shown)
    json.dumps(datasets.table(root, project))


def test_an_unknown_task_is_a_user_error(root, project):
    with pytest.raises(UserError, match="no task"):
        datasets.detail(root, project, "nobody")


def test_tables_and_parquet_become_tasks_too(root, project, tmp_path):
    notes = add_files(
        root,
        project,
        [
            upload(tmp_path, "Sheet.csv", "prompt,completion\nq,a\nr,b\n"),
            upload(tmp_path, "sheet.heldout.tsv", "prompt\tcompletion\nx\ty\n"),
            upload(tmp_path, "notes.docx", "x"),
        ],
    )
    assert [note.ok for note in notes] == [True, False, True]
    row = next(row for row in datasets.look(root, project).rows if row.name == "sheet")
    assert row.path.endswith("sheet/data.csv") and row.eval_path.endswith("sheet/heldout.tsv")
    assert row.report.num_used == 2 and row.heldout.num_used == 1
    assert ".parquet" in notes[1].text
