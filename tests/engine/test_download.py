"""Models from a hub on this machine: whole or not there, cut and continued, checked, pinned; refusals in a sentence."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import threading

import pytest

from engine.contract import models
from engine.contract.errors import UserError
from engine.contract.models import cache_folder, commit_of, find_local, pinned_recipe, pinned_revision
from engine.contract.places import DataRoot
from engine.contract.rundir import create_run
from engine.model import download as download_module
from engine.model.sources import resolve_model
from tests.fake_runs import RECIPE

SHA, NEXT = "a" * 40, "b" * 40
CONFIG = json.dumps({"model_type": "llama"}).encode()
WEIGHTS = bytes(range(256)) * 2000
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"}


class StubHub(http.server.BaseHTTPRequestHandler):
    """A hub with one model `org/name`, one with pickles only, and refusals by name."""

    refusals = {"gated": (403, "GatedRepo"), "none": (404, "RepoNotFound"), "old": (404, "RevisionNotFound")}
    cut_at = 0
    """Close the connection after so many bytes of the weights; 0 = never."""
    damaged = 0
    """How many times the weights still come with a wrong byte."""
    sha = SHA
    ranges: list[str] = []
    served: list[str] = []

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        name = self.path.removeprefix("/api/models").split("/")[2].partition("?")[0]
        if name in self.refusals:
            code, reason = self.refusals[name]
            return self.send(code, b"{}", {"X-Error-Code": reason})
        if name == "login":
            return self.send(200, b"<html>", {"Content-Type": "text/html"})
        if self.path.startswith("/api/"):
            files = {"pytorch_model.bin": b"pickle"} if name == "pickled" else FILES
            return self.send(200, json.dumps(self.info(name, files)).encode(), {"Content-Type": "application/json"})
        return self.send_file(self.path.rpartition("/")[2])

    do_HEAD = do_GET

    def info(self, name, files):
        listed = []
        for key, body in files.items():
            git = hashlib.sha1(f"blob {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()
            lfs = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "pointerSize": 134}
            large = {"lfs": lfs} if key.endswith(("safetensors", "bin")) else {}
            listed.append({"rfilename": key, "size": len(body), "blobId": git, **large})
        return {"id": f"org/{name}", "sha": type(self).sha, "siblings": listed, "tags": [], "gated": False}

    def send_file(self, name):
        body, code, headers = FILES[name], 200, {}
        type(self).served.append(name)
        if name == "model.safetensors" and type(self).damaged:
            type(self).damaged -= 1
            body = b"\xff" + body[1:]
        if asked := self.headers.get("Range"):
            type(self).ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, code = body[start:], 206
        cut = type(self).cut_at if name == "model.safetensors" else 0
        self.send(code, body, headers, cut=cut)

    def send(self, code, body, headers, *, cut=0):
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut] if cut else body)
        self.close_connection = True


@pytest.fixture(scope="module")
def server():
    """A server on loopback."""
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StubHub)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """The stub, fresh, as the hub of this process; returns its class."""
    for name, value in {"cut_at": 0, "damaged": 0, "sha": SHA, "ranges": [], "served": []}.items():
        setattr(StubHub, name, value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    for key in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    StubHub.address = server
    return StubHub


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path / "home").make()


def test_a_model_comes_whole_with_its_commit_and_without_pickles(hub, root):
    told = []
    folder = resolve_model("org/name", root=root, progress=lambda text, share: told.append((text, share)))
    assert folder == cache_folder("org/name", root, commit=SHA)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "source.json", "tokenizer.json",
    ]  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and commit_of(folder) == SHA
    assert told[-1][1] == 1.0 and " of " in told[-1][0] and "/s" in told[-1][0]
    hub.served.clear()
    assert resolve_model("org/name", root=root) == folder and not hub.served


def test_a_connection_that_breaks_is_taken_up_again_where_it_broke(hub, root, monkeypatch):
    """Every answer is cut after 100,000 bytes: 512,000 take six of them."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    hub.cut_at = 100_000
    assert (resolve_model("org/name", root=root) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served.count("model.safetensors") == 6 and len(hub.ranges) == 5


def test_a_killed_download_goes_on_where_it_was_killed(hub, root, monkeypatch):
    """What came is kept under another name; the next try asks for the rest only."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    real = download_module._Counted.write

    def killed(self, data):
        if self.file.tell() > 200_000:
            raise KeyboardInterrupt
        return real(self, data)

    monkeypatch.setattr(download_module._Counted, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        resolve_model("org/name", root=root)
    monkeypatch.setattr(download_module._Counted, "write", real)
    part = root.models / f".{cache_folder('org/name', root, commit=SHA).name}.part" / "model.safetensors.part"
    here = part.stat().st_size
    assert 200_000 < here < 210_000 and find_local("org/name", root) is None
    told = []
    folder = resolve_model("org/name", root=root, progress=lambda text, share: told.append(share))
    assert hub.ranges == [f"bytes={here}-"] and hub.served.count("config.json") == 1
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and told[-1] == 1.0 and not part.parent.exists()


@pytest.mark.parametrize(("times", "works"), [(1, True), (9, False)])
def test_a_file_with_a_wrong_hash_is_fetched_again_and_never_used(hub, root, times, works):
    hub.damaged = times
    if works:
        assert (resolve_model("org/name", root=root) / "model.safetensors").read_bytes() == WEIGHTS
        return
    with pytest.raises(UserError, match="came damaged"):
        resolve_model("org/name", root=root)
    assert find_local("org/name", root) is None and not list(root.models.glob(".*/model.safetensors"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gated", "is gated"),
        ("none", "There is no model"),
        ("old", "has no revision `v9`"),
        ("login", "is not the Hugging Face hub"),
        ("pickled", "no safetensors"),
    ],
)
def test_what_a_hub_refuses_is_one_sentence_with_a_way_out(hub, root, name, words):
    with pytest.raises(UserError, match=words) as caught:
        resolve_model(f"org/{name}", root=root, revision="v9")
    assert caught.value.fix and caught.value.field == "model_name_or_path" and len(caught.value.problems) == 1
    assert name != "pickled" or "python -m engine convert org/pickled" in caught.value.fix


def test_a_hub_out_of_reach_is_told(hub, root, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="could not be reached"):
        resolve_model("org/name", root=root)


def test_the_disk_is_looked_at_first_and_a_full_one_keeps_what_came(hub, root, monkeypatch):
    monkeypatch.setattr("engine.contract.places.free_bytes", lambda _: 10_000)
    with pytest.raises(UserError, match="of disk"):
        resolve_model("org/name", root=root)
    assert not hub.served
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download_module._Counted, "write", full)
    with pytest.raises(UserError, match="The disk is full") as caught:
        resolve_model("org/name", root=root)
    assert "what was downloaded is kept" in caught.value.fix


def test_a_commit_is_found_again_when_the_branch_has_moved(hub, root):
    first = resolve_model("org/name", root=root)
    hub.sha = NEXT
    assert resolve_model("org/name", root=root) == first, "without a revision what is here is used"
    second = resolve_model("org/name", root=root, revision="main")
    assert commit_of(second) == NEXT and second != first
    assert (
        find_local("org/name", root, revision=SHA) == first and find_local("org/name", root, revision="main") == second
    )


def test_a_run_keeps_the_commit_it_was_begun_with(root):
    run = create_run(root.runs, RECIPE)
    assert pinned_revision(run) is None and pinned_recipe(run) is run.recipe()
    rows = [{"kind": "model", "data": {"revision": SHA}}, {"kind": "model", "data": {"revision": NEXT}}]
    run.events_file.write_text("".join(json.dumps(row) + "\n" for row in [{"kind": "model", "data": {}}, *rows]))
    assert pinned_revision(run) == SHA and pinned_recipe(run).model.revision == SHA
    assert run.recipe().model.revision is None


def test_a_name_of_the_hub_never_leaves_the_folder(root):
    file = download_module.RemoteFile(name="../../x.json", size=1, url="http://127.0.0.1:9/x")
    with pytest.raises(UserError, match="outside of the model"):
        download_module.download([file], root.models / "m", name="m", source={}, progress=lambda *_: None)
    assert models.COMMIT.fullmatch(SHA)
