"""The shared noise as the loop uses it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare, kstest

from tests.support import references, toys
from tokentiming import ops
from tokentiming.noise import Noise, State, draw_seed

VOCABULARY = toys.letters(["<eos>", "a", "b", "ab", "ba", "c"])


@pytest.mark.parametrize("seed", range(20))
def test_the_lead_is_that_of_the_naive_race(seed):
    scores = torch.randn(9, generator=torch.Generator().manual_seed(seed))  # 3 pad the head
    state = State(offset=seed * 7, zero_byte_tokens=seed % 2)
    noise = Noise(seed, row=seed % 3)
    finish = sorted(
        (float(score) - references.noise(seed, (noise.row, *state), key), token)
        for token, (score, key) in enumerate(zip(scores, VOCABULARY.keys.tolist(), strict=False))
    )
    rows, states = scores[None], torch.tensor([state])
    winner = noise.race(rows, VOCABULARY, states)
    assert winner.tolist() == [finish[-1][1]]
    expected = finish[-1][0] - finish[-2][0]
    lead = noise.lead(rows, VOCABULARY, states, winner)
    assert lead.item() == pytest.approx(expected, rel=1e-9)


def test_a_token_without_rivals_leads_by_infinity():
    scores = torch.full((1, 6), -torch.inf)
    scores[0, 2] = -1e30
    states = torch.zeros((1, 2), dtype=torch.int64)
    lead = Noise(0).lead(scores, VOCABULARY, states, torch.tensor([2]))
    assert lead.tolist() == [math.inf]


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


def test_states_never_come_twice():
    state = State()
    seen = {state}
    for data in (b"a", b"", b"", "日".encode(), b"b"):
        state = state.after(data)
        assert state not in seen
        seen.add(state)


def test_streams_are_fixed_by_seed_row_and_purpose_and_never_repeat():
    def beginning(noise: Noise, purpose: str) -> list[float]:
        stream = noise.stream(purpose)
        return [float(u) for _ in range(3) for u in stream.uniforms(4)]

    noises = [Noise(5, 2), Noise(5, 3), Noise(6, 2)]
    drawn = [beginning(noise, purpose) for noise in noises for purpose in ("draft", "verify")]
    assert drawn[0] == beginning(Noise(5, 2), "draft")
    together = [u for uniforms in drawn for u in uniforms]
    assert len(set(together)) == len(together)


def test_a_stream_draws_by_a_distribution_and_its_uniforms_are_uniform():
    stream = Noise(1).stream("draft")
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


def test_seeds_come_from_torchs_generator():
    torch.manual_seed(3)
    first = draw_seed()
    torch.manual_seed(3)
    assert draw_seed() == first
