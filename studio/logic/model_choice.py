"""Which models can be chosen, where they are, and whether the hub could bring them.

    model_choices(root) -> names
    look_up(name, ...)  -> ModelInfo: shapes, and notes or problems: local, fetched at the start, or out of reach

The hub is asked in a thread and its answer is kept for a minute; no page ever waits for a download here.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import Problem, UserError
from engine.contract.gguf_file import converted, header_of
from engine.contract.memory import gigabytes
from engine.contract.model_facts import KNOWN_CONFIGS, known_config, read_config
from engine.contract.models import CONVERTED_FIRST, MODELSCOPE, STARTER_MODEL, find_local, local_gguf
from engine.contract.places import DataRoot, modelscope_endpoint

ANSWER_AGE_S = 60.0
TIMEOUT_S = 4.0

_lock = threading.Lock()
_asked_at: dict[str, float] = {}
_answers: dict[str, str] = {}
"""By the address of a hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a model before a run."""

    config: dict[str, Any] | None
    """Values of its config.json, or of our table; None if neither has it."""
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Why a run with it cannot start here."""


def model_choices(root: DataRoot) -> list[str]:
    """Return models to choose from: those of the presets, folders and GGUF files that people put into the models
    folder, and GGUF files that were used before."""
    folders = [path.parent for path in sorted(root.models.glob("*/config.json"))]
    files = [str(path) for path in sorted(root.models.glob("*.gguf"))]
    used = [str(source.get("path", "")) for _, source in converted(root)]
    own = [str(folder) for folder in folders if not (folder / "source.json").exists()]
    return list(dict.fromkeys([*KNOWN_CONFIGS, *own, *files, *filter(None, used)]))


def model_that_is_here(root: DataRoot) -> str:
    """Return the first known model that lies on this disk, the starter first; empty if there is none."""
    for name in (STARTER_MODEL, *model_choices(root)):
        try:
            if find_local(name, root) is not None:
                return name
        except UserError:
            continue
    return ""


def look_up(name: str, revision: str | None, root: DataRoot) -> ModelInfo:
    """Say where a model is: on this disk, fetched at the start, or out of reach. Never raises."""
    try:
        local = find_local(name, root, revision=revision)
        if local is None and (gguf := local_gguf(name)) is not None:
            return _gguf_to_convert(gguf)
    except UserError as error:
        return ModelInfo(config=None, problems=error.problems)
    config = (read_config(local) if local else None) or known_config(name)
    if local:
        return ModelInfo(config=config)
    if name.lower() == STARTER_MODEL.lower():
        return ModelInfo(config=config, notes=("The model is fetched when the run starts (about 0.3 GiB, once).",))
    if name.lower() in CONVERTED_FIRST:
        text = f"{name} exists only with its own Python code, which this program never runs."
        fix = f"convert it once: python -m engine convert {name}"
        return ModelInfo(config=config, problems=(Problem(problem=text, fix=fix, field="model_name_or_path"),))
    endpoint = modelscope_endpoint() if name.startswith(MODELSCOPE) else hub_endpoint()
    if reason := why_unreachable(endpoint, wait_s=0.3):
        text = f"{name} is not on this machine and the hub cannot be reached: {reason}"
        fix = "choose a model that is on this machine, or a local folder."
        return ModelInfo(config=config, problems=(Problem(problem=text, fix=fix, field="model_name_or_path"),))
    return ModelInfo(
        config=config, notes=("The model is not on this machine yet: it is downloaded when the run starts.",)
    )


def _gguf_to_convert(gguf: Path) -> ModelInfo:
    header = header_of(gguf)
    size = gigabytes(2 * header.num_parameters)
    text = f"The GGUF file is converted to safetensors when the run starts: about {size} of disk and memory, once."
    return ModelInfo(config=header.config(), notes=(text,))


def hub_endpoint() -> str:
    """Return the address of the Hugging Face hub, or of the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def why_unreachable(endpoint: str | None = None, *, wait_s: float = 0.0) -> str:
    """Return why a hub cannot be reached; empty if it can, or while nobody knows.

    Args:
        endpoint: Its address; the Hugging Face hub's if none is named.
        wait_s: Wait at most this long for the first answer.
    """
    address = endpoint or hub_endpoint()
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if offline and address == hub_endpoint():
        return "HF_HUB_OFFLINE is set."
    with _lock:
        asked_at = _asked_at.get(address)
        stale = asked_at is None or time.monotonic() - asked_at > ANSWER_AGE_S
        if stale:
            _asked_at[address] = time.monotonic()
    if stale:
        thread = threading.Thread(target=_ask, args=(address,), daemon=True)
        thread.start()
        thread.join(wait_s)
    return _answers.get(address, "")


def _ask(address: str) -> None:
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "mft-studio"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            _answers[address] = ""
    except urllib.error.HTTPError:
        _answers[address] = ""  # it answers, if only to refuse
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, socket.gaierror):
            _answers[address] = f"{address} is not known to the network of this machine (no name server, or offline)."
        elif isinstance(reason, TimeoutError):
            _answers[address] = f"{address} did not answer in {TIMEOUT_S:.0f} seconds."
        else:
            _answers[address] = f"{address} does not answer ({str(reason)[:120]})."
