"""What is loaded for a chat: one base model, a few adapters on it, whole models while they are asked for.

    ChatModels(base).bring([speaker, ...])  ->  each of them can answer; what has not been asked for longest is dropped

Changing a checkpoint loads its adapter and nothing else.  The base model is loaded when a speaker first needs it.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel

from engine.chat.prompts import context_length, stop_ids
from engine.contract.errors import UserError
from engine.contract.places import data_root
from engine.contract.recipe import ModelSection
from engine.contract.speakers import BaseModel, Speaker
from engine.data.codec import Codec
from engine.model.load import comparison_dtype, four_bit_layers, has_experts, load_model
from engine.model.sources import resolve_model
from engine.model.tokenizer import load_tokenizer

MAX_ADAPTERS = 4
"""Adapters kept on the base model; the one that was not asked for longest goes first."""
Tell = Callable[[str], None]


class ChatModels:
    """What is loaded now.

    Args:
        base: The model that adapters are put on.
        tell: Told what is being loaded and how.
    """

    def __init__(self, base: BaseModel, tell: Tell) -> None:
        self.wanted, self.tell = base, tell
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.base: Any = None
        self.adapters: OrderedDict[str, str] = OrderedDict()
        """Folder of an adapter -> its name in peft, the one that was asked for last at the end."""
        self.whole: dict[str, Any] = {}
        """Folder -> a whole model."""
        self.held_in = ""
        """How the base model is held, for people."""
        self._codecs: dict[str, Codec] = {}
        self._folder: Path | None = None
        self._number = 0

    def bring(self, speakers: Sequence[Speaker]) -> None:
        """Load what these speakers need and drop what is too much.

        Raises:
            UserError: If something cannot be loaded.
        """
        asked = {speaker.key for speaker in speakers}
        for folder in [folder for folder in self.whole if folder not in asked]:
            del self.whole[folder]
        self._give_back()
        for speaker in speakers:
            if speaker.kind == "model":
                self._bring_whole(speaker)
            else:
                self._bring_base()
                if speaker.kind == "adapter":
                    self._bring_adapter(speaker)
            self.codec(speaker)
        unused = [folder for folder in self.adapters if folder not in asked]
        for folder in unused[: max(0, len(self.adapters) - MAX_ADAPTERS)]:
            self._drop(folder)

    def model_of(self, speaker: Speaker) -> Any:
        """Return the model that computes for a speaker."""
        return self.whole[speaker.folder] if speaker.kind == "model" else self.base

    def adapter_of(self, speaker: Speaker) -> str | None:
        """Return the name in peft of a speaker's adapter, None for a model without one."""
        return self.adapters[speaker.folder] if speaker.kind == "adapter" else None

    def codec(self, speaker: Speaker) -> Codec:
        """Return the tokenizer and chat template of a speaker.

        Raises:
            UserError: If there is none.
        """
        if speaker.tokenizer not in self._codecs:
            bound = bool(speaker.tokenizer)  # a checkpoint's tokenizer brings the template that it was trained with
            folder = Path(speaker.tokenizer) if bound else self._base_folder()
            template = "auto" if bound else self.wanted.chat_template
            self._codecs[speaker.tokenizer] = Codec.of(load_tokenizer(folder, self.tell, chat_template=template))
        return self._codecs[speaker.tokenizer]

    def context(self, speaker: Speaker) -> int | None:
        """Return how many tokens a speaker can see, None if its model does not say."""
        return context_length(self.model_of(speaker))

    def stop_ids(self, speaker: Speaker) -> list[int]:
        """Return the ids that end a speaker's answer."""
        return stop_ids(self.codec(speaker), self.model_of(speaker))

    def can_share_a_batch(self, speakers: Sequence[Speaker]) -> bool:
        """Return whether peft computes these speakers in one batch: the base model and plain LoRA on its layers.

        DoRA, adapters on fused experts and layers that are stored whole take the model for themselves; so do mixtures
        of experts, whose dense layers see the tokens of all rows in one line.
        """
        if any(speaker.kind == "model" for speaker in speakers) or has_experts(self.base.config):
            return False
        configs = [self.base.peft_config[name] for speaker in speakers if (name := self.adapter_of(speaker))]
        return not any(
            config.use_dora or config.modules_to_save or config.target_parameters or config.bias != "none"
            for config in configs
        )

    def memory(self) -> dict[str, int]:
        """Return what this process holds, in bytes, in memory and on the GPU."""
        on_gpu = torch.cuda.memory_reserved() if self.device == "cuda" else 0
        return {"memory_bytes": psutil.Process().memory_info().rss, "gpu_bytes": on_gpu}

    def _base_folder(self) -> Path:
        if self._folder is None:
            wanted = self.wanted
            self._folder = resolve_model(
                wanted.model, revision=wanted.revision, root=data_root(), progress=lambda text, _: self.tell(text)
            )
        return self._folder

    def _bring_base(self) -> None:
        if self.base is None:
            folder = self._base_folder()
            self.tell("loading the base model")
            self.base, held = self._load(folder, four_bit=self.wanted.four_bit)
            self.held_in = f"{held}, {self.wanted.reason}" if self.wanted.reason else held

    def _bring_whole(self, speaker: Speaker) -> None:
        if speaker.folder not in self.whole:
            self.tell(f"loading {speaker.name}")
            self.whole[speaker.folder], _ = self._load(Path(speaker.folder), four_bit=False)

    def _load(self, folder: Path, *, four_bit: bool) -> tuple[Any, str]:
        """Load a model to answer with; return it and how it is held."""
        section = ModelSection.model_validate({"dtype": self.wanted.dtype})
        method = "qlora" if four_bit else "lora"
        try:
            model: Any = load_model(folder, section, method=method, device=self.device, tell=self.tell)
        except ImportError as error:
            problem = f"{folder.name} is quantized in a way that cannot be loaded here: {error}"
            raise UserError(problem, fix="choose another one, or the program it was exported for.") from None
        quantized = getattr(model, "is_quantized", False)
        if quantized:
            four_bit_layers(model)
        else:
            # on a CPU float32 is as fast for one token at a time, and keeps base and tuned comparable to the last digit
            dtype = comparison_dtype(model, self.device) if self.device == "cpu" else model.dtype
            model = model.to(device=self.device, dtype=dtype)
        model.config.use_cache = True
        held = "4 bit (nf4)" if four_bit else "quantized" if quantized else str(model.dtype).removeprefix("torch.")
        return model.eval(), held

    def _bring_adapter(self, speaker: Speaker) -> None:
        if speaker.folder in self.adapters:
            self.adapters.move_to_end(speaker.folder)
            return
        self.tell(f"loading the adapter {speaker.name}")
        self._number += 1
        name = f"adapter{self._number}"
        try:
            if isinstance(self.base, PeftModel):
                self.base.load_adapter(speaker.folder, adapter_name=name)
            else:
                self.base = PeftModel.from_pretrained(self.base, speaker.folder, adapter_name=name)
        except (RuntimeError, ValueError, KeyError) as error:
            if isinstance(self.base, PeftModel) and name in self.base.peft_config:
                self.base.delete_adapter(name)
            problem = f"The adapter {speaker.name} does not fit the base model: {str(error).splitlines()[0]}"
            raise UserError(problem, fix="choose a checkpoint of a run with this base model.") from None
        self.base.eval()
        self.adapters[speaker.folder] = name

    def _drop(self, folder: str) -> None:
        name = self.adapters.pop(folder)
        left = next(reversed(self.adapters.values()))
        self.base.set_adapter(left, inference_mode=True)
        self.base.delete_adapter(name)
        self._give_back()

    def _give_back(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
