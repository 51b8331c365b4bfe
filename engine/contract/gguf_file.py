"""A GGUF file as a model: what its header says, whether it can be used, and where its converted copy lies.

    model.gguf, or a folder with one -> GgufHeader -> root/models/gguf--<name>-<key>/{*.safetensors, source.json, ...}

`engine.model.gguf` makes the copy, once; everything that reads models then reads that.  Nothing in the file is
believed: every length is held against the end of the file before it is used.  No torch, no numpy.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import read_json, slug
from engine.contract.places import DataRoot

ARCHITECTURES = frozenset({
    "llama", "mistral", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen35", "qwen35moe", "gpt-oss", "minimax-m2",
    "lfm2", "falcon", "phi3", "bloom", "stablelm", "gpt2", "starcoder2", "mamba", "nemotron", "gemma2", "gemma3",
    "gemma4", "deci",
})  # fmt: skip
"""Values of `general.architecture` that transformers reads as a causal language model; a test holds them against it."""
PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Those whose shapes the header says in the words of the estimates."""
MAX_ENTRIES = 1_000_000
MAX_TEXT_BYTES = 4_000_000
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One entry of the table of tensors."""

    name: str
    shape: tuple[int, ...]
    """As in the file: the fastest dimension first."""
    type_id: int
    """`gguf.GGMLQuantizationType`."""
    offset: int
    """Bytes from the beginning of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a file says of itself."""

    path: Path
    metadata: dict[str, Any]
    """Numbers and texts by key; of an array its length."""
    tensors: tuple[GgufTensor, ...] = field(repr=False)

    @property
    def architecture(self) -> str:
        """The value of `general.architecture`, or an empty text."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def num_parameters(self) -> int:
        """Weights of all tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    def of_model(self, key: str) -> Any:
        """Return a value that is kept under the architecture's name, or None."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def config(self) -> dict[str, Any] | None:
        """Return the shapes as a `config.json` says them, for estimates; None for an architecture that needs more."""
        if self.architecture not in PLAIN or self.of_model("expert_count"):
            return None
        names = {
            "hidden_size": "embedding_length",
            "num_hidden_layers": "block_count",
            "num_attention_heads": "attention.head_count",
            "num_key_value_heads": "attention.head_count_kv",
            "intermediate_size": "feed_forward_length",
            "max_position_embeddings": "context_length",
        }
        config = {key: self.of_model(name) for key, name in names.items()}
        config["vocab_size"] = next((t.shape[-1] for t in self.tensors if t.name == "token_embd.weight"), 0)
        if any(not isinstance(value, int) or value <= 0 for value in config.values()):
            return None
        head = self.of_model("attention.key_length") or self.of_model("rope.dimension_count")
        tied = all(tensor.name != "output.weight" for tensor in self.tensors)
        kind = {"model_type": self.architecture, "attention_bias": self.architecture == "qwen2"}
        return {**kind, **config, **({"head_dim": head} if head else {}), "tie_word_embeddings": tied}


def gguf_of(path: Path) -> Path | None:
    """Return the GGUF file that a local model path means; None if it means a folder of another kind.

    Raises:
        UserError: If the folder holds several.
    """
    if path.suffix.lower() == ".gguf":
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    files = sorted(file for file in path.glob("*.gguf") if not file.name.lower().startswith("mmproj"))
    if len(files) > 1 and not _PART.search(files[0].name):
        names = ", ".join(file.name for file in files[:5]) + (" ..." if len(files) > 5 else "")
        raise _refuse(f"The folder {path} holds {len(files)} GGUF files: {names}.", "name one of the files.")
    return files[0] if files else None


def find_converted(file: Path, root: DataRoot, *, revision: str | None = None) -> Path | None:
    """Return the converted copy of a GGUF file; None if it has yet to be made.

    A copy outlives its file: runs that were trained on it can go on, and be merged.

    Args:
        file: The file, which may be gone.
        root: Our data root.
        revision: The beginning of the hash of what the file held when a run was begun with it.

    Raises:
        UserError: If there is neither a copy nor a file that can be used, or the file is another one now.
    """
    path = file.expanduser().resolve()
    copies = [copy for copy in converted(root) if copy[1].get("path") == str(path)]
    if revision:
        same = [folder for folder, source in copies if str(source.get("revision", "")).startswith(revision)]
        if same:
            return same[-1]
    if not path.is_file():
        if copies and not revision:
            return copies[-1][0]
        raise _refuse(f"There is no file {path}.", "check the path.")
    state = path.stat()
    read_header(path, state.st_size, state.st_mtime_ns)
    for folder, source in copies:
        if (source.get("size"), source.get("mtime_ns")) == (state.st_size, state.st_mtime_ns):
            if revision:
                raise changed(path)
            return folder
    return None


def changed(path: Path) -> UserError:
    """Return the refusal of a file that is not what it was when a run was begun with it."""
    return _refuse(f"{path.name} is not the file that it was: its content has changed.", "bring the former file back.")


def converted(root: DataRoot) -> list[tuple[Path, dict[str, Any]]]:
    """Return the copies that are whole with their `source.json`, the newest last."""
    found = []
    for file in root.models.glob("gguf--*/source.json"):
        source = read_json(file)
        if isinstance(source, dict) and source.get("hub") == "gguf":
            found.append((file.stat().st_mtime, file.parent, source))
    return [(folder, source) for _, folder, source in sorted(found, key=lambda copy: copy[:2])]


def copy_folder(path: Path, root: DataRoot) -> Path:
    """Return where the copy of a file, as it is now, lies or would lie."""
    state = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:12]
    return root.models / f"gguf--{slug(path.stem)[:40]}-{key}"


