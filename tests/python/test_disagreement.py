"""Estimates of several drafters that propose different tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.python.test_proposal import paths, proposals
from tokentiming.engine.disagreement import Disagreement
from tokentiming.methods import Proposal
from tokentiming.tokens.tree import TEXT, Tree


def certain(token: int, prob: float) -> Proposal:
    """One token with its estimate."""
    return Proposal(Tree([token], [TEXT]), [prob])


def slow(disagreement: Disagreement, merged: Proposal) -> dict[tuple[int, ...], float]:
    """Corrected estimates by the definition, path by path."""
    estimates = paths(merged)
    by = dict(zip(estimates, merged.sources, strict=True))

    def prob(path: tuple[int, ...]) -> float:
        before = estimates[path[:-1]] if path[:-1] else 1.0
        return min(estimates[path] / before, 1.0) if before else 0.0

    def corrected(path: tuple[int, ...]) -> float:
        if not path:
            return 1.0
        others = [
            prob(other)
            for other in estimates
            if other[:-1] == path[:-1] and not set(by[other]) & set(by[path])
        ]
        share = min(disagreement.share(source) for source in by[path])
        return corrected(path[:-1]) * prob(path) * (1 - share * min(sum(others), 1.0))

    return {path: corrected(path) for path in estimates}


@given(
    st.lists(proposals(), min_size=2, max_size=3),
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=4),
)
def test_corrected_estimates_are_those_of_the_definition(given_proposals, texts):
    merged = Proposal.merge(given_proposals)
    disagreement = Disagreement()
    for emitted in texts:
        disagreement.observe(merged, emitted)
        assert all(0 <= disagreement.share(source) <= 1 for source in range(3))
    assert paths(disagreement.correct(merged)) == pytest.approx(slow(disagreement, merged))


def test_a_drafter_that_is_wrong_where_another_disagrees_is_believed_less():
    disagreement = Disagreement()
    merged = Proposal.merge([certain(1, 0.5), certain(2, 0.8)])
    for _ in range(30):
        disagreement.observe(merged, [2])
    assert disagreement.share(0) > 0.9
    assert disagreement.share(1) == 0
    corrected = disagreement.correct(merged).estimates
    assert corrected[0] < 0.5 * (1 - 0.9 * 0.8)
    assert corrected[1] == 0.8


def test_a_token_that_several_propose_is_not_disputed_by_them():
    disagreement = Disagreement()
    merged = Proposal.merge([certain(1, 0.5), certain(1, 0.8)])
    disagreement.observe(merged, [2])
    assert disagreement.correct(merged).estimates == [0.8]


def test_only_tokens_that_follow_an_emitted_path_count():
    disagreement = Disagreement()
    first = Proposal(Tree([1, 3], [TEXT, 0]), [0.5, 0.4])
    second = Proposal(Tree([1, 4], [TEXT, 0]), [0.5, 0.4])
    before = disagreement.share(0)
    disagreement.observe(Proposal.merge([first, second]), [2])
    assert disagreement.share(0) == before, "the text did not get to 3 and 4"
    disagreement.observe(Proposal.merge([first, second]), [1])
    assert disagreement.share(0) == before, "what follows 1 is not known yet"
    disagreement.observe(Proposal.merge([first, second]), [1, 4])
    assert disagreement.share(0) > before > disagreement.share(1)


def test_a_single_drafter_keeps_its_estimates():
    proposal = certain(1, 0.5)
    assert Disagreement().correct(proposal) is proposal
