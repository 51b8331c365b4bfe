"""Where a model lies on this disk, without loading it and without torch.

    local folder  |  our cache root/models/<slug>@<commit>/  |  the Hugging Face cache          -> Path, or None
    local .gguf   |  its converted copy in our cache                                            -> Path, or None

A model folder is config.json plus *.safetensors.  Pickled weights and remote code are refused with the way out.
"""

from __future__ import annotations

import glob
import hashlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import LONGEST_SLUG, read_json, slug
from engine.contract.gguf_file import find_converted, gguf_of, header_of
from engine.contract.model_facts import known_config, read_config
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir

STARTER_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The small model that also comes through pip, for machines that do not reach the hub."""
CONVERTIBLE = {
    "qwen": "Qwen 1",
    "baichuan": "Baichuan",
    "chatglm": "ChatGLM or CodeGeeX2",
    "aquila": "Aquila",
    "internlm": "InternLM",
    "internlm2": "InternLM2",
}
"""Model types that existed only as code of their repositories -> what people call them; `engine convert` takes them."""
CONVERTED_FIRST = frozenset({"zai-org/codegeex2-6b"})
"""Models of the presets that the hub has only in such a form."""
MODELSCOPE = "modelscope://"
"""How the name of a model of ModelScope begins; all others are of the Hugging Face hub, or paths."""
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_local_path(name_or_path: str) -> bool:
    """Whether a model name means a folder or file rather than a model of a hub."""
    if name_or_path.startswith(MODELSCOPE) and HUB_ID.fullmatch(name_or_path.removeprefix(MODELSCOPE)):
        return False
    return name_or_path.startswith(("/", ".", "~")) or not HUB_ID.fullmatch(name_or_path)


def cache_folder(name: str, root: DataRoot, *, commit: str = "") -> Path:
    """Return where our own copy of a hub model lies or would lie, of a commit if one is named; no two share one."""
    plain = _plain(name)
    known_as = slug(plain)
    if len(plain) > LONGEST_SLUG:  # cut: what is lost may be all that tells it from another
        key = hashlib.sha256(plain.lower().encode()).hexdigest()[:12]
        known_as = f"{known_as[: LONGEST_SLUG - len(key) - 1]}-{key}"
    return root.models / (known_as + (f"@{commit[:12]}" if commit else ""))


def _plain(name: str) -> str:
    return name.replace("://", "--").replace("/", "--")


def commit_of(folder: Path) -> str:
    """Return the commit of a downloaded model, from our cache or the Hugging Face cache; empty if it has none."""
    source = read_json(folder / "source.json")
    if isinstance(source, dict) and COMMIT.fullmatch(str(source.get("revision", ""))):
        return str(source["revision"])
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else ""


def pinned_recipe(run: RunDir) -> Recipe:
    """Return the recipe of a run with the commit of the model that it was begun with, where that is known."""
    recipe = run.recipe()
    if (revision := pinned_revision(run)) == recipe.model.revision:
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": revision})})


def pinned_revision(run: RunDir) -> str | None:
    """Return the commit of the model that a run was begun with, or what its recipe names."""
    recipe = run.recipe()
    for event in run.events()[0]:
        data = event.get("data") if event.get("kind") == "model" else None
        if isinstance(data, dict) and COMMIT.fullmatch(str(data.get("revision", ""))):
            return str(data["revision"])
    return recipe.model.revision


def _in_our_cache(name: str, root: DataRoot, revision: str | None) -> Path | None:
    """Return our newest whole copy of a model, or the one of a commit."""
    plain = cache_folder(name, root)
    if revision is None and (plain / "source.json").is_file():
        return plain
    copies = [*root.models.glob(f"{glob.escape(plain.name)}@*/source.json"), *_cut_copies(name, root)]
    for path in sorted(copies, key=lambda path: path.stat().st_mtime, reverse=True):
        source = read_json(path)
        known = source if isinstance(source, dict) else {}
        same = len(revision or "") >= 7 and str(known.get("revision", "")).startswith(revision or "-")
        if revision is None or same or revision == known.get("asked"):
            return path.parent
    return None


def _cut_copies(name: str, root: DataRoot) -> Iterator[Path]:
    """Yield the `source.json` of copies from when a long name was only cut: two models could share such a folder."""
    cut = slug(_plain(name))
    if cut == cache_folder(name, root).name:
        return
    for path in (*root.models.glob(f"{glob.escape(cut)}/source.json"),
                 *root.models.glob(f"{glob.escape(cut)}@*/source.json")):  # fmt: skip
        source = read_json(path)
        owner = source.get("name") or source.get("model") if isinstance(source, dict) else None
        if owner == name and any(path.parent.glob("*.safetensors")):  # else another model's, or a tokenizer alone
            yield path


def find_local(name_or_path: str, root: DataRoot, *, revision: str | None = None) -> Path | None:
    """Return the folder of a model that is on this disk already; None for a hub id that is not, or a GGUF file yet
    to be converted.

    Raises:
        UserError: If a local folder or file is named that cannot be used.
    """
    if is_local_path(name_or_path):
        if (gguf := local_gguf(name_or_path)) is not None:
            return find_converted(gguf, root, revision=revision)
        return check_model_folder(Path(name_or_path).expanduser())
    return _in_our_cache(name_or_path, root, revision) or _in_hub_cache(name_or_path, revision)


def local_gguf(name_or_path: str) -> Path | None:
    """Return the GGUF file that a local path means; None for any other model.

    Raises:
        UserError: If it is a folder with several.
    """
    return gguf_of(Path(name_or_path).expanduser()) if is_local_path(name_or_path) else None


def model_config(name_or_path: str, root: DataRoot, *, revision: str | None = None) -> dict[str, Any] | None:
    """Return the config.json of a model that is on this disk, or the shapes of a preset's; None if neither is there.

    Raises:
        UserError: If a local folder is named that cannot be used.
    """
    local = find_local(name_or_path, root, revision=revision)
    if local is None and (gguf := local_gguf(name_or_path)) is not None:
        return header_of(gguf).config()
    return (read_config(local) if local else None) or known_config(name_or_path)


def check_model_folder(folder: Path) -> Path:
    """Return the folder if it can be loaded safely.

    Raises:
        UserError: Naming what is missing or refused.
    """

    def refuse(problem: str, fix: str) -> UserError:
        return UserError(problem, fix=fix, field="model_name_or_path")

    if not folder.is_dir():
        raise refuse(
            f"There is no model folder {folder}.", "check the path, or use a Hugging Face id such as Qwen/Qwen2.5-0.5B."
        )
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise refuse(
            f"The model folder {folder} has no readable config.json.", "choose the folder that save_pretrained wrote."
        )
    convert = f"convert it once: python -m engine convert {shlex.quote(str(folder))} NEW_FOLDER"
    if known_as := CONVERTIBLE.get(str(config.get("model_type"))):
        problem = f"The model in {folder} is a {known_as}, which needs its own Python code; this program never runs it."
        raise refuse(problem, convert)
    if not list(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")):
            problem = f"The model folder {folder} has only pickled weights (.bin), which can run code when loaded."
            raise refuse(problem, convert)
        raise refuse(f"The model folder {folder} has no weights.", "choose the folder that holds *.safetensors.")
    if config.get("auto_map") and not config.get("model_type"):
        problem = f"The model in {folder} needs its own Python code, which this program never runs."
        raise refuse(problem, "choose a model that transformers knows natively.")
    return folder.resolve()


def _in_hub_cache(name: str, revision: str | None) -> Path | None:
    """Return a complete snapshot in the Hugging Face cache, or None."""
    if name.startswith(MODELSCOPE):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        return check_model_folder(folder)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, UserError, OSError):
        return None
