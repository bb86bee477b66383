"""Small random models of real architectures."""

from __future__ import annotations

import torch

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
