"""The real application hands out no file but its own: forty ways to ask for one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote

import pytest

from engine.contract.errors import UserError
from engine.contract.files import child, slug
from engine.contract.places import DataRoot
from engine.contract.rundir import open_run
from studio.access.accounts import Accounts
from studio.access.opening import Access
from studio.context import StudioContext
from studio.logic import presets, settings
from studio.logic.dataset_store import delete_task
from studio.logic.runs import request_delete
from studio.shell import build_app
from tests.asgi import ask_async

PROJECT = Path(__file__).resolve().parents[2]
CANARY = "canary-content-of-a-file"
NAMES = [
    "../../x", "..", ".", "", "a/b", "/etc/passwd", "nul\0byte", "-rf", ".hidden", "a b", "semi;touch pwned;", "`id`",
    "$(id)", "new\nline", "%2e%2e%2fetc", "..\\x", "C:\\x", "caf\u00e9", "\u6570\u636e", "x" * 300, "~", "*",
    "a\u202eb", "con|x",
]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The whole application on a data root with a secret file in every folder."""
    root = DataRoot(tmp_path_factory.mktemp("home")).make()
    for folder in (root.path, root.runs, root.datasets, root.models):
        (folder / "secret.txt").write_text(CANARY)
    access = Access(accounts=Accounts(root.accounts), token="t")
    return root, build_app(StudioContext(root=root, project=PROJECT), access)


def spellings(root: DataRoot) -> list[str]:
    files = [
        "/etc/passwd",
        f"{root.path}/secret.txt",
        f"{root.runs}/secret.txt",
        f"{PROJECT}/app.py",
        f"{PROJECT}/.git/config",
    ]
    asked = [f"/gradio_api/file={file}" for file in files]
    asked += [f"/file={file}" for file in files] + [f"/gradio_api/file/{file}" for file in files]
    asked += [f"/gradio_api/file={root.temporary}/../secret.txt", f"/gradio_api/file={root.temporary}/..//secret.txt"]
    asked += [
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file=/etc//passwd",
    ]
    asked += ["/gradio_api/file=file:///etc/passwd", "/gradio_api/file=http://127.0.0.1:9/x", "/gradio_api/file=app.py"]
    asked += ["/gradio_api/file=./app.py", "/gradio_api/file=.git/config", "/gradio_api/file=/proc/self/environ"]
    asked += ["/gradio_api/file=/dev/zero", "/gradio_api/file=~/.ssh/id_rsa", "/gradio_api/file=/etc/passwd%00.txt"]
    asked += [
        "/studio-static/../app.py",
        "/studio-static/%2e%2e/app.py",
        "/studio-static//etc/passwd",
        "/studio-static/..%2fapp.py",
    ]
    asked += ["/static/../../etc/passwd", "/assets/../../../../etc/passwd", "/svelte/../../../etc/passwd"]
    asked += [
        "/custom_component/x/y/../../../../etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/gradio_api/token",
        "/gradio_api/stream/x/../../file=/etc/passwd",
    ]
    return asked


def test_no_spelling_of_a_path_leads_to_a_file(served):
    root, app = served
    asked = spellings(root)
    assert len(asked) >= 40

    async def all_of_them():
        return [await ask_async(app, unquote(path), host="127.0.0.1:7860") for path in asked]

    answers = asyncio.run(all_of_them())
    for path, answer in zip(asked, answers, strict=True):
        assert answer.status in (400, 403, 404, 405, 422), (path, answer.status)
        assert CANARY.encode() not in answer.body and b"root:" not in answer.body and b"argparse" not in answer.body


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_leads_out_of_its_folder(served, name):
    root, _ = served
    before = sorted(str(path) for path in root.path.parent.rglob("*"))
    assert child(root.runs, slug(name)).parent == root.runs
    for act in (
        lambda: child(root.runs, name),
        lambda: open_run(root.runs, name),
        lambda: delete_task(root, name),
        lambda: request_delete(root, name),
        lambda: presets.load_preset(name, root, PROJECT),
        lambda: presets.delete_preset(name, root),
        lambda: settings.clean(root, name),
    ):
        with pytest.raises(UserError):
            act()
            if act.__code__.co_names[0] == "child":  # a plain name is none of those that lead out
                raise UserError("plain")
    assert sorted(str(path) for path in root.path.parent.rglob("*")) == before
