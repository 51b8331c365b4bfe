"""Data sets from a hub: fetched once into JSON Lines, refused in one sentence, used by a recipe like a file."""

from __future__ import annotations

import builtins
import datetime
import json

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError

from engine.__main__ import main
from engine.contract.errors import UserError
from engine.contract.hub_path import HubDataset, is_hub_path, on_disk, parse_hub_path
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import absolute_paths
from engine.contract.taskfile import load_examples
from engine.data.hub import fetch_dataset, local_recipe

ROWS = [{"question": f"q{i}", "answer": f"a{i}", "at": datetime.date(2026, 1, 1), "raw": b"\x00"} for i in range(5)]


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path / "root").make()


@pytest.fixture
def hub(monkeypatch):
    """A hub that gives `ROWS` for any name and remembers what was asked for."""
    asked = []

    def load(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return asked


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("hf://org/name", HubDataset(hub="huggingface", name="org/name")),
        (
            "hf://org/name?config=python&split=test&revision=refs/convert/parquet",
            HubDataset(
                hub="huggingface", name="org/name", config="python", split="test", revision="refs/convert/parquet"
            ),
        ),
        ("modelscope://org/name", HubDataset(hub="modelscope", name="org/name")),
    ],
)
def test_a_path_means_a_data_set_and_back(path, expected):
    assert is_hub_path(path) and parse_hub_path(path) == expected and expected.path == path


@pytest.mark.parametrize(
    "path", ["hf://", "hf://a/b/c", "hf://../x", "hf://a/b?what=1", "hf://a/b?split=$(x)", "ftp://a/b"]
)
def test_a_wrong_path_is_refused(path):
    with pytest.raises(UserError):
        parse_hub_path(path)


def test_a_data_set_is_fetched_once_and_reads_like_a_file(root, hub):
    dataset = parse_hub_path("hf://org/name?split=test")
    assert dataset.find(root) is None
    path = fetch_dataset(dataset, root)
    assert fetch_dataset(dataset, root) == path == dataset.find(root) == on_disk(dataset.path, root)
    assert hub == [("org/name", None, "test", None)]
    examples, scan = load_examples(path)
    assert (scan.format, len(examples)) == ("question/answer", 5)
    assert json.loads(path.read_text().splitlines()[0])["at"].startswith("2026-01-01")
    assert json.loads((path.parent / "source.json").read_text())["rows"] == 5


def test_what_is_fetched_by_half_is_not_there(root, hub, monkeypatch):
    monkeypatch.setattr("engine.data.hub.free_bytes", lambda _: 0)
    dataset = parse_hub_path("hf://org/name")
    with pytest.raises(UserError, match="disk is full"):
        fetch_dataset(dataset, root)
    assert dataset.find(root) is None and not list(dataset.folder(root).parent.glob(".new-*"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DatasetNotFoundError("Dataset 'org/name' doesn't exist on the Hub"), "There is no data set org/name"),
        (DatasetNotFoundError("Dataset 'org/name' is a gated dataset on the Hub."), "gated"),
        (ValueError("BuilderConfig 'x' not found. Available: ['python', 'java']"), "python"),
        (RuntimeError("Dataset scripts are no longer supported"), "script of its own"),
        (OSError("Network is unreachable"), "could not be reached"),
    ],
)
def test_what_goes_wrong_is_one_sentence(root, monkeypatch, error, words):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UserError, match=words) as caught:
        fetch_dataset(parse_hub_path("hf://org/name"), root)
    assert caught.value.fix and "Traceback" not in str(caught.value)


def test_offline_and_a_missing_client_say_so(root, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        fetch_dataset(parse_hub_path("hf://org/name"), root)
    real = builtins.__import__

    def missing(name, *arguments, **keywords):
        if name.startswith("modelscope"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="not installed") as caught:
        fetch_dataset(parse_hub_path("modelscope://org/name"), root)
    assert "pip install modelscope==" in caught.value.fix


def test_a_recipe_names_hub_data_and_trains_on_the_copy(root, hub, tmp_path, monkeypatch):
    tasks = [{"name": "far", "path": "hf://org/name"}, {"name": "near", "path": "near.jsonl"}]
    recipe = absolute_paths(Recipe.model_validate({"model_name_or_path": "m", "tasks": tasks}), tmp_path)
    assert [task.path for task in recipe.tasks] == ["hf://org/name", str(tmp_path / "near.jsonl")]
    local = local_recipe(recipe, root)
    assert local.tasks[0].path == str(on_disk("hf://org/name", root)) and local.tasks[1] == recipe.tasks[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    other = [{"name": "gone", "path": "hf://org/other"}, {"name": "wrong", "path": "hf://no such name"}]
    with pytest.raises(UserError) as caught:
        local_recipe(Recipe.model_validate({"model_name_or_path": "m", "tasks": other}), root)
    assert [problem.field for problem in caught.value.problems] == ["tasks.0.path", "tasks.1.path"]


def test_the_command_reports_into_its_status_file(tmp_path, hub, capsys):
    status = tmp_path / "job.json"
    assert main(["fetch-data", "hf://org/by-command", "--status-file", str(status)]) == 0
    told = json.loads(status.read_text())
    assert told["state"] == "done" and capsys.readouterr().out.strip() == told["result"]["path"]
    assert main(["fetch-data", "nonsense", "--status-file", str(status)]) == 2
    assert json.loads(status.read_text())["state"] == "failed"
