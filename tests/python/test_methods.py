"""Each method's proposals and their distributions, against slow twins; the settings; what is
refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from tests.support import references, toys
from tokentiming import Draft, Vocabulary, methods, ops
from tokentiming.drafters import DraftRequest
from tokentiming.engine.rows import Rows
from tokentiming.methods import (
    METHODS,
    BoundMethod,
    Coupled,
    Greedy,
    Proposal,
    Pushforward,
    Slem,
    Slrs,
    Tli,
    TokenTiming,
)
from tokentiming.methods.tokentiming import byte_spans, warped_spans
from tokentiming.noise import Noise, Place, State
from tokentiming.tokens.tree import TEXT, Tree
from tokentiming.tokens.vocabulary_map import VocabularyMap

LEFT = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("a", "b"), ("ab", "c"), ("æ", "Ĺ")]))
RIGHT = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("b", "c"), ("a", "bc"), ("Ġ", "a")]))
DRAFT = toys.letters(["<eos>", "a", "b", "ba", "bab", ""])
TARGET = toys.letters(["<eos>", "b", "a", "ab"])


HERE = Place(Noise(0), State())


def bound(method, draft: Vocabulary = DRAFT, target: Vocabulary = TARGET) -> BoundMethod:
    return method.bind(draft, target)


def drawn(ids, vocabulary: Vocabulary = DRAFT, seed: int = 0) -> Draft:
    """A draft of given tokens under random distributions."""
    generator = torch.Generator().manual_seed(seed)
    draft = Draft(special_ids=vocabulary.special_ids)
    for node, token in enumerate(ids, TEXT):
        distribution = torch.rand(1, len(vocabulary), generator=generator, dtype=torch.float64)
        draft.distributions[node] = distribution / distribution.sum()
        draft.take(node, [(token, 0.5)])
    return draft


def proposed(method, draft: Draft) -> Proposal:
    return method.transfer(draft, method.transcode(draft, Noise(0)))


def distributions(method, proposal: Proposal) -> torch.Tensor:
    """The distribution of each token over the target's vocabulary."""
    return torch.stack([method.distribution(proposal, at) for at in range(len(proposal))])


# ---- proposals and distributions ----


def pushforward_twin(draft: Draft) -> tuple[list[int], list[list[float]], bool]:
    """Ids, distributions and whether a draw missed, by walking over every expansion."""
    mapped = VocabularyMap.build(DRAFT, TARGET)
    ids: list[int] = []
    probs: list[list[float]] = []
    for token, distribution in zip(draft.ids, draft.probs, strict=True):
        expansion = mapped.expansion(token)
        for taken in range(max(len(expansion), 1)):
            row = [0.0] * len(TARGET)
            for other, probability in enumerate(distribution[0].tolist()):
                going_on = mapped.expansion(other)
                if len(going_on) > taken and going_on[:taken] == expansion[:taken]:
                    row[going_on[taken]] += probability
            probs.append([q / (sum(row) if taken else 1) for q in row])
        if not expansion:
            return ids, probs, True
        ids += expansion
    return ids, probs, False


@pytest.mark.parametrize("ids", [[1], [3, 2], [4, 4], [2, 5, 1], [5], [1, 0], [0], [4, 3, 0]])
def test_pushforward_takes_expansions_and_their_exact_distributions(ids):
    draft, method = drawn(ids), bound(Pushforward())
    proposal = proposed(method, draft)
    expected, probs, missed = pushforward_twin(draft)
    assert (list(proposal.ids), proposal.missed) == (expected, missed)
    twin = torch.tensor(probs, dtype=torch.float64)
    torch.testing.assert_close(distributions(method, proposal), twin)


@pytest.mark.parametrize("ids", [[1, 2], [2, 0], [0]])
def test_tli_restricts_the_draft_and_normalises(ids):
    draft, method = drawn(ids), bound(Tli())
    proposal = proposed(method, draft)
    exact = VocabularyMap.build(DRAFT, TARGET).exact.tolist()
    assert list(proposal.ids) == [exact[i] for i in ids]
    expected = [
        references.restrict(distribution[0].tolist(), exact, len(TARGET))
        for distribution in draft.probs
    ]
    twin = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(distributions(method, proposal), twin)


def test_tli_draws_shared_tokens_only_and_stops_where_there_are_none():
    method = bound(Tli())
    scores = torch.tensor([[-math.inf, 0.0, 0.0, 9.0, 9.0, 9.0]])
    assert {int(method.choose_draft(scores, [HERE], 1).ids) for _ in range(50)} == {1, 2}
    scores[0, :3] = -math.inf
    draft = Draft()
    draft.take(TEXT, *method.choose_draft(scores, [HERE], 1).rows())
    assert not draft.ids


