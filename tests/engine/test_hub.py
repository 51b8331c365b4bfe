"""Data sets from a hub: fetched once into JSON Lines, refused in one sentence, used by a recipe like a file."""

from __future__ import annotations

import builtins
import datetime
import errno
import http.server
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import datasets
import pytest
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError
from huggingface_hub import DatasetInfo, HfApi

from engine.__main__ import main
from engine.contract.errors import UserError
from engine.contract.hub_path import HubDataset, is_hub_path, on_disk, parse_hub_path
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import absolute_paths
from engine.contract.taskfile import load_examples
from engine.data.hub import fetch_dataset, local_recipe

PROJECT = Path(__file__).resolve().parents[2]
SHA = "a" * 40
ROWS = [{"question": f"q{i}", "answer": f"a{i}", "at": datetime.date(2026, 1, 1), "raw": b"\x00"} for i in range(5)]


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path / "root").make()


@pytest.fixture
def hub(monkeypatch):
    """A hub that gives `ROWS` for any name and remembers what was asked for."""
    asked = []

    def load(path, *, split, revision, **where):
        asked.append((path, where, split, revision))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: DatasetInfo(id="org/name", sha="c0ffee"))
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
    assert hub == [("hf://datasets/org/name", {"name": None}, "test", None)]
    examples, scan = load_examples(path)
    assert (scan.format, len(examples)) == ("question/answer", 5)
    assert json.loads(path.read_text().splitlines()[0])["at"].startswith("2026-01-01")
    source = json.loads((path.parent / "source.json").read_text())
    assert (source["rows"], source["revision"], source["as_text"]) == (5, "c0ffee", ["at", "raw"])


def test_what_is_fetched_by_half_is_not_there(root, hub, monkeypatch):
    monkeypatch.setattr("engine.data.hub.free_bytes", lambda _: 0)
    dataset = parse_hub_path("hf://org/name")
    with pytest.raises(UserError, match="disk is full"):
        fetch_dataset(dataset, root)
    assert dataset.find(root) is None and not list(dataset.folder(root).parent.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DatasetNotFoundError("Dataset 'org/name' doesn't exist on the Hub"), "There is no data set org/name"),
        (DatasetNotFoundError("Dataset 'org/name' is a gated dataset on the Hub."), "gated"),
        (ValueError("BuilderConfig 'x' not found. Available: ['python', 'java']"), "python"),
        (RuntimeError("Dataset scripts are no longer supported"), "script of its own"),
        (OSError("Network is unreachable"), "could not be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (OSError("Not enough disk space. Needed: 9 TiB"), "disk is full"),
        (DatasetGenerationError("An error occurred while generating the dataset"), "files of org/name cannot be read"),
        (DataFilesNotFoundError("No (supported) data files found"), "holds no data files"),
    ],
)
def test_what_goes_wrong_is_one_sentence(root, hub, monkeypatch, error, words):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
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
    assert "pip install -r requirements-modelscope.txt" in caught.value.fix
    assert "modelscope==" in (PROJECT / "requirements-modelscope.txt").read_text()


def test_modelscope_rows_are_kept_and_its_own_errors_are_sentences(root, monkeypatch):
    class HubError(Exception):
        """As in modelscope_hub: neither an OSError nor a ValueError."""

    def load(name, *, subset_name, split, version):
        if name == "org/none":
            raise HubError("[E1001] no such data set")
        return [{"question": "q", "answer": f"{subset_name} {split} {version}"}]

    msdatasets = types.SimpleNamespace(MsDataset=types.SimpleNamespace(load=load))
    for name in ("modelscope", "modelscope_hub"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "modelscope.msdatasets", msdatasets)
    monkeypatch.setitem(sys.modules, "modelscope_hub.errors", types.SimpleNamespace(HubError=HubError))
    path = fetch_dataset(parse_hub_path("modelscope://org/name?config=c"), root)
    assert json.loads(path.read_text()) == {"question": "q", "answer": "c train master"}
    with pytest.raises(UserError, match="E1001"):
        fetch_dataset(parse_hub_path("modelscope://org/none"), root)


