"""Task file -> token store, on all cores, once.

    scan (this process: read, check, count) -> chunks of examples -> workers: render + encode -> one Arrow file

The first process that needs a store builds it under a lock; ranks and previews that come meanwhile wait and then read.
Workers load neither torch nor a model: a codec is all they need.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.contract.errors import UserError
from engine.contract.files import replace_json
from engine.contract.places import require_free
from engine.contract.taskfile import Columns, Example, TaskScan, scan_examples, source_measure
from engine.data.codec import Codec
from engine.data.store import CHUNK, SCHEMA, VERSION, EncodedChunk, NotTheSame, TokenStore, cache_key, encode_chunk
from engine.data.tokenize import AssistantTurns
from engine.launch.processes import die_with_parent

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
MAX_WORKERS = 16
BYTES_PER_WORKER = {True: 16 << 20, False: 2 << 20}
"""A worker costs two seconds to start: one is used for each so many bytes of the file, more if encoding is fast."""
CACHE_LIMIT_BYTES = 50 * 2**30
"""Stores that were not used for longest are removed above this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """What besides the file decides the content of a store."""

    codec: Codec
    assistant_turns: AssistantTurns = "all"
    shortcuts: bool = True
    """Use faster ways that are compared with the tokenizer and the template as they go."""


@dataclass(slots=True)
class _Build:
    """What is known while a store is built."""

    batches: Any
    """Called with each finished record batch, in order."""
    examples: list[Example] = field(default_factory=list)
    waiting: deque[Future[EncodedChunk]] = field(default_factory=deque)
    refused: list[tuple[int, str]] = field(default_factory=list)
    num_refused: int = 0
    num_rewritten: int = 0
    num_encoded: int = 0

    def take(self, chunk: EncodedChunk) -> None:
        self.num_refused += len(chunk.refused)
        self.refused += chunk.refused[: max(0, 20 - len(self.refused))]
        self.num_rewritten += chunk.num_rewritten
        self.num_encoded += chunk.batch.num_rows
        self.batches(chunk.batch)


def open_store(
    path: Path, columns: Columns | None, settings: EncodeSettings, cache: Path, progress: Progress = lambda *_: None
) -> tuple[TokenStore, bool]:
    """Return the encoded examples of a task file, from the cache if they are there.

    Args:
        path: A task file or folder.
        columns: Column mapping of the recipe, or None.
        settings: Tokenizer, template, supervised turns.
        cache: Folder of all stores.
        progress: Told what is being done and the share done.

    Returns:
        The store, and whether it came from the cache.

    Raises:
        UserError: If the file cannot be used.
    """
    size, digest = source_measure(path)
    mapping = columns.named() if columns is not None else None
    folder = cache / cache_key(digest, mapping, settings.codec.fingerprint, settings.assistant_turns)
    if (store := _open(folder)) is not None:
        return store, True
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(cache / f".{folder.name}.lock"):
        if (store := _open(folder)) is not None:
            return store, True
        try:
            _build(path, (size, digest), columns, settings, folder, progress)
        except NotTheSame as place:
            logger.warning("a faster way of encoding gave other tokens at %s: encoding again without", place)
            _build(path, (size, digest), columns, replace(settings, shortcuts=False), folder, progress)
    _prune(cache, keep=folder)
    store = _open(folder)
    assert store is not None, f"{folder} was just built"
    return store, False


