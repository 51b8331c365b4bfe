"""Where a model lies, and the sentences for what cannot be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.models import STARTER_MODEL, cache_folder, find_local, is_local_path
from engine.contract.places import DataRoot, require_free
from engine.model.sources import resolve_model


def folder(path: Path, *files: str, config: object = None) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    for name in files:
        (path / name).write_bytes(b"x")
    return path


def test_names_and_paths_are_told_apart():
    assert [is_local_path(name) for name in ("a/b", "gpt2", "./a", "/a", "~/a", "a/b/c", "../x")] == [
        False,
        False,
        True,
        True,
        True,
        True,
        True,
    ]


def test_a_local_folder_and_our_cache_are_found(tmp_path):
    root = DataRoot(tmp_path / "home").make()
    local = folder(tmp_path / "m", "model.safetensors")
    assert find_local(str(local), root) == local
    assert find_local(STARTER_MODEL, root) is None
    ours = folder(cache_folder(STARTER_MODEL, root), "model.safetensors")
    assert find_local(STARTER_MODEL, root) is None, "without source.json it is not complete"
    (ours / "source.json").write_text("{}")
    assert find_local(STARTER_MODEL, root) == ours


def test_long_names_never_share_a_folder(tmp_path):
    """Both begin with the same 64 characters; so do a model and its tokenizer alone."""
    root, begin = DataRoot(tmp_path / "home").make(), "org/" + "x" * 70
    names = [f"{begin}-7b", f"{begin}-13b", f"{begin}-7b.tokenizer", begin[:64], f"{begin[:50]}.tokenizer"]
    folders = [cache_folder(name, root, commit="0" * 40).name for name in names]
    assert len(set(folders)) == len(names) and max(map(len, folders)) <= 64 + 13
    assert cache_folder(STARTER_MODEL, root).name == "huggingfacetb--smollm2-135m-instruct", "short ones stay readable"


@pytest.mark.parametrize("ending", ["", "@0123456789ab"])
def test_a_copy_under_a_cut_name_is_still_found_by_its_own_model_alone(tmp_path, ending):
    root, begin = DataRoot(tmp_path / "home").make(), "org/" + "x" * 70
    old = folder(root.models / (f"org--{'x' * 59}{ending}"), "model.safetensors")
    (old / "source.json").write_text(json.dumps({"name": f"{begin}-7b", "revision": "0123456789ab" + "c" * 28}))
    assert find_local(f"{begin}-7b", root) == old
    assert find_local(f"{begin}-13b", root) is None
    (old / "model.safetensors").unlink()
    assert find_local(f"{begin}-7b", root) is None, "a tokenizer alone"


@pytest.mark.parametrize(
    ("files", "config", "words"),
    [
        ((), None, "no weights"),
        (("pytorch_model.bin",), None, "pickled"),
        (("model.safetensors",), {"auto_map": {"AutoModel": "x.py"}}, "own Python code"),
        (("model.safetensors",), [1], "no readable config"),
    ],
)
def test_folders_that_cannot_be_loaded_safely_are_refused(tmp_path, files, config, words):
    path = folder(tmp_path / "m", *files, config=config)
    with pytest.raises(UserError, match=words) as caught:
        find_local(str(path), DataRoot(tmp_path))
    assert caught.value.fix and caught.value.field == "model_name_or_path"


def test_without_a_hub_a_model_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE") as caught:
        resolve_model("somebody/some-model", root=DataRoot(tmp_path))
    assert "local" in caught.value.fix


def test_a_full_disk_is_told_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match="GiB"):
        require_free(tmp_path, 2**60, what="The model")