@pytest.mark.parametrize("method", [Greedy(), Coupled(), Slem(), Tli()], ids=lambda m: m.name)
def test_a_choice_among_some_tokens_is_that_among_all_with_the_others_impossible(method):
    tokens = torch.tensor([1, 2, 4])
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        place = [Place(Noise(seed), State(3 * row)) for row in range(2)]
        again = [Place(Noise(seed), State(3 * row)) for row in range(2)]
        scores = torch.randn(2, 3, generator=generator)
        scores[0, 1] = -torch.inf
        every = torch.full((2, len(DRAFT)), -torch.inf)
        every[:, tokens] = scores
        some = bound(method).choose_among(tokens, scores, place, 2)
        expected = bound(method).choose_draft(every, again, 2)
        assert some.ids.tolist() == expected.ids.tolist()
        torch.testing.assert_close(some.confidences, expected.confidences, rtol=1e-3, atol=1e-6)


def test_distributions_that_the_core_cannot_draw_from_on_a_gpu_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"^Draft.take: the draft's scores hold NaN"):
        Draft().take(TEXT, [(-1, 0.0)])

    broken = bound(Greedy())
    broken.choose_target = lambda scores, places: torch.full((len(scores),), -1)
    walk = ops.Walk(torch.tensor([-1]), torch.empty(0), torch.tensor([-1]))
    monkeypatch.setattr(ops, "walk", lambda *args, **options: walk)
    ids = torch.zeros(1, 2, dtype=torch.int64)
    for emitted_only in (False, True):
        rows = Rows(
            torch.zeros(1, len(TARGET)), Proposal(), ids, [HERE], LogitsProcessorList(),
            emitted_only=emitted_only,
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"^generate: the target's scores hold NaN"):
            next(broken.verify([rows])[0])


@pytest.mark.parametrize("method", [Tli(), Pushforward(), TokenTiming(), TokenTiming("bytes")])
def test_between_equal_vocabularies_the_full_distribution_is_kept(method):
    draft, between = drawn([1, 4, 3, 0]), bound(method, DRAFT, DRAFT)
    proposal = proposed(between, draft)
    assert list(proposal.ids) == draft.ids == [1, 4, 3, 0]
    torch.testing.assert_close(distributions(between, proposal), torch.cat(draft.probs))


@pytest.mark.parametrize("lookahead", [1, 2, 3])
def test_slrs_sums_over_every_string(lookahead):
    model = toys.TableModel(len(DRAFT), seed=4)
    drafter = toys.TableDrafter(DRAFT, model)
    method = bound(Slrs(lookahead))

    def choose(scores, places):
        return method.choose_draft(scores, places, 1)

    draft = Draft(limit=5, special_ids=DRAFT.special_ids)
    drafter.begin(None, None, None)
    drafter.propose(
        [DraftRequest(b"", HERE, draft, drafter.vocabulary)],
        choose,
        lambda drafts: method.grow(drafts, None),
    )
    proposal = proposed(method, draft)
    psi = torch.zeros(len(TARGET) + 1)
    for string in product(range(len(DRAFT)), repeat=lookahead):
        ids, weight = [0, 0], 1.0
        for token in string:
            weight *= float(model.table[ids[-2], ids[-1], token].exp())
            ids.append(token)
            if token in DRAFT.special_ids:
                weight /= len(DRAFT) ** (lookahead - len(ids) + 2)  # the rest is not drawn
                break
        spelled = TARGET.encode(DRAFT.decode(ids[2:]))
        first = 0 if ids[2] in DRAFT.eos_ids else spelled[0] if spelled else -1
        psi[first] += weight
    torch.testing.assert_close(proposal.probs[0], psi[:-1])
    assert len(proposal) == 1


def test_a_cut_does_not_depend_on_the_tokens_after_it():
    proposal = Proposal(Tree.chain([3, 1]), missed=True, probs=torch.rand(3, 4))
    assert proposal.cut(3).missed
    for length in range(3):
        cut = proposal.cut(length)
        assert (len(cut), cut.missed, len(cut.probs)) == (length, False, length)
    proposal = replace(proposal, draft_rows=[0, 0, 1], probs=torch.rand(2, 5))
    assert proposal.cut(2).draft_rows == [0, 0]
    assert proposal.cut(2).probs is proposal.probs
    assert proposal.cut(0).probs is None  # nothing is left that was drawn from a distribution


# ---- tokentiming ----


