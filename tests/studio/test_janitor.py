"""Uploads that nobody took over go, those under way stay; a full disk takes none."""

from __future__ import annotations

import os
import time

from engine.contract.places import MIN_FREE_BYTES
from studio.guard import Guard
from studio.janitor import sweep
from tests.asgi import ask, reached


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def test_fifty_uploads_that_were_cut_off_go_and_one_under_way_stays(tmp_path):
    folder, kept = tmp_path / "tmp", tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    for i in range(50):
        (folder / f"{i}").mkdir(parents=True)
        (folder / f"{i}" / "part").write_bytes(b"x" * 100)
        age(folder / f"{i}" / "part", 1000)
        age(folder / f"{i}", 1000)
    (folder / "new").mkdir()
    (folder / "new" / "part").write_text("x")
    age(folder / "new", 1000)  # the folder is old, what is written into it is not
    (folder / "link").symlink_to(kept)
    age(folder / "link", 1000)
    assert sweep(folder, older_s=600) == 51
    assert [path.name for path in folder.iterdir()] == ["new"] and (kept / "file").exists()
    assert sweep(tmp_path / "nowhere", older_s=0) == 0


def test_a_disk_that_is_nearly_full_takes_no_upload_and_still_shows_pages():
    full = Guard(reached, free=lambda: MIN_FREE_BYTES - 1)
    origin = {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}
    refused = ask(full, "/gradio_api/upload", "POST", **origin)
    assert refused.status == 403 and b"nearly full" in refused.body
    assert ask(full, "/gradio_api/queue/join", "POST", **origin).status == 200
    assert ask(Guard(reached, free=lambda: MIN_FREE_BYTES), "/gradio_api/upload", "POST", **origin).status == 200
