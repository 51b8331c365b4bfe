"""Programs of others that make a format: run as processes of their own, on a view of the model that holds no code.

merged folder -> view (links, no auto_map, no Python) -> program, offline -> its files
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.launch.processes import child_environment

KEPT = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt")
TIMEOUT_S = 24 * 3600.0


@contextmanager
def plain_view(model: Path, beside: Path) -> Iterator[Path]:
    """Give a folder named `model` with the files of a model, without anything that names code of its own.

    Args:
        model: Folder with safetensors.
        beside: Where the view is made; gone afterwards.
    """
    with TemporaryDirectory(prefix=".view-", dir=beside) as place:
        view = Path(place) / "model"
        view.mkdir()
        for path in {path for pattern in KEPT for path in model.glob(pattern)}:
            value = read_json(path) if path.name in ("config.json", "tokenizer_config.json") else None
            if isinstance(value, dict) and value.pop("auto_map", None):
                (view / path.name).write_text(json.dumps(value), encoding="utf-8")
            else:
                (view / path.name).symlink_to(path.resolve())
        yield view


def run_tool(argv: Sequence[str], *, what: str, python_path: Sequence[Path] = ()) -> None:
    """Run a program offline, its output going to ours line by line.

    Raises:
        UserError: If it fails; with its last line that says anything.
    """
    environment = child_environment() | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, python_path), environment["PYTHONPATH"]])
    last: deque[str] = deque(maxlen=30)
    with subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.strip():
                last.append(line.strip())
        code = process.wait()
    if code:
        said = next((line for line in reversed(last) if "Error" in line), last[-1] if last else f"exit status {code}")
        raise UserError(f"{what} did not work: {said[:400]}", fix="read the log; another format may work.")
