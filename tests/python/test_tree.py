"""Trees of tokens, and drafted trees in the target's tokens, against slow twins."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import toys
from tokentiming import Vocabulary
from tokentiming.tokens.transcode import proxies
from tokentiming.tokens.tree import NO_TREE, TEXT, Tree

LEFT = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("a", "b"), ("ab", "c"), ("æ", "Ĺ")]))
RIGHT = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("b", "c"), ("a", "bc"), ("Ġ", "a")]))
END = LEFT.eos_ids[0]
TOKENS = [*LEFT.encode(b"a"), *LEFT.encode(b"b"), *LEFT.encode(b"ab"), *LEFT.encode(b"abc"),
          *LEFT.encode(b"c"), *LEFT.encode(b" "), *LEFT.encode("日".encode()), END]  # fmt: skip

Path = tuple[int, ...]
"""Tokens from the text on."""


@st.composite
def trees(draw, most: int = 14) -> Tree:
    """Siblings hold different tokens, and nothing follows an end of turn."""
    tokens: list[int] = []
    parents: list[int] = []
    for _ in range(draw(st.integers(0, most))):
        inner = [node for node in range(len(tokens)) if tokens[node] != END]
        parent = draw(st.sampled_from([TEXT, *inner]))
        token = draw(st.sampled_from(TOKENS))
        if (parent, token) not in zip(parents, tokens, strict=True):
            tokens.append(token)
            parents.append(parent)
    return Tree(tokens, parents)


@st.composite
def drafts(draw, most: int = 14) -> tuple[Tree, list[float]]:
    """A tree, and a confidence for each node: multiples of 1/8, so that their products are exact
    and some of them equal.
    """
    tree = draw(trees(most))
    eighths = draw(st.lists(st.integers(0, 8), min_size=len(tree), max_size=len(tree)))
    return tree, [eighth / 8 for eighth in eighths]


def path_to(tree: Tree, node: int) -> Path:
    """Computed by recursion over the parents."""
    return () if node == TEXT else (*path_to(tree, tree.parents[node]), tree.tokens[node])


def paths(tree: Tree) -> list[Path]:
    return [path_to(tree, node) for node in range(len(tree))]


def leaves(tree: Tree) -> list[int]:
    return [node for node in range(len(tree)) if node not in list(tree.parents)]


# ---- trees ----


@given(trees())
def test_depths_and_paths_are_those_of_the_recursion(tree):
    for node in range(len(tree)):
        assert tuple(tree.tokens[n] for n in tree.path(node)) == path_to(tree, node)
        assert tree.depths[node] == len(path_to(tree, node))
        assert tree.path(node)[-1] == node
    assert tree.path(TEXT) == []


@given(trees())
def test_a_child_is_found_by_its_token(tree):
    for node in range(TEXT, len(tree)):
        for token in TOKENS:
            found = [
                n for n in range(len(tree)) if (tree.parents[n], tree.tokens[n]) == (node, token)
            ]
            assert tree.child(node, token) == (found[0] if found else None)


@given(trees(), st.data())
def test_a_part_of_a_tree_holds_the_same_paths(tree, data):
    chosen = data.draw(st.sets(st.integers(0, max(len(tree) - 1, 0)), max_size=len(tree)))
    kept = sorted({above for node in chosen for above in tree.path(node)})
    assert paths(tree.only(kept)) == [path_to(tree, node) for node in kept]


def test_a_chain_is_a_tree_without_branches():
    chain = Tree.chain([5, 6, 5])
    assert list(chain.parents) == [TEXT, 0, 1]
    assert chain.depths == [1, 2, 3]
    assert paths(chain) == [(5,), (5, 6), (5, 6, 5)]
    assert len(NO_TREE) == len(Tree.chain([])) == 0


# ---- drafted trees in the target's tokens ----


def spelled(drafted: Path, target: Vocabulary) -> Path:
    """A path by itself, as a chain."""
    tree, _ = proxies(Tree.chain(drafted), [1.0] * len(drafted), LEFT, target)
    return tuple(tree.tokens)


def reached(tree: Tree, confidences: list[float], node: int) -> float:
    if node == TEXT:
        return 1.0
    return confidences[node] * reached(tree, confidences, tree.parents[node])


def estimate(tree: Tree, confidences: list[float], target: Vocabulary, path: Path) -> float:
    """The most of what the drafted paths that spell it say: each the probability of its shortest
    beginning with all the bytes of the path.
    """
    best = 0.0
    data, ended = target.decode(path), path[-1] in target.special_ids
    for leaf in leaves(tree):
        if spelled(path_to(tree, leaf), target)[: len(path)] != path:
            continue
        way = tree.path(leaf)
        if not ended:
            for length in range(1, len(way) + 1):
                if LEFT.decode([tree.tokens[n] for n in way[:length]]).startswith(data):
                    way = way[:length]
                    break
        best = max(best, reached(tree, confidences, way[-1]))
    return best


def beginnings(path: Path) -> list[Path]:
    return [path[:length] for length in range(1, len(path) + 1)]


@pytest.mark.parametrize("target", [RIGHT, LEFT], ids=["another vocabulary", "the same"])
@settings(max_examples=150)
@given(drafts())
def test_each_path_is_encoded_as_a_chain_and_occurs_once(target, draft):
    tree, confidences = draft
    proposed, _ = proxies(tree, confidences, LEFT, target)
    found = paths(proposed)
    expected = {
        beginning
        for leaf in leaves(tree)
        for beginning in beginnings(spelled(path_to(tree, leaf), target))
    }
    assert len(found) == len(set(found))  # paths that begin alike are merged
    assert set(found) == expected
    assert all(parent < node for node, parent in enumerate(proposed.parents))


@pytest.mark.parametrize("target", [RIGHT, LEFT], ids=["another vocabulary", "the same"])
@settings(max_examples=150)
@given(drafts())
def test_estimates_are_those_of_the_drafted_token_at_which_a_token_ends(target, draft):
    tree, confidences = draft
    proposed, estimates = proxies(tree, confidences, LEFT, target)
    for path, estimated in zip(paths(proposed), estimates, strict=True):
        assert estimated == pytest.approx(estimate(tree, confidences, target, path))


@pytest.mark.parametrize("target", [RIGHT, LEFT], ids=["another vocabulary", "the same"])
@settings(max_examples=150)
@given(drafts())
def test_no_estimate_is_greater_than_the_parents(target, draft):
    proposed, estimates = proxies(*draft, LEFT, target)
    for node, parent in enumerate(proposed.parents):
        assert parent == TEXT or estimates[node] <= estimates[parent]


@settings(max_examples=150)
@given(drafts())
def test_the_likeliest_path_comes_first(draft):
    tree, confidences = draft
    proposed, _ = proxies(tree, confidences, LEFT, RIGHT)
    order = sorted(leaves(tree), key=lambda leaf: -reached(tree, confidences, leaf))
    expected: list[Path] = []
    for leaf in order:
        for beginning in beginnings(spelled(path_to(tree, leaf), RIGHT)):
            if beginning not in expected:
                expected.append(beginning)
    assert paths(proposed) == expected


def test_paths_of_equal_bytes_are_merged_with_the_larger_estimate():
    a, b, ab = (LEFT.encode(data)[0] for data in (b"a", b"b", b"ab"))
    drafted = Tree([a, ab, b], [TEXT, TEXT, 0])
    proposed, estimates = proxies(drafted, [0.5, 0.25, 0.75], LEFT, RIGHT)
    assert RIGHT.decode(list(proposed.tokens)) == b"ab"
    assert list(proposed.parents) == [TEXT, 0]
    assert estimates == [0.5, 0.375]