@settings(max_examples=100)
@given(st.text("abc æ日", min_size=1, max_size=12))
def test_byte_spans_are_the_tokens_that_share_bytes(text):
    ids, proxies = LEFT.encode(text.encode()), RIGHT.encode(text.encode())
    spans = byte_spans(torch.tensor(ids), torch.tensor(proxies), LEFT, RIGHT).tolist()
    owner = [k for k, token in enumerate(ids) for _ in LEFT.token_bytes(token)]
    start = 0
    for token, (lo, hi) in zip(proxies, spans, strict=True):
        end = start + len(RIGHT.token_bytes(token))
        assert sorted(set(owner[start:end])) == list(range(lo, hi))
        start = end


def test_the_end_of_turn_is_aligned_with_the_drafts_own():
    ids, proxies = [1, 2, 0], [3, 0]
    spans = byte_spans(torch.tensor(ids), torch.tensor(proxies), DRAFT, TARGET).tolist()
    assert spans == [[0, 2], [2, 3]]


def test_statistics_count_the_cases_of_the_transfer():
    target = toys.TableModel(len(TARGET), seed=1)
    watched = []

    class Recording(TokenTiming.bound):
        def transfer(self, draft, proposal):
            watched.append(super().transfer(draft, proposal))
            return watched[-1]

    class Watched(TokenTiming):
        bound = Recording

    (text,) = toys.decoding(
        target, TARGET, toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), 2)),
        method=Watched("bytes"), remaining=60, ends=False,
    )  # fmt: skip
    stats = text.stats
    assert not stats.exact
    assert sum(stats.transfer_cases.values()) == stats.proposed
    assert {"within", "merge", "inside"} <= set(stats.transfer_cases)
    assert stats.point_mass_rate == stats.transfer_cases.get("point mass", 0) / stats.proposed


def test_the_point_mass_is_accepted_as_often_as_slem():
    accepted = []
    for method in (methods.PointMass(), "slem"):
        target = toys.TableModel(len(TARGET), seed=1)
        drafter = toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), 2))
        rounds = []
        for row in range(150):
            toys.decode(
                target, TARGET, drafter, method=method, row=row, remaining=8, watch=rounds.append
            )
        accepted.append(sum(r.accepted for r in rounds) / len(rounds))
    assert accepted[0] == pytest.approx(accepted[1], rel=0.1)


# ---- settings ----


def test_a_method_is_given_by_name_or_with_settings():
    assert {name: type(methods.resolve(name)) for name in METHODS} == METHODS
    method = TokenTiming(alignment="bytes")
    assert methods.resolve(method) is method


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"^TokenTiming: alignment is 'x'; choose one of dtw, b"):
        TokenTiming(alignment="x")
    with pytest.raises(ValueError, match=r"^Slrs: lookahead is 0; give at least 1"):
        Slrs(lookahead=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_fixes_the_text_for_a_draft_length(method):
    target = toys.TableModel(len(TARGET), seed=1)

    def text(seed: int, draft_length: int = 3) -> list[int]:
        drafter = toys.TableDrafter(DRAFT, toys.TableModel(len(DRAFT), 2))
        return toys.decode(
            target, TARGET, drafter,
            method=method, seed=seed, remaining=30, draft_length=draft_length, ends=False,
        )  # fmt: skip

    assert text(5) == text(5)
    assert text(5) != text(6)


@pytest.mark.parametrize("method", METHODS)
def test_a_good_draft_is_accepted_in_part(method):
    """A target and a draft with a fixed distribution each: every method accepts some tokens."""
    single = toys.letters(["a", "b", "c", "d"])
    target = toys.TableModel(len(single), seed=1)
    drafter = toys.TableDrafter(single, target)
    (text,) = toys.decoding(target, single, drafter, method=method, remaining=100)
    stats = text.stats
    if method == "slem":
        assert 0.1 < stats.acceptance_rate < 0.9
    else:
        assert stats.acceptance_rate > 0.99


@settings(max_examples=60)
@given(st.text(max_size=15), st.sampled_from(["dtw", "bytes"]))
def test_spans_are_what_the_transfer_expects(text, alignment):
    data = text.encode()
    ids, proxies = torch.tensor(LEFT.encode(data)), torch.tensor(RIGHT.encode(data))
    if not len(ids):
        return
    make_spans = warped_spans if alignment == "dtw" else byte_spans
    spans = make_spans(ids, proxies, LEFT, RIGHT).tolist()
    assert spans[0][0] == 0
    assert spans[-1][1] == len(ids)
    assert all(lo < hi for lo, hi in spans)
    assert all(right[0] in (left[1], left[1] - 1) for left, right in pairwise(spans))
