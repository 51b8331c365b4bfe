"""Models of ModelScope from a server on this machine: whole, checked, continued, pinned; no token goes astray."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from engine.__main__ import main
from engine.contract.errors import UserError
from engine.contract.models import cache_folder, commit_of, find_local, is_local_path
from engine.contract.places import DataRoot, modelscope_endpoint
from engine.model.sources import resolve_model, resolve_tokenizer
from studio.logic.model_choice import look_up

OLD, NEW = "1" * 40, "2" * 40
NAME = "modelscope://org/name"
WEIGHTS = bytes(range(256)) * 2000
FILES = {
    "config.json": (b'{"model_type": "llama"}', OLD, 5),
    "model.safetensors": (WEIGHTS, NEW, 9),
    "tokenizer.json": (b"{}", OLD, 5),
    "pytorch_model.bin": (b"pickle", OLD, 5),
    "modeling_x.py": (b"boom", OLD, 5),
}
"""Name -> content, the commit that changed it last, and when."""


class StubModelScope(http.server.BaseHTTPRequestHandler):
    """As much of ModelScope as a download asks for, in its client's words."""

    cut_at = 0
    dated = True
    moved = False
    """Whether the newest commit holds something else than the branch."""
    damaged = False
    asked: list[tuple[str, str]] = []
    tokens: set[str] = set()

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        revision, name = query.get("Revision", ""), url.path.split("/")[5]
        type(self).tokens.add(self.headers.get("Authorization", ""))
        refused = {"none": 404, "gated": 403, "broken": 400}.get(name)
        if refused or revision not in ("master", OLD, NEW):
            return self.send(refused or 404, b"{}")
        if name == "login":
            return self.send(200, b"<html>")
        files = {"config.json": FILES["config.json"], "m.bin": (b"x", OLD, 5)} if name == "pickled" else FILES
        if name == "qwen":
            files = {**FILES, "config.json": (b'{"model_type": "qwen"}', OLD, 5)}
        if url.path.endswith("/repo/files"):
            return self.send(
                200, json.dumps({"Code": 200, "Success": True, "Data": self.listing(files, revision)}).encode()
            )
        type(self).asked.append((query["FilePath"], revision))
        self.send_file(files[query["FilePath"]][0], query["FilePath"])

    def listing(self, files, revision):
        def entry(path, body, commit, date):
            changed = b"!" if self.moved and revision == NEW else b""
            dated = {"Revision": commit, "CommittedDate": date} if self.dated else {}
            digest = hashlib.sha256(body + changed).hexdigest()
            return {"Type": "blob", "Path": path, "Name": path, "Size": len(body), "Sha256": digest, **dated}

        inner = {"Type": "blob", "Path": "deep/x.safetensors", "Size": 1, "Sha256": "0"}
        folder = {"Type": "tree", "Path": "deep", "Name": "deep", "Size": 0, "Sha256": ""}
        dated = {"Revision": OLD, "CommittedDate": 5} if self.dated else {}
        return {"Files": [*(entry(path, *held) for path, held in files.items()), folder, inner | dated]}

    def send_file(self, body, name):
        code, headers, cut = 200, {}, 0
        if name == "model.safetensors":
            body, cut = (b"\xff" + body[1:] if self.damaged else body), type(self).cut_at
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, code = body[start:], 206
        self.send(code, body, headers, cut=cut)

    def send(self, code, body, headers=None, *, cut=0):
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:cut] if cut else body)
        self.close_connection = True


@pytest.fixture(scope="module")
def server():
    """A server on loopback."""
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StubModelScope)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


@pytest.fixture
def hub(server, monkeypatch):
    """The stub, fresh, as ModelScope of this process, with a token of the other hub set; returns its class."""
    fresh = {"cut_at": 0, "dated": True, "moved": False, "damaged": False, "asked": [], "tokens": set()}
    for name, value in fresh.items():
        setattr(StubModelScope, name, value)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for key in ("MODELSCOPE_API_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    return StubModelScope


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path / "home").make()


def test_a_name_of_modelscope_is_no_path(monkeypatch):
    assert not is_local_path(NAME) and is_local_path("modelscope://a/b/c") and is_local_path("modelscope://../x")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "modelscope.ai/")
    assert modelscope_endpoint() == "https://modelscope.ai"


