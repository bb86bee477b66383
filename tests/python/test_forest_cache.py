"""The cache of several texts: what it writes, moves and allocates."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    DeepseekV32Config,
    Gemma3nTextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
)

from tests.support.small_models import SIZES
from tokentiming.runners.cache import ForestCache

HEADS, KEY, VALUE = 2, 3, 5


def fresh(texts: int, rows: int, size: int) -> torch.Tensor:
    """States that differ in all their entries, for all calls together."""
    count = texts * HEADS * rows * size
    fresh.count += count
    return torch.arange(fresh.count - count, fresh.count).float().view(texts, HEADS, rows, size)


fresh.count = 1


class Twin:
    """Each column of each text by itself, in dicts."""

    def __init__(self) -> None:
        self.columns: dict[tuple[int, int], torch.Tensor] = {}

    def write(self, first: int, columns: list[list[int]], states: torch.Tensor) -> None:
        for i, row in enumerate(columns):
            for j, column in enumerate(row):
                self.columns[first + i, column] = states[i, :, j]

    def check(self, first: int, view: torch.Tensor) -> None:
        for i, text in enumerate(view):
            for column in range(view.shape[2]):
                expected = self.columns.get((first + i, column), torch.zeros(HEADS, view.shape[3]))
                assert torch.equal(text[:, column], expected)


def update(cache: ForestCache, twins: list[list[Twin]], first: int, columns: list[list[int]]):
    for layer, (keys, values) in enumerate(twins):
        states = [fresh(len(columns), len(columns[0]), size) for size in (KEY, VALUE)]
        views = cache.update(*states, layer)
        for twin, state, view in zip((keys, values), states, views, strict=True):
            twin.write(first, columns, state)
            twin.check(first, view)


def test_columns_are_written_and_moved_as_in_a_dict():
    cache = ForestCache(LlamaConfig(**SIZES))
    twins = [[Twin(), Twin()] for _ in range(SIZES["num_hidden_layers"])]
    every = [twin for pair in twins for twin in pair]
    cache.write_one(0, 0, 300)  # more than the memory at first
    assert cache.get_mask_sizes(300, 0) == (300, 0)
    update(cache, twins, 0, [list(range(300))])
    assert cache.capacity == (1, 300)
    cache.write_one(1, 0, 4)  # a second text, alone
    update(cache, twins, 1, [[0, 1, 2, 3]])
    cache.write_one(0, 300, 5)  # the first again, which grows
    assert cache.get_seq_length() == 300
    update(cache, twins, 0, [list(range(300, 305))])
    assert cache.capacity == (2, 600)
    columns = [[305, 306], [5, 4], [0, 1]]  # three texts, one padded
    cache.write(0, torch.tensor(columns), 307)
    update(cache, twins, 0, columns)
    assert cache.capacity == (4, 600)

    path = [300, 302, 303, 306]
    cache.keep(0, 300, path)
    for twin in every:
        moved = [twin.columns[0, column] for column in path]
        twin.columns.update({(0, 300 + i): state for i, state in enumerate(moved)})
    cache.drop(1, 2, 2)
    for twin in every:
        twin.columns.update({(1, column): twin.columns[2, column] for column in range(2)})
    columns = [[304], [2]]
    cache.write(0, torch.tensor(columns), 307)
    update(cache, twins, 0, columns)


def test_a_path_in_place_is_not_copied():
    cache = ForestCache(LlamaConfig(**SIZES))
    cache.write_one(0, 0, 6)
    keys, _ = cache.update(fresh(1, 6, KEY), fresh(1, 6, VALUE), 0)
    version = keys._version
    cache.keep(0, 2, [2, 3, 4])
    cache.keep(0, 2, [])
    assert keys._version == version
    cache.keep(0, 2, [2, 4])
    assert keys._version > version


def test_the_result_is_a_view():
    cache = ForestCache(LlamaConfig(**SIZES))
    cache.write_one(0, 0, 6)
    keys, values = cache.update(fresh(1, 6, KEY), fresh(1, 6, VALUE), 0)
    assert keys.data_ptr() == cache.layers[0].keys.data_ptr()
    assert values.data_ptr() == cache.layers[0].values.data_ptr()


def test_memory_is_counted_and_freed():
    cache = ForestCache(LlamaConfig(**SIZES))
    assert cache.bytes_per_token() == 0
    cache.write_one(0, 0, 2)
    for layer in range(3):
        cache.update(fresh(1, 2, KEY).half(), fresh(1, 2, VALUE).half(), layer)
    assert cache.bytes_per_token() == 3 * HEADS * (KEY + VALUE) * 2
    cache.clear()
    assert cache.capacity == (0, 0)
    assert cache.bytes_per_token() == 0


@pytest.mark.parametrize(
    ("config", "holds"),
    [
        (LlamaConfig(**SIZES), True),
        (MistralConfig(**SIZES, sliding_window=4), True),
        (Gemma3nTextConfig(**SIZES, num_kv_shared_layers=1, layer_types=None), True),
        (MambaConfig(hidden_size=32, num_hidden_layers=2), False),
        (DeepseekV32Config(num_hidden_layers=2), False),
    ],
)
def test_supported_models(config, holds):
    assert ForestCache.holds(config) is holds
