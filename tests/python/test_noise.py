"""The shared noise as the loop uses it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare, kstest

from tests.support import references, toys
from tokentiming import noise, ops
from tokentiming.noise import Noise, Place, State, Stream, draw_seed

VOCABULARY = toys.letters(["<eos>", "a", "b", "ab", "ba", "c"])


def finish(scores: torch.Tensor, place: Place) -> list[tuple[float, int]]:
    """Scores of the race of one row ``[V]`` and their tokens, the winner first."""
    own, state = place
    return sorted(
        (
            (float(score) - references.noise(own.seed, (own.row, *state), key), token)
            for token, (score, key) in enumerate(
                zip(scores, VOCABULARY.keys.tolist(), strict=False)
            )
        ),
        reverse=True,
    )


def places(count: int, seed: int) -> list[Place]:
    """Places of several texts, whose seeds and rows may be the same."""
    noises = [Noise(seed), Noise(seed, 1), Noise(seed + 1), Noise(seed, 2)]
    return [Place(noises[i % 4], State(offset=seed * 7 + i, zero_byte_tokens=i % 2)) for i in
            range(count)]  # fmt: skip


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("seed", range(20))
def test_winners_and_candidates_are_those_of_the_naive_race(seed, count):
    """Each row uses the noise of its own text, which depends on the seed and the row."""
    scores = torch.randn(8, 9, generator=torch.Generator().manual_seed(seed))  # 3 pad the head
    where = places(len(scores), seed)
    expected = [finish(row, place) for row, place in zip(scores, where, strict=True)]
    winners = noise.race(scores, VOCABULARY, where)
    assert winners.tolist() == [race[0][1] for race in expected]
    ids, shares = noise.candidates(scores, VOCABULARY, where, count)
    assert ids.tolist() == [[token for _, token in race[:count]] for race in expected]
    for row, race in zip(shares.tolist(), expected, strict=True):
        odds = references.softmax([score for score, _ in race])
        assert row == pytest.approx(odds[:count], rel=1e-5)


def test_a_token_without_rivals_has_all_of_the_share():
    scores = torch.full((1, 6), -torch.inf)
    scores[0, 2] = -1e30
    ids, shares = noise.candidates(scores, VOCABULARY, places(1, 0), 2)
    assert ids.tolist() == [[2, -1]]
    assert shares.tolist() == [[1.0, 0.0]]


def test_log_noise_is_the_references():
    keys = torch.tensor([0, 5, -7, 2**62])
    states = torch.tensor([[0, 0, 0], [3, 99, 1]])
    found = ops.log_noise(keys, seed=11, states=states)
    for r, state in enumerate(states.tolist()):
        for v, key in enumerate(keys.tolist()):
            assert found[r, v] == pytest.approx(references.noise(11, state, key), rel=1e-12)
    with pytest.raises(ValueError, match=r"log_noise: states\[0\]"):
        ops.log_noise(keys, seed=0, states=torch.tensor([[0, -1, 0]]))
    with pytest.raises(ValueError, match="log_noise: seed is -1"):
        ops.log_noise(keys, seed=-1, states=states)


def test_states_never_repeat():
    state = State()
    seen = {state}
    for data in (b"a", b"", b"", "日".encode(), b"b"):
        state = state.after(data)
        assert state not in seen
        seen.add(state)


def test_streams_are_fixed_by_seed_row_and_purpose_and_never_repeat():
    def beginning(seed: int, row: int, purpose: str) -> list[float]:
        stream = Stream.of(seed, row, purpose)
        return [float(u) for _ in range(3) for u in stream.uniforms(4)]

    texts = [(5, 2), (5, 3), (6, 2)]
    drawn = [beginning(*text, purpose) for text in texts for purpose in ("draft", "verify")]
    assert drawn[0] == beginning(5, 2, "draft")
    assert drawn[0][:4] == Noise(5, 2).draft.uniforms(4).tolist()
    assert drawn[1][:4] == Noise(5, 2).verify.uniforms(4).tolist()
    together = [u for uniforms in drawn for u in uniforms]
    assert len(set(together)) == len(together)


def test_a_stream_draws_by_a_distribution_and_its_uniforms_are_uniform():
    stream = Noise(1).draft
    distribution = torch.tensor([0.0, 1.0, 2.0, 0.0, 5.0], dtype=torch.float64)
    counts = torch.bincount(
        torch.cat([stream.draw(distribution[None]) for _ in range(8000)]), minlength=5
    )
    assert counts[0] == counts[3] == 0
    possible = distribution > 0
    assert (
        chisquare(counts[possible], distribution[possible] / distribution.sum() * 8000).pvalue
        > 1e-3
    )
    uniforms = stream.uniforms(8000)
    assert uniforms.dtype == torch.float64
    assert 0 <= float(uniforms.min()) <= float(uniforms.max()) < 1
    assert kstest(uniforms.numpy(), "uniform").pvalue > 1e-3


def test_draws_without_replacement_are_by_the_distribution_of_what_is_left():
    """Pairs of three tokens, of which the one with the score -inf is drawn after no other."""
    scores = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]], dtype=torch.float64)
    stream = Noise(1).draft
    drawn = [tuple(stream.draws(scores, 2)[0].tolist()) for _ in range(8000)]
    p = references.softmax([0.0, 1.0, -math.inf, 2.0])
    expected = {
        (a, b): p[a] * p[b] / (1 - p[a]) * 8000 for a in (0, 1, 3) for b in (0, 1, 3) if a != b
    }
    assert set(drawn) == set(expected)
    assert (
        chisquare([drawn.count(pair) for pair in expected], list(expected.values())).pvalue > 1e-3
    )
    assert stream.draws(scores, 4)[0, 3] == -1


def test_seeds_come_from_torchs_generator():
    torch.manual_seed(3)
    first = draw_seed()
    torch.manual_seed(3)
    assert draw_seed() == first
