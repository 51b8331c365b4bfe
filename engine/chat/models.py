"""The models of one conversation: a base and either an adapter on it or a second whole model.

    answer("base", ...)   adapter off      answer("tuned", ...)   adapter on, or the second model

Which of the two spoke is read from the model itself and told with every answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
    set_seed,
)

from engine.contract.places import data_root
from engine.contract.recipe import ModelSection
from engine.contract.records import Message
from engine.data.codec import Codec
from engine.data.tokenize import encode_prompt
from engine.model.load import choose_dtype, comparison_dtype
from engine.model.sources import resolve_model
from engine.model.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One finished answer."""

    text: str
    num_tokens: int
    seconds: float
    adapter: str
    """Who spoke, read from the model: "base model, adapter off" or "adapter step-000060"."""
    stop_reason: str
    """end of turn, length limit, stopped."""


class _Stop(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool)


class _Pieces(TextStreamer):
    """Hands on text as soon as it cannot change any more."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, emit: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.emit = emit

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.emit(text)


class ChatModels:
    """What is loaded now.

    Args:
        model: Hub id or folder of the base model.
        adapter: Folder of a LoRA adapter, or None.
        tuned_model: Folder of a whole tuned model, when there is no adapter.
        tell: Told what is being loaded.
    """

    def __init__(self, model: str, adapter: str | None, tuned_model: str | None, tell: Callable[[str], None]) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = choose_dtype(ModelSection(), "lora", self.device)[0]
        tell("loading the base model")
        folder = resolve_model(model, root=data_root(), progress=lambda text, _: tell(text))
        template_folder = Path(adapter or tuned_model or folder)
        self.tokenizer = load_tokenizer(template_folder, tell)
        self.codec = Codec.of(self.tokenizer)
        self.base = self._load(folder)
        self.second = None
        self.name = Path(adapter or tuned_model or "").name
        if adapter:
            tell("loading the adapter")
            self.base = PeftModel.from_pretrained(self.base, adapter).eval()
        elif tuned_model:
            tell("loading the tuned model")
            self.second = self._load(Path(tuned_model))

    def _load(self, folder: Path) -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=self.dtype, use_safetensors=True, trust_remote_code=False
        )
        # on a CPU float32 is as fast for one token at a time, and keeps base and tuned comparable to the last digit
        dtype = comparison_dtype(model, self.device) if self.device == "cpu" else self.dtype
        return model.to(device=self.device, dtype=dtype).eval()

    def answer(
        self,
        side: str,
        messages: Sequence[Message],
        *,
        emit: Callable[[str], None],
        stop: threading.Event,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        seed: int,
    ) -> Answer:
        """Generate one answer, handing its pieces to `emit`; `stop` ends it within a token."""
        model = self.second if side == "tuned" and self.second is not None else self.base
        if side == "base" and isinstance(model, PeftModel):
            with model.disable_adapter():
                return self._generate(model, messages, emit, stop, temperature, top_p, max_new_tokens, seed)
        return self._generate(model, messages, emit, stop, temperature, top_p, max_new_tokens, seed)

    def _generate(self, model: Any, messages: Sequence[Message], emit: Any, stop: Any, *numbers: Any) -> Answer:
        temperature, top_p, max_new_tokens, seed = numbers
        ids = encode_prompt(self.codec, messages)
        inputs = torch.tensor([ids], device=self.device)
        set_seed(seed)
        pieces: list[str] = []
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
        )
        started = time.monotonic()
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=max_new_tokens,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
                streamer=_Pieces(self.tokenizer, lambda text: (pieces.append(text), emit(text))),
                stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
                use_cache=True,
                **sampling,
            )
        new = output[0, len(ids) :].tolist()
        ended = bool(new) and new[-1] == self.tokenizer.eos_token_id
        reason = "stopped" if stop.is_set() and not ended else "end of turn" if ended else "length limit"
        return Answer(
            text="".join(pieces),
            num_tokens=len(new),
            seconds=time.monotonic() - started,
            adapter=self._speaker(model),
            stop_reason=reason,
        )

    def _speaker(self, model: Any) -> str:
        """Read from the model whether an adapter was at work."""
        if model is self.second:
            return f"tuned model {self.name}"
        if isinstance(model, PeftModel):
            layers = [
                module
                for module in model.modules()
                if hasattr(module, "disable_adapters") and hasattr(module, "lora_A")
            ]
            active = any(not layer.disable_adapters for layer in layers)
            return f"adapter {self.name}" if active else "base model, adapter off"
        return "base model"
