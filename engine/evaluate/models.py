"""The models of a run, one after another: base, checkpoints, merged ones; the base stays loaded between adapters.

with models.open("step-000060") as model: ...      names as in `engine.contract.eval_results`
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from engine.contract.best import best_checkpoint
from engine.contract.errors import UserError
from engine.contract.eval_results import BASE
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir
from engine.launch.devices import inventory
from engine.model.load import comparison_dtype, load_model
from engine.train.checkpoint import verify_checkpoint

MERGED = "merged/"


def choose_subjects(run: RunDir, wanted: str) -> list[str]:
    """Return the subjects that a command names, the base first.

    Args:
        run: The run.
        wanted: `all`, or names with commas: `best`, `latest`, checkpoints, `merged/<name>`, `base`.

    Raises:
        UserError: If there is no such checkpoint or merged model.
    """
    steps = [path.name for path in run.checkpoint_dirs()]
    merged = [f"{MERGED}{path.parent.name}" for path in sorted(run.merged.glob("*/merge.json"))]
    found = [BASE]
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        best = best_checkpoint(run) if name == "best" else None
        known = {
            "all": [*steps, *merged],
            "latest": steps[-1:],
            "best": [best.name] if best else [],
            BASE: [BASE],
            **{one: [one] for one in (*steps, *merged)},
        }
        if not known.get(name) and name != "all":
            there = ", ".join((*steps, *merged)) or "none yet"
            raise UserError(f"Run {run.id} has no checkpoint or merged model `{name}`.", fix=f"there are: {there}.")
        found += [one for one in known[name] if one not in found]
    return found


class Models:
    """Opens the models of a run.

    Args:
        run: The run.
        recipe: Its recipe.
        folder: Its base model on this disk.
        device: cuda or cpu.
        tell: Told of what is loaded.
    """

    def __init__(self, run: RunDir, recipe: Recipe, folder: Path, device: str, tell: Callable[[str], None]) -> None:
        self.run, self.recipe, self.folder, self.device, self.tell = run, recipe, folder, device, tell
        self._base: Any = None
        self._precise = False

    def fingerprint(self, subject: str) -> str:
        """Return what the weights of a subject can be told by."""
        base = f"{self.recipe.model_name_or_path} {self.recipe.model.revision or ''} {self.recipe.method}"
        if subject == BASE:
            return base
        file = self._folder(subject) / ("merge.json" if subject.startswith(MERGED) else "manifest.json")
        return f"{base} {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"

    @property
    def autocast(self) -> bool:
        """Whether the run computes in bfloat16 over float32 weights, as `training_arguments` decides."""
        native = torch.cuda.is_bf16_supported() if self.device == "cuda" else inventory().cpu_bf16
        return self.recipe.method == "full" and self.recipe.model.dtype in ("auto", "bfloat16") and bool(native)

    @contextmanager
    def open(self, subject: str, *, precise: bool) -> Iterator[Any]:
        """Return a model in eval mode.

        Args:
            subject: Its name.
            precise: For answers: in float32 on the CPU where it fits, so that batches of any size answer alike. Else in
                the number format of the training.

        Raises:
            UserError: If it cannot be loaded, or its checkpoint is damaged.
        """
        if subject == BASE:
            yield self._open_base(precise)
            return
        folder = self._folder(subject)
        if not subject.startswith(MERGED) and (trouble := verify_checkpoint(folder)):
            fix = "leave it out with --checkpoints."
            raise UserError(f"Checkpoint {subject} is damaged: {trouble}.", fix=fix)
        if (folder / "adapter_config.json").is_file():
            base = self._open_base(precise)
            self.tell(f"loading {subject}")
            model = PeftModel.from_pretrained(base, str(folder)).eval()
            try:
                yield model
            finally:
                self._base = model.unload()  # the same base, its layers given back
        else:
            self._forget()
            self.tell(f"loading {subject}")
            yield self._ready(self._load(folder, "full" if self.recipe.method == "full" else "lora"), precise)

    def _folder(self, subject: str) -> Path:
        if subject.startswith(MERGED):
            return self.run.merged / subject.removeprefix(MERGED)
        return self.run.checkpoints / subject

    def _open_base(self, precise: bool) -> Any:
        if self._base is not None and self._precise and not precise:
            self._forget()  # its weights have another number format now
        if self._base is None:
            self.tell("loading the base model")
            self._base, self._precise = self._load(self.folder, self.recipe.method), False
        if precise and not self._precise:
            self._base, self._precise = self._ready(self._base, precise), True
        return self._base

    def _load(self, folder: Path, method: str) -> Any:
        model = load_model(folder, self.recipe.model, method=method, device=self.device, tell=lambda _: None)
        return (model if method == "qlora" else model.to(self.device)).eval()

    def _ready(self, model: Any, precise: bool) -> Any:
        quantized = self.recipe.method == "qlora" and getattr(model, "is_loaded_in_4bit", False)
        if precise and self.device == "cpu" and not quantized:
            return model.to(comparison_dtype(model, self.device))
        return model

    def _forget(self) -> None:
        self._base = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
