"""Small random models of real architectures."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support import toys

SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def random_ids(count: int) -> list[int]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(SIZES["vocab_size"], (count,), generator=generator).tolist()


TOKENIZER = toys.byte_level_tokenizer([("a", "b"), ("Ġ", "a")])
HEAD = 272
"""Rows of the small models' heads: the tokenizer's 259 ids, and some that only pad."""

SHAPE = {
    "vocab_size": HEAD,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": 0,
}


def tiny(kind=LlamaForCausalLM, config=LlamaConfig, seed: int = 0, **changes):
    """A random model for ``TOKENIZER``; a larger spread of its weights gives more varied texts."""
    torch.manual_seed(seed)
    return kind(config(**{**SHAPE, **changes})).eval()


def lively(seed: int = 0, **changes) -> LlamaForCausalLM:
    """A model whose greedy text does not soon repeat; its head has the size of the vocabulary."""
    plain = {"initializer_range": 0.2, "vocab_size": len(TOKENIZER)}
    return tiny(seed=seed, **plain | changes)