def header_of(file: Path) -> GgufHeader:
    """Return the header of a file that can be used.

    Raises:
        UserError: If it cannot; in one sentence.
    """
    path = file.expanduser().resolve()
    try:
        state = path.stat()
    except OSError:
        raise _refuse(f"There is no file {path}.", "check the path.") from None
    return read_header(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def read_header(path: Path, size: int, mtime_ns: int) -> GgufHeader:
    """Read and judge the header of a file, once for each state of it.

    Args:
        path: The file.
        size: Its bytes.
        mtime_ns: When it was changed; only there so that a changed file is read anew.

    Raises:
        UserError: If it is no GGUF file, cut, or not a model that transformers reads.
    """
    if part := _PART.search(path.name):
        raise _one_of(path, int(part[1]))
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Reader(data, path).header()
    except OSError as error:
        raise _refuse(f"{path} cannot be read: {error.strerror}.", "check the path and its permissions.") from None
    except (ValueError, struct.error, OverflowError) as error:
        problem = f"{path.name} is not a whole GGUF file: {error}."
        raise _refuse(problem, "download it again, or choose another model.") from None
    _judge(header)
    return header


def _judge(header: GgufHeader) -> None:
    """Refuse what transformers would not read, or would read as another model."""
    name, kind = header.path.name, str(header.metadata.get("general.type", "model"))
    other = "choose the model as safetensors."
    if kind != "model":
        raise _refuse(f"{name} holds a GGUF {kind[:40]}, not a whole model.", "choose the file of a model.")
    if (parts := header.metadata.get("split.count", 1)) and parts != 1:
        raise _refuse(
            f"{name} is one of {parts} parts of a GGUF model.",
            "join them: llama-gguf-split --merge FIRST_PART whole.gguf",
        )
    if header.architecture not in ARCHITECTURES:
        known, architecture = ", ".join(sorted(ARCHITECTURES)), header.architecture[:40] or "(none)"
        problem = f"{name} is of the architecture {architecture}; of GGUF files these can be read: {known}."
        raise _refuse(problem, other)
    if header.architecture in PLAIN and header.of_model("expert_count"):
        raise _refuse(f"{name} is a mixture of experts of the form of Mixtral, which transformers cannot read.", other)
    scaling = header.of_model("rope.scaling.type")
    if scaling not in (None, "none", "linear") and header.architecture != "gpt-oss":
        raise _refuse(f"{name} stretches its positions ({str(scaling)[:20]}), which transformers would drop.", other)


class _Reader:
    """Walks through a header; whatever leads out of the file is a ValueError."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.position = data, path, 0

    def header(self) -> GgufHeader:
        if self.data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self.position = 4
        if (version := self.number("<I")) not in (2, 3):
            raise ValueError(f"version {version} is not 2 or 3")
        num_tensors, num_values = self.number("<Q"), self.number("<Q")
        if max(num_tensors, num_values) > MAX_ENTRIES:
            raise ValueError("it claims more entries than any model has")
        metadata = dict(self.entry() for _ in range(num_values))
        tensors = [self.tensor() for _ in range(num_tensors)]
        if not tensors:
            raise ValueError("it holds no tensors")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError("its alignment is no power of two")
        start = -(-self.position // alignment) * alignment
        placed = tuple(
            GgufTensor(name=name, shape=shape, type_id=type_id, offset=start + offset)
            for name, shape, type_id, offset in tensors
        )
        if len({tensor.name for tensor in placed}) < len(placed):
            raise ValueError("two tensors have the same name")
        if max(tensor.offset for tensor in placed) >= len(self.data):
            raise ValueError("it is cut: tensors lie behind its end")
        return GgufHeader(path=self.path, metadata=metadata, tensors=placed)

    def skip(self, size: int) -> int:
        """Step over bytes and return where they begin."""
        before = self.position
        if size < 0 or size > len(self.data) - before:
            raise ValueError("it is cut, or a length in it is wrong")
        self.position += size
        return before

    def number(self, form: str) -> Any:
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]

    def text(self) -> str:
        if (size := self.number("<Q")) > MAX_TEXT_BYTES:
            raise ValueError("a text in it is longer than any that belongs there")
        start = self.skip(size)
        return self.data[start : start + size].decode("utf-8", errors="replace")

    def entry(self) -> tuple[str, Any]:
        return self.text(), self.value(self.number("<I"))

    def value(self, kind: int) -> Any:
        """Return a number or text; of an array, which is stepped over, the length."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"{kind} is no type of a value")
        item, count = self.number("<I"), self.number("<Q")
        if item in _SCALARS:
            self.skip(count * struct.calcsize(_SCALARS[item]))
        elif item == _TEXT:
            if count > 8 * MAX_ENTRIES:
                raise ValueError("it claims more entries than any model has")
            for _ in range(count):
                self.skip(self.number("<Q"))
        else:
            raise ValueError("it holds arrays of arrays")
        return count

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.text(), self.number("<I")
        if not 1 <= dimensions <= 4:
            raise ValueError(f"a tensor in it has {dimensions} dimensions")
        shape = tuple(self.number("<Q") for _ in range(dimensions))
        return name, shape, self.number("<I"), self.number("<Q")


def _one_of(path: Path, parts: int) -> UserError:
    fix = "join them: llama-gguf-split --merge FIRST_PART whole.gguf"
    return _refuse(f"{path.name} is one of {parts} parts of a GGUF model.", fix)


def _refuse(problem: str, fix: str) -> UserError:
    return UserError(problem, fix=fix, field="model_name_or_path")