def test_a_full_disk_in_the_middle_of_a_write_is_a_sentence_and_leaves_nothing(root, hub, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("engine.data.hub._plain", full)
    dataset = parse_hub_path("hf://org/name")
    with pytest.raises(UserError, match="disk is full"):
        fetch_dataset(dataset, root)
    assert dataset.find(root) is None and not list(dataset.folder(root).parent.glob(".tmp-*"))


def test_a_config_of_the_hubs_parquet_copy_is_a_folder_of_it(root, hub, tmp_path, monkeypatch):
    """On that branch there are no configs: `load_dataset(name, "python", revision=...)` finds none."""
    fetch_dataset(parse_hub_path("hf://org/name?config=python&revision=refs/convert/parquet"), root)
    assert hub[-1][1] == {"data_dir": "python"}
    monkeypatch.undo()
    for config in ("python", "java"):
        (tmp_path / "copy" / config / "train").mkdir(parents=True)
        rows = datasets.Dataset.from_list([{"q": config}])
        rows.to_parquet(tmp_path / "copy" / config / "train" / "0000.parquet")
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    assert datasets.load_dataset(str(tmp_path / "copy"), data_dir="python", **options)["q"] == ["python"]
    with pytest.raises(ValueError, match="not found"):
        datasets.load_dataset(str(tmp_path / "copy"), "python", **options)


class StubHub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as `datasets` asks for: one data set `org/name`, one with a script, refusals by name."""

    files = {"README.md": b"---\nlicense: mit\n---\n", "train.jsonl": b'{"question": "q", "answer": "a"}\n' * 5}
    refusals = {
        "gated": (403, "GatedRepo"), "none": (404, "RepoNotFound"), "hidden": (401, "RepoNotFound"),
        "old": (404, "RevisionNotFound"), "busy": (429, ""), "broken": (500, ""),
    }  # fmt: skip

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = path.removeprefix("/api").removeprefix("/datasets/").split("/")[1:2]
        code, headers, body = self.answer(path, name[0] if name else "")
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def answer(self, path, name):
        if name == "login":
            return 200, {"Content-Type": "text/html"}, b"<html>"
        if name not in ("name", "script"):
            code, reason = self.refusals.get(name, (404, "RepoNotFound"))
            return code, {"X-Error-Code": reason}, b"{}"
        if "/tree/" in path:
            listed = [
                {"type": "file", "path": key, "size": len(value), "oid": "b" * 40} for key, value in self.files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
        if path.startswith("/api/"):
            info = {"id": f"org/{name}", "sha": SHA, "cardData": {"license": "mit"}, "siblings": [], "tags": []}
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        file = path.rpartition("/")[2]
        body = b"print()" if file == "script.py" == f"{name}.py" else self.files.get(file)
        if body is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA}, b""
        return 200, {"ETag": f'"{len(body):040d}"', "X-Repo-Commit": SHA}, body


@pytest.fixture(scope="module")
def stub():
    """The address of a hub on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StubHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_real_library_fetches_from_a_hub_and_never_from_the_working_directory(stub, tmp_path):
    """In a process of its own: the hub's address is read once, at import. `org/local` is a folder right here."""
    (tmp_path / "org" / "local").mkdir(parents=True)
    (tmp_path / "org" / "local" / "train.jsonl").write_text('{"question": "mine", "answer": "mine"}\n')
    paths = ["org/name", "org/name?split=nope", "org/name?config=odd", "org/script", "org/local", "json"]
    code = "import sys; from engine.__main__ import main\nfor path in sys.argv[1:]: print(main(['fetch-data', path]))"
    environment = {
        **{key: value for key, value in os.environ.items() if "PROXY" not in key.upper() and not key.startswith("HF_")},
        "HF_ENDPOINT": stub, "HF_HOME": str(tmp_path / "hf"), "MFT_STUDIO_HOME": str(tmp_path / "root"),
        "PYTHONPATH": str(PROJECT),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *(f"hf://{path}" for path in paths)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    found, *codes = done.stdout.split()
    assert codes == ["0", "2", "2", "2", "2", "2"], done.stderr
    assert len(Path(found).read_text().splitlines()) == 5
    source = json.loads((Path(found).parent / "source.json").read_text())
    assert (source["revision"], source["licence"], source["rows"]) == (SHA, "mit", 5)
    for words in ("['train']", "['default']", "script of its own", "no data set org/local", "no data set json"):
        assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gated", "is gated"),
        ("none", "There is no data set"),
        ("hidden", "There is no data set"),
        ("old", "has no revision `v9`"),
        ("busy", "too many requests"),
        ("broken", "could not be reached"),
        ("login", "is not the Hugging Face hub"),
    ],
)
def test_what_a_hub_refuses_is_one_sentence(root, stub, monkeypatch, name, words):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stub)
    for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(UserError, match=words) as caught:
        fetch_dataset(parse_hub_path(f"hf://org/{name}?revision=v9"), root)
    assert caught.value.fix and len(caught.value.problems) == 1


def test_a_hub_out_of_reach_is_told_at_once(root, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UserError, match="could not be reached"):
        fetch_dataset(parse_hub_path("hf://org/name"), root)


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
