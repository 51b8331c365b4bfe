"""A tiny random Llama with a tokenizer of one character per token: no download, milliseconds a step."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that maps every printable ASCII character to one id; ids 0-2 are special."""
    vocabulary = {"<unk>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    vocabulary.update({character: index + 3 for index, character in enumerate(string.printable)})
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Return a random two-layer Llama, float32, hidden size 32, vocabulary of `character_tokenizer`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(character_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write model and tokenizer as a local model folder and return it."""
    model = tiny_llama(seed)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder
