"""Proposals of several drafters are merged into one tree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokentiming.methods import Proposal
from tokentiming.tokens.tree import TEXT, Tree


@st.composite
def proposals(draw) -> Proposal:
    """A tree whose siblings differ, with estimates that do not grow along a path."""
    edges: dict[tuple[int, int], float] = {}
    for _ in range(draw(st.integers(0, 8))):
        parent = draw(st.integers(-1, len(edges) - 1))
        token = draw(st.integers(0, 2))
        above = 1.0 if parent == TEXT else list(edges.values())[parent]
        edges.setdefault((parent, token), above * draw(st.floats(0, 1)))
    tree = Tree([token for _, token in edges], [parent for parent, _ in edges])
    return Proposal(tree, list(edges.values()))


def paths(proposal: Proposal) -> dict[tuple[int, ...], float]:
    """Each path of tokens, with its estimate."""
    tree = proposal.tree
    return {
        tuple(tree.tokens[n] for n in tree.path(node)): estimate
        for node, estimate in enumerate(proposal.estimates)
    }


@given(st.lists(proposals(), min_size=2, max_size=4))
def test_a_merged_tree_holds_every_path_once(given_proposals):
    merged = Proposal.merge(given_proposals)
    expected: dict[tuple[int, ...], float] = {}
    sources: dict[tuple[int, ...], tuple[int, ...]] = {}
    for source, proposal in enumerate(given_proposals):
        for path, estimate in paths(proposal).items():
            expected[path] = max(estimate, expected.get(path, 0.0))
            sources[path] = (*sources.get(path, ()), source)
    assert paths(merged) == expected
    assert len(merged.tree) == len(expected)
    assert all(parent < node for node, parent in enumerate(merged.tree.parents))
    assert dict(zip(paths(merged), merged.sources, strict=True)) == sources


@given(st.lists(proposals(), min_size=2, max_size=3), st.lists(st.integers(0, 2), max_size=5))
def test_a_drafter_is_credited_with_all_that_it_proposed(given_proposals, emitted):
    merged = Proposal.merge(given_proposals)
    for source, proposal in enumerate(given_proposals):
        nodes, accepted = merged.credit(source, emitted)
        assert nodes == len(proposal.tree)
        assert accepted == len(proposal.tree.follow(emitted))


def test_a_single_proposal_stays_as_it_is():
    chain = Proposal.chain([1, 2, 3])
    assert Proposal.merge([chain]) is chain
    assert chain.credit(0, [1, 2, 5]) == (3, 2)


@given(proposals())
def test_the_likeliest_chain_follows_the_likeliest_children(proposal):
    chain = proposal.likeliest_chain()
    assert chain.tree.is_chain
    node = TEXT
    while children := [n for n, p in enumerate(proposal.tree.parents) if p == node]:
        if proposal.tree.is_chain:
            break
        node = max(children, key=lambda child: proposal.estimates[child])
    if not proposal.tree.is_chain:
        expected = [proposal.tree.tokens[n] for n in proposal.tree.path(node)]
        assert list(chain.tree.tokens) == expected
    else:
        assert chain is proposal


def test_nothing_is_proposed_by_nobody():
    merged = Proposal.merge([Proposal(), Proposal()])
    assert len(merged) == len(merged.tree) == 0
    assert merged.credit(1, [5]) == (0, 0)
