"""A tiny random Llama with a tokenizer of one character per token: no download, milliseconds a step."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engine.model.tiny_tokenizer import character_tokenizer


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