def _open(folder: Path) -> TokenStore | None:
    try:
        return TokenStore(folder)
    except (OSError, pa.ArrowException):
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel frees it when its holder dies."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _build(
    path: Path,
    measured: tuple[int, str],
    columns: Columns | None,
    settings: EncodeSettings,
    folder: Path,
    progress: Progress,
) -> None:
    size, digest = measured
    # int32 ids need about as many bytes as the text they stand for
    require_free(folder.parent, 2 * size, what="Storing the encoded examples")
    workers = min((os.cpu_count() or 1) - 1, MAX_WORKERS, size // BYTES_PER_WORKER[settings.codec.is_fast])
    temporary = folder.with_name(f".new-{folder.name}-{secrets.token_hex(4)}")
    temporary.mkdir(mode=0o700)
    try:
        with pa.OSFile(str(temporary / "tokens.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            build = _Build(batches=writer.write_batch)
            with _without_cycle_collection():
                if workers > 1:
                    scan = _scan_with_workers(path, columns, settings, build, workers, progress)
                else:
                    scan = _scan_here(path, columns, settings, build, progress)
        if scan.sha256 != digest:
            raise UserError(f"{path.name} changed while it was read.", fix="start again when the file is complete.")
        replace_json(temporary / "meta.json", _meta(scan, build))
        shutil.rmtree(folder, ignore_errors=True)  # a broken one
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _without_cycle_collection() -> Iterator[None]:
    """Pause Python's search for reference cycles: millions of small records make none, and it costs a sixth."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _scan_here(
    path: Path, columns: Columns | None, settings: EncodeSettings, build: _Build, progress: Progress
) -> TaskScan:
    def flush() -> None:
        if build.examples:
            build.take(_encode(settings, build.examples))
            build.examples = []
            progress("encoding", 0.0)

    def keep(example: Example) -> None:
        build.examples.append(example)
        if len(build.examples) == CHUNK:
            flush()

    scan = scan_examples(path, keep, columns)
    flush()
    return scan


def _scan_with_workers(
    path: Path, columns: Columns | None, settings: EncodeSettings, build: _Build, workers: int, progress: Progress
) -> TaskScan:
    # a fork of this process would copy the locks of torch's threads; the server imports once and forks without threads
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["engine.data.encode"])
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(settings,)) as pool:

            def flush() -> None:
                build.waiting.append(pool.submit(_work, build.examples))
                build.examples = []
                while len(build.waiting) > 2 * workers or (build.waiting and build.waiting[0].done()):
                    build.take(build.waiting.popleft().result())
                progress(f"encoding, {build.num_encoded:,} examples done", 0.0)

            def keep(example: Example) -> None:
                build.examples.append(example)
                if len(build.examples) == CHUNK:
                    flush()

            scan = scan_examples(path, keep, columns)
            if build.examples:
                flush()
            while build.waiting:
                build.take(build.waiting.popleft().result())
            return scan
    except BrokenProcessPool:
        fix = "free some memory, or split the file into smaller ones."
        raise UserError("A process that encodes the examples was ended, perhaps for lack of memory.", fix=fix) from None


_WORKER: list[EncodeSettings] = []
"""The settings of this worker process."""


def _start_worker(settings: EncodeSettings) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    os.environ["RAYON_NUM_THREADS"] = "1"
    die_with_parent(signal.SIGKILL)
    _WORKER[:] = [settings]


def _work(examples: list[Example]) -> EncodedChunk:
    return _encode(_WORKER[0], examples)


def _encode(settings: EncodeSettings, examples: list[Example]) -> EncodedChunk:
    turns, shortcuts = settings.assistant_turns, settings.shortcuts
    return encode_chunk(settings.codec, examples, assistant_turns=turns, shortcuts=shortcuts)


def _meta(scan: TaskScan, build: _Build) -> dict[str, Any]:
    """Return what is kept beside the tokens: the scan without the paths of this moment."""
    told = asdict(scan)
    told.pop("path")
    told["skipped"] = told["skipped"][:50]
    return {
        "version": VERSION,
        **told,
        "num_refused": build.num_refused,
        "refused": build.refused,
        "num_rewritten": build.num_rewritten,
    }


def _prune(cache: Path, *, keep: Path) -> None:
    """Remove the stores that were not used for longest while the cache is above its limit."""
    found = []
    for meta in cache.glob("*/meta.json"):
        try:
            size = (meta.parent / "tokens.arrow").stat().st_size
            found.append((meta.stat().st_mtime, size, meta.parent))
        except OSError:
            continue
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= CACHE_LIMIT_BYTES:
            return
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)  # a process that has it mapped keeps its pages
            total -= size
