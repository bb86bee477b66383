"""``ops.ByteTable`` and ``ops.VocabularyMap``: what they hold, copies, and what they refuse.

test_ops_arguments replaces their tensors by other objects.
"""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.argument_kinds import parts_of
from tests.support.tables import map_of, table_of
from tokentiming import Vocabulary, VocabularyMap, ops

TABLE = table_of([b"a", b"", b"bc"])
MAP = map_of([[0, 1], [], [1]], exact=[-1, -1, 1])
EACH = pytest.mark.parametrize("made", [TABLE, MAP], ids=["table", "map"])


def test_attributes_are_the_tensors_given() -> None:
    bytes_, offsets = torch.tensor(list(b"abc"), dtype=torch.uint8), torch.tensor([0, 1, 1, 3])
    table = ops.ByteTable(bytes=bytes_, offsets=offsets)
    assert table.bytes is bytes_
    assert table.offsets is offsets
    assert len(table) == 3
    assert len(MAP) == 3
    assert MAP.exact.tolist() == [-1, -1, 1]
    assert MAP.first.tolist() == [0, -1, 1]
    assert MAP.expansion_offsets.tolist() == [0, 2, 2, 3]
    assert MAP.expansion_ids.tolist() == [0, 1, 1]


def test_arrays_become_tensors_on_the_same_memory() -> None:
    letters, offsets = np.frombuffer(bytearray(b"abc"), dtype=np.uint8), np.array([0, 1, 3])
    table = ops.ByteTable(letters, offsets)
    assert type(table.bytes) is type(table.offsets) is torch.Tensor
    offsets[1] = 2
    assert table.offsets.tolist() == [0, 2, 3]


def test_tensors_live_as_long_as_the_table() -> None:
    letters = torch.tensor(list(b"abc"), dtype=torch.uint8)
    alive = weakref.ref(letters)
    table = ops.ByteTable(letters, torch.tensor([0, 1, 3]))
    del letters
    gc.collect()
    assert alive() is table.bytes
    del table
    gc.collect()
    assert alive() is None


@EACH
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["deep", "pickle"]
)
def test_copies_and_pickles_are_equal_and_independent(made: Any, copied: Any) -> None:
    again = copied(made)
    assert type(again) is type(made)
    for name, tensor in parts_of(made).items():
        assert torch.equal(getattr(again, name), tensor)
        assert getattr(again, name).data_ptr() != tensor.data_ptr() or not len(tensor)


@EACH
def test_a_shallow_copy_shares_its_tensors(made: Any) -> None:
    again = copy.copy(made)
    assert again is not made
    assert all(getattr(again, name) is tensor for name, tensor in parts_of(made).items())


@EACH
def test_moving_to_the_same_device_returns_the_object(made: Any) -> None:
    assert made.to("cpu") is made
    assert made.to(torch.device("cpu")) is made
    with pytest.raises(ops.ArgumentValueError, match=rf"^{type(made).__name__}: .* cannot be read"):
        made.to("meta")


@pytest.mark.parametrize("offsets", [[0, 1, 4], [1, 2, 3], [0, 2, 1], [-1, 0, 1], [0, -1, 3]])
def test_offsets_of_a_table_lie_within_its_bytes(offsets: list[int]) -> None:
    with pytest.raises(
        ops.ArgumentValueError,
        match=r"^ByteTable: offsets must rise from 0 to at most the number of bytes \(3\)$",
    ):
        ops.ByteTable(TABLE.bytes, torch.tensor(offsets))


def test_no_offsets_are_refused() -> None:
    with pytest.raises(ops.ArgumentValueError, match=r"^ByteTable: offsets must have V \+ 1 entr"):
        ops.ByteTable(TABLE.bytes, TABLE.offsets[:0])
    empty = ops.ByteTable(TABLE.bytes[:0], torch.tensor([0]))
    assert len(empty) == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"first": MAP.first[:2]}, ValueError, "first has 2 entries, exact has 3"),
        ({"expansion_offsets": torch.tensor([0, 1])}, ValueError, "expansion_offsets must have 4"),
        (
            {"expansion_offsets": torch.tensor([0, 1, 2, 4])},
            ValueError,
            r"expansion_offsets must rise from 0 to at most the number of expansion_ids \(3\)",
        ),
        ({"exact": MAP.exact.long()}, TypeError, "exact must be int32, got int64"),
        ({"expansion_ids": MAP.expansion_ids.long()}, TypeError, "expansion_ids must be int32"),
    ],
)
def test_maps_refused(
    changes: dict[str, torch.Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^VocabularyMap: {message}"):
        ops.VocabularyMap(**parts_of(MAP) | changes)


def test_vocabularies_and_their_maps_hold_them() -> None:
    import tokenizers

    vocabulary = Vocabulary([b"a", b"bc"], encoder=tokenizers.Tokenizer(tokenizers.models.BPE()))
    assert vocabulary.table.bytes is vocabulary.bytes
    assert vocabulary.on("cpu").table is vocabulary.table
    assert vocabulary.on("cpu") is vocabulary.on("cpu")
    mapped = VocabularyMap(**parts_of(MAP))
    assert mapped.core is mapped.core
    assert mapped.core.first is mapped.first
    assert mapped.on("cpu") is mapped
