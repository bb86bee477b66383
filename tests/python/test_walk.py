"""``ops.walk`` against its naive twin and the target alone, and what it refuses."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import references
from tests.support.tables import offsets
from tokentiming import ops

Tree = tuple[list[int], list[int], list[int]]
"""Of one sequence: picked tokens, tokens of the nodes, and their parents."""


def walked(trees: Sequence[Tree], dtype: torch.dtype = torch.int64) -> ops.Walk:
    return ops.walk(
        torch.tensor([token for picked, _, _ in trees for token in picked], dtype=torch.int64),
        tokens=torch.tensor([token for _, tokens, _ in trees for token in tokens], dtype=dtype),
        parents=torch.tensor(
            [parent for _, _, parents in trees for parent in parents], dtype=torch.int32
        ),
        offsets=offsets([tokens for _, tokens, _ in trees]),
    )


def paths(result: ops.Walk, sizes: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The emitted tokens and the accepted nodes of each tree, the padding checked and cut off."""
    found = []
    begin = 0
    for b, (size, accepted) in enumerate(zip(sizes, result.accepted.tolist(), strict=True)):
        tokens = result.tokens[begin + b : begin + b + size + 1].tolist()
        nodes = result.nodes[begin : begin + size].tolist()
        assert set(tokens[accepted + 1 :]) <= {-1}
        assert set(nodes[accepted:]) <= {-1}
        found.append((tokens[: accepted + 1], nodes[:accepted]))
        begin += size
    return found


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A deep tree with few different tokens; parents are near their nodes."""
    few = st.integers(0, 2)
    tokens = draw(st.lists(few, max_size=12))
    parents = [draw(st.integers(max(-1, i - 3), i - 1)) for i in range(len(tokens))]
    picked = draw(st.lists(few, min_size=len(tokens) + 1, max_size=len(tokens) + 1))
    return picked, tokens, parents


@given(st.lists(trees(), max_size=5), st.sampled_from([torch.int32, torch.int64]))
def test_equals_the_reference(forest: list[Tree], dtype: torch.dtype) -> None:
    result = walked(forest, dtype)
    assert result.tokens.dtype == torch.int64
    assert result.nodes.dtype == result.accepted.dtype == torch.int32
    found = paths(result, [len(tokens) for _, tokens, _ in forest])
    assert found == [references.walk(*tree) for tree in forest]


def choice(history: tuple[int, ...]) -> int:
    """What a target picks after a text."""
    return hash(history) % 3


def tree_for(rng: random.Random, text: tuple[int, ...], size: int) -> Tree:
    """A random tree, and what the target picks after each of its nodes."""
    histories, tokens, parents = [text], [], []
    for i in range(size):
        parents.append(rng.randrange(max(-1, i - 4), i))
        tokens.append(rng.randrange(3))
        histories.append((*histories[parents[-1] + 1], tokens[-1]))
    return [choice(history) for history in histories], tokens, parents


def test_emits_what_the_target_alone_would() -> None:
    rng = random.Random(0)
    lengths = set()
    for _ in range(50):
        texts = [tuple(rng.choices(range(3), k=4)) for _ in range(8)]
        forest = [tree_for(rng, text, rng.randrange(60)) for text in texts]
        found = paths(walked(forest), [len(tokens) for _, tokens, _ in forest])
        for text, (emitted, _) in zip(texts, found, strict=True):
            alone = text
            for token in emitted:
                assert token == choice(alone)
                alone = (*alone, token)
            lengths.add(len(emitted))
    assert {1, 2, 3, 4, 5} <= lengths


def test_the_nodes_are_a_path_and_their_tokens_are_emitted() -> None:
    rng = random.Random(1)
    forest = [tree_for(rng, (b,), 40) for b in range(100)]
    for (picked, tokens, parents), (emitted, nodes) in zip(
        forest, paths(walked(forest), [40] * 100), strict=True
    ):
        assert [parents[i] for i in nodes] == [-1, *nodes][: len(nodes)]
        assert [tokens[i] for i in nodes] == emitted[:-1]
        assert [picked[i + 1] for i in [-1, *nodes]] == emitted


def test_of_equal_siblings_the_first_is_taken() -> None:
    result = walked([([3, 8, 9, 0], [3, 3, 9], [-1, -1, 1])])
    assert paths(result, [3]) == [([3, 8], [0])]


def test_a_negative_token_is_never_accepted() -> None:
    assert paths(walked([([0, 1, 2], [-1, 0], [-1, -1])]), [2]) == [([0, 2], [1])]


def test_empty_trees_and_batches() -> None:
    result = walked([([4], [], []), ([5], [], [])])
    assert result.tokens.tolist() == [4, 5]
    assert result.accepted.tolist() == [0, 0]
    assert [tuple(part.shape) for part in walked([])] == [(0,), (0,), (0,)]


def test_numpy_inputs_and_out() -> None:
    out = ops.Walk(
        torch.full((3,), -7),
        torch.full((2,), -7, dtype=torch.int32),
        torch.full((1,), -7, dtype=torch.int32),
    )
    result = ops.walk(
        np.array([5, 6, 7]),
        tokens=np.array([5, 6]),
        parents=np.array([-1, 0], dtype=np.int32),
        offsets=np.array([0, 2]),
        out=out,
    )
    assert result is out
    assert [part.tolist() for part in out] == [[5, 6, 7], [0, 1], [2]]


PICKED = torch.tensor([0, 1, 2, 0, 1])
GOOD = {
    "picked": PICKED,
    "tokens": torch.tensor([0, 1, 2]),
    "parents": torch.tensor([-1, 0, -1], dtype=torch.int32),
    "offsets": torch.tensor([0, 2, 3]),
}


def test_long_trees_are_walked_in_linear_time() -> None:
    size = 2_000_000  # a search of all nodes for each child would take hours
    result = ops.walk(
        torch.zeros(size + 1, dtype=torch.int64),
        tokens=torch.zeros(size, dtype=torch.int32),
        parents=torch.arange(-1, size - 1, dtype=torch.int32),
        offsets=torch.tensor([0, size]),
    )
    assert result.accepted.tolist() == [size]
    assert torch.equal(result.nodes, torch.arange(size, dtype=torch.int32))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"parents": torch.tensor([-1, 1, -1]).int()},
            ValueError,
            r"parents\[1\] is 1; it is node 1 of its tree, and its parent must be -1 or a node be",
        ),
        (
            {"parents": torch.tensor([-1, 0, 0]).int()},
            ValueError,
            r"parents\[2\] is 0; it is node 0 of its tree",
        ),
        ({"parents": torch.tensor([-2, 0, -1]).int()}, ValueError, r"parents\[0\] is -2"),
        ({"parents": torch.tensor([-1, 0]).int()}, ValueError, "parents has 2 entries; 3 tokens"),
        ({"parents": torch.tensor([-1, 0, -1])}, TypeError, "parents must be int32, got int64"),
        ({"picked": torch.tensor([0, 1, 2, 0, -1])}, ValueError, r"picked\[4\] is -1; a token mus"),
        ({"picked": PICKED[:4]}, ValueError, "picked has 4 entries; 3 tokens in 2 trees need 5"),
        ({"picked": PICKED.int()}, TypeError, "picked must be int64, got int32"),
        ({"picked": PICKED[None]}, ValueError, r"picked must have shape \[N \+ B\], got 2 dim"),
        ({"picked": torch.arange(10)[::2]}, ValueError, "picked must be contiguous"),
        ({"tokens": PICKED[:2]}, ValueError, r"offsets must rise from 0 to the .* tokens \(2\)"),
        ({"tokens": torch.zeros(3)}, TypeError, "tokens must be int32 or int64, got float32"),
        ({"tokens": [0, 1, 2]}, TypeError, "tokens must be a tensor, got list"),
        ({"offsets": torch.tensor([0, 3, 2])}, ValueError, "offsets must rise from 0"),
        ({"offsets": torch.tensor([1, 2, 3])}, ValueError, "offsets must rise from 0"),
        ({"offsets": PICKED[:0]}, ValueError, r"offsets must have B \+ 1 entries, got none"),
        ({"offsets": torch.tensor([0, 3])}, ValueError, "picked has 5 entries; .* need 4"),
        ({"offsets": None}, TypeError, "offsets must be a tensor, got NoneType"),
        ({"offsets": torch.tensor([0, 2, 3]).int()}, TypeError, "offsets must be int64, got int32"),
        (
            {"out": ops.Walk(PICKED.clone(), torch.zeros(3).int(), torch.zeros(3).int())},
            ValueError,
            "out.accepted has 3 entries; 3 tokens in 2 trees need 2",
        ),
        (
            {"out": ops.Walk(PICKED.clone(), torch.zeros(3).long(), torch.zeros(2).int())},
            TypeError,
            "out.nodes must be int32, got int64",
        ),
        (
            {"out": ops.Walk(PICKED, torch.zeros(3).int(), torch.zeros(2).int())},
            ValueError,
            "out.tokens shares memory with picked",
        ),
    ],
)
def test_refusals(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^walk: {message}"):
        ops.walk(**GOOD | changes)


@pytest.mark.parametrize("changed", ["picked", "parents", "offsets"])
def test_nothing_is_written_by_a_refused_call(changed: str) -> None:
    out = ops.Walk(*(torch.full_like(part, -7) for part in ops.walk(**GOOD)))
    wrong = GOOD[changed].clone()
    wrong[-1] = -5
    with pytest.raises(ValueError, match=f"^walk: {changed}"):
        ops.walk(**GOOD | {changed: wrong}, out=out)
    assert set(itertools.chain(*(part.tolist() for part in out))) == {-7}