def test_a_model_comes_whole_at_the_commit_of_its_newest_file(hub, root):
    told = []
    folder = resolve_model(NAME, root=root, progress=lambda text, share: told.append((text, share)))
    assert folder == cache_folder(NAME, root, commit=NEW) and commit_of(folder) == NEW
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "source.json", "tokenizer.json",
    ]  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert json.loads((folder / "source.json").read_text())["hub"] == "modelscope"
    assert {revision for _, revision in hub.asked} == {NEW} and told[-1][1] == 1.0
    assert "asking ModelScope for org/name" in told[0][0]
    hub.asked.clear()
    assert resolve_model(NAME, root=root) == folder == find_local(NAME, root, revision=NEW) and not hub.asked
    assert find_local("org/name", root) is None, "the Hugging Face hub may hold another model of that name"


def test_without_commits_or_with_wrong_ones_a_model_is_not_pinned(hub, root):
    hub.moved = True
    folder = resolve_model(NAME, root=root)
    assert commit_of(folder) == "" and {revision for _, revision in hub.asked} == {"master"}
    hub.dated = False
    assert resolve_model(NAME, root=root, revision=OLD) != folder


def test_no_token_goes_to_the_wrong_hub(hub, root, monkeypatch):
    resolve_model(NAME, root=root)
    assert hub.tokens == {""}
    hub.tokens.clear()
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    resolve_model("modelscope://org/other", root=root)
    assert hub.tokens == {"Bearer ms-secret"}


def test_a_connection_that_breaks_is_taken_up_again(hub, root, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    hub.cut_at = 200_000
    assert (resolve_model(NAME, root=root) / "model.safetensors").read_bytes() == WEIGHTS
    assert [name for name, _ in hub.asked].count("model.safetensors") == 3


def test_damaged_weights_are_refused_and_not_there(hub, root):
    hub.damaged = True
    with pytest.raises(UserError, match="came damaged"):
        resolve_model(NAME, root=root)
    assert find_local(NAME, root) is None


def test_a_tokenizer_comes_without_the_weights(hub, root):
    folder = resolve_tokenizer(NAME, root=root)
    assert (folder / "tokenizer.json").is_file() and not list(folder.glob("*.safetensors"))
    assert find_local(NAME, root) is None, "it is no model"


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("none", None, "There is no model org/none on ModelScope"),
        ("name", "v9", "no model org/name at `v9`"),
        ("gated", None, "only to some people"),
        ("broken", None, "with code 400"),
        ("login", None, "is not ModelScope"),
        ("pickled", None, "pickled ones are not loaded"),
        ("qwen", None, "is a Qwen 1, which needs its own Python code"),
    ],
)
def test_what_it_refuses_is_one_sentence(hub, root, name, revision, words):
    with pytest.raises(UserError, match=words) as caught:
        resolve_model(f"modelscope://org/{name}", root=root, revision=revision)
    assert caught.value.fix and caught.value.field == "model_name_or_path"
    assert not [name for name, _ in hub.asked if name.endswith("safetensors")]


def test_out_of_reach_is_told_by_the_engine_and_by_the_page(root, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="ModelScope could not be reached for org/name"):
        resolve_model(NAME, root=root)
    look_up(NAME, None, root)
    (problem,) = look_up("modelscope://Qwen/Qwen3-8B", None, root).problems
    assert "http://127.0.0.1:9 does not answer" in problem.problem


def test_the_page_knows_it_as_a_model_to_download(hub, root):
    told = look_up("modelscope://Qwen/Qwen3-8B", None, root)
    assert told.config and told.config["hidden_size"] == 4096 and "downloaded when the run starts" in told.notes[0]


def test_the_command_fetches_it(hub, root, monkeypatch, capsys):
    monkeypatch.setenv("MFT_STUDIO_HOME", str(root.path))
    for key in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):  # which the command sets for its process
        monkeypatch.setenv(key, "1")
    assert main(["fetch", NAME]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [NAME, f"  {cache_folder(NAME, root, commit=NEW)}"] and not told.err
