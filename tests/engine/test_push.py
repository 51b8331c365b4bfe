"""Pushing: a private repository by default, only what belongs there, and every refusal in plain words."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.export.push import push_folder

PROJECT = Path(__file__).resolve().parents[2]
REFUSALS = {"forbidden": 403, "taken": 409, "stale": 401, "busy": 429, "broken": 500}


class StubHub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as making a repository and one commit of small files ask for."""

    def log_message(self, *_):
        """Say nothing."""

    def answer(self, value, code=200):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"name": "me", "type": "user", "sha": "a" * 40, "id": "me/x", "siblings": [], "tags": []})

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.seen.append((path, self.headers.get("Authorization"), data))
        if path == "/api/repos/create":
            asked = json.loads(data)
            if code := REFUSALS.get(asked["name"]):
                return self.answer({"error": "no"}, code)
            return self.answer({"url": f"{self.server.address}/me/{asked['name']}", "id": f"me/{asked['name']}"})
        if "/preupload/" in path:
            files = [
                {"path": item["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for item in json.loads(data)["files"]
            ]
            return self.answer({"files": files})
        if "/commit/" in path:
            url = f"{self.server.address}/me/x/commit/{'b' * 40}"
            return self.answer({"commitUrl": url, "commitOid": "b" * 40, "pullRequestUrl": None})
        return self.answer({"errors": [], "warnings": []})


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StubHub)
    server.seen, server.address = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def export(tmp_path) -> Path:
    folder = tmp_path / "root" / "runs" / "r1" / "exports" / "small"
    folder.mkdir(parents=True)
    (folder.parents[1] / "recipe.yaml").write_text("model_name_or_path: m\n")
    for name in ("README.md", "config.json", "export.json", ".hidden", "model.bin"):
        (folder / name).write_text("{}")
    return folder


def push(hub, export, *words, token="hf_secret_of_the_test"):
    """Run the command in a process of its own: the hub's address is read once, at import."""
    environment = {
        **{key: value for key, value in os.environ.items() if "PROXY" not in key.upper() and not key.startswith("HF_")},
        "HF_ENDPOINT": hub if isinstance(hub, str) else hub.address,
        "HF_HOME": str(export.parents[4] / "hf"),
        **({"HF_TOKEN": token} if token else {}),
    }
    argv = [sys.executable, "-m", "engine", "push", str(export.parents[1]), "exports/small", *words]
    return subprocess.run(argv, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_folder_becomes_a_private_repository_without_what_tells_of_this_machine(hub, export):
    done = push(hub, export, "small")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("/me/small")
    asked = [json.loads(data) for path, _, data in hub.seen if path == "/api/repos/create"]
    assert asked[0]["name"] == "small" and asked[0].get("visibility", asked[0].get("private")) in ("private", True)
    (commit,) = [data for path, _, data in hub.seen if "/commit/" in path]
    files = [json.loads(line)["value"] for line in commit.splitlines() if json.loads(line)["key"] == "file"]
    assert {file["path"] for file in files} == {"README.md", "config.json"}
    assert base64.b64decode(files[0]["content"]) == b"{}"
    assert {header for path, header, _ in hub.seen if "validate" not in path} == {"Bearer hf_secret_of_the_test"}
    assert "hf_secret" not in done.stdout + done.stderr


def test_public_is_asked_for(hub, export):
    push(hub, export, "small", "--public")
    asked = [json.loads(data) for path, _, data in hub.seen if path == "/api/repos/create"]
    assert asked[0].get("visibility", asked[0].get("private")) in ("public", False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("forbidden", "may not write to"),
        ("taken", "already"),
        ("stale", "does not accept"),
        ("busy", "too many requests"),
        ("broken", "status 500"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, export, monkeypatch, name, words):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    for key in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(UserError, match=words) as caught:
        push_folder(export, name, public=False, update=False, progress=lambda *_: None)
    assert caught.value.fix and len(caught.value.problems) == 1


def test_no_network_and_no_login_are_said(export):
    done = push("http://127.0.0.1:9", export, "small")
    assert done.returncode == 2 and "could not be reached" in done.stderr and "Traceback" not in done.stderr
    done = push("http://127.0.0.1:9", export, "small", token="")
    assert done.returncode == 2 and "Nobody is logged in" in done.stderr and "hf auth login" in done.stderr


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a b", "-x", "a..b", "org/"])
def test_a_wrong_name_is_refused_before_anything_is_asked(export, name):
    with pytest.raises(UserError, match="no name for a repository"):
        push_folder(export, name, public=False, update=False, progress=lambda *_: None)
