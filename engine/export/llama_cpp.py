"""llama.cpp's own converter to GGUF, taken from the source package of llama-cpp-python on PyPI when it is first needed.

    pip download (version and sha256 pinned) -> the converter's files alone, by name -> cache/llama.cpp-<version>/

pip checks the hash before it looks into the package.  Only regular files under the three places that the converter
consists of are unpacked, to paths that are checked; nothing is compiled.  MIT licence, kept beside.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from engine.contract.errors import UserError
from engine.contract.files import new_folder
from engine.contract.places import DataRoot, require_free
from engine.export.tools import plain_view, run_tool

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = PurePosixPath(f"llama_cpp_python-{VERSION}/vendor/llama.cpp")
WANTED = ("convert_hf_to_gguf.py", "LICENSE", "conversion", "gguf-py")
NEEDED_BYTES = 200 * 2**20
MAX_UNPACKED_BYTES = 50 * 2**20
"""The files are 2 MB."""

Progress = Callable[[str, float | None], None]


def converter(root: DataRoot, progress: Progress) -> Path:
    """Return the folder of the converter, fetching it once.

    Raises:
        UserError: If it cannot be had.
    """
    target = root.cache / f"llama.cpp-{VERSION}"
    if (target / WANTED[0]).is_file():
        return target
    root.make()
    require_free(root.cache, NEEDED_BYTES, what="The GGUF converter")
    progress("fetching llama.cpp's converter through pip (76 MB, once)", None)
    with new_folder(target, replace=True) as folder, TemporaryDirectory(dir=root.temporary) as scratch:
        archive = _download(Path(scratch))
        unpack(archive, folder)
        if not (folder / WANTED[0]).is_file():
            raise UserError(f"{archive.name} holds no converter.", fix="report this.")
    return target


def _download(folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "--require-hashes", "--quiet"]
        + ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(wanted)],
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        trouble = said[-1] if said else "pip gave no file"
        raise UserError(
            f"llama.cpp's converter could not be downloaded: {trouble[:300]}.",
            fix="check the network to the package index, or choose another format.",
        )
    return found[0]


def unpack(archive: Path, target: Path) -> None:
    """Write the converter's files from the source package, and nothing else.

    Raises:
        UserError: If a wanted member would leave the folder, or all of them are larger than a converter is.
    """
    total = 0
    with tarfile.open(archive, "r:gz") as package:
        for member in package:
            path = PurePosixPath(member.name)
            if not member.isreg() or not path.is_relative_to(INSIDE):
                continue
            inner = path.relative_to(INSIDE)
            if not inner.parts or inner.parts[0] not in WANTED:
                continue
            total += member.size
            place = (target / inner).resolve()
            if ".." in inner.parts or not place.is_relative_to(target.resolve()) or total > MAX_UNPACKED_BYTES:
                raise UserError(f"{archive.name} is not what it should be ({path}).", fix="report this.")
            place.parent.mkdir(parents=True, exist_ok=True)
            source = package.extractfile(member)
            assert source is not None  # a regular file
            with open(place, "wb") as file:
                shutil.copyfileobj(source, file)


def convert(model: Path, kind: str, target: Path, *, root: DataRoot, progress: Progress) -> None:
    """Write a model folder as one GGUF file.

    Args:
        model: Folder with safetensors.
        kind: bf16 or q8_0.
        target: The file.
        root: Where the converter lies.
        progress: Told what is being done.

    Raises:
        UserError: If the converter cannot be had, or does not know the model.
    """
    place = converter(root, progress)
    progress(f"converting to GGUF {kind}", 0.3)
    with plain_view(model, target.parent) as view:
        argv = [sys.executable, str(place / WANTED[0]), str(view), "--outtype", kind, "--outfile", str(target)]
        argv += ["--model-name", target.stem]
        run_tool(argv, what="llama.cpp's converter", python_path=(place / "gguf-py",))
