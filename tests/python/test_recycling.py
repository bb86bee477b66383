"""Token Recycling: what the target expected is stored and proposed."""

from __future__ import annotations

import pytest
import torch

import tokentiming as tt
from tests.support.batches import OTHER, PROMPTS, TREE, new_ids
from tests.support.small_models import TOKENIZER, lively
from tokentiming.drafters import DraftRequest
from tokentiming.methods import Greedy
from tokentiming.noise import Noise, Place, State
from tokentiming.tokens.tree import TEXT

VOCABULARY = tt.Vocabulary.from_tokenizer(TOKENIZER)
GREEDY = {"do_sample": False, "max_new_tokens": 24}
SAMPLED = {"do_sample": True, "temperature": 1.2, "max_new_tokens": 24, "seed": 3}


def choose(scores, places):
    method = Greedy().bind(VOCABULARY, VOCABULARY)
    return method.choose_draft(scores, places, 4)


def proposed(drafter: tt.RecyclingDrafter, last: int, limit: int = 8) -> tt.Draft:
    draft = tt.Draft(limit=limit)
    place = Place(Noise(0), State())
    request = DraftRequest(b"", place, draft, VOCABULARY, [last])
    drafter.begin(None, None, lambda ids, scores: scores)
    drafter.propose([request], choose, lambda drafts: [[]])
    drafter.reset()
    return draft


def logits_of(*rows: dict[int, float]) -> torch.Tensor:
    """Log-probabilities; tokens that are not named are improbable."""
    logits = torch.full((len(rows), len(VOCABULARY)), -30.0)
    for row, values in zip(logits, rows, strict=True):
        for token, probability in values.items():
            row[token] = torch.tensor(probability).log()
    return logits


def test_a_draft_follows_what_was_expected_after_each_token():
    drafter = tt.RecyclingDrafter()
    assert not proposed(drafter, 10).ids
    drafter.learn([10, 11], logits_of({11: 0.7, 12: 0.3}, {13: 1.0}))
    assert len(drafter) == 2
    draft = proposed(drafter, 10)
    children = [n for n, parent in enumerate(draft.parents) if parent == TEXT]
    assert [draft.ids[n] for n in children[:2]] == [11, 12]
    assert [draft.confidences[n] for n in children[:2]] == pytest.approx([0.7, 0.3], abs=1e-3)
    after = draft.parents.index(children[0])
    assert draft.ids[after] == 13
    assert draft.confidences[after] == pytest.approx(1.0, abs=1e-3)


def test_scores_are_warped_like_the_texts_own():
    drafter = tt.RecyclingDrafter()
    drafter.learn([10], logits_of({11: 0.64, 12: 0.16, 13: 0.04}))
    draft = tt.Draft(limit=1)
    request = DraftRequest(b"", Place(Noise(0), State()), draft, VOCABULARY, [10])
    drafter.begin(None, None, lambda ids, scores: scores / 2)  # a temperature of 2
    drafter.propose([request], choose, lambda drafts: [[]])
    first, second, third = draft.confidences[:3]
    assert first / second == pytest.approx(2, rel=1e-3)
    assert second / third == pytest.approx(2, rel=1e-3)


def test_the_latest_row_counts():
    drafter = tt.RecyclingDrafter()
    drafter.learn([10], logits_of({11: 1.0}))
    drafter.learn([10], logits_of({12: 1.0}))
    assert proposed(drafter, 10).ids[0] == 12


def test_a_draft_is_limited_in_depth_and_nodes():
    drafter = tt.RecyclingDrafter(nodes=12, depth=5)
    drafter.learn([10], logits_of({10: 0.4, 11: 0.3, 12: 0.3}))
    assert max(proposed(drafter, 10, 2).tree.depths) == 2
    draft = proposed(drafter, 10)
    assert max(draft.tree.depths) <= 5
    assert len(draft) <= 12


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_texts_are_those_of_the_target_alone(options):
    target = lively()
    expected = new_ids(tt.SpeculativeDecoder(target, TOKENIZER).generate(list(PROMPTS), **options))
    drafter = tt.RecyclingDrafter()
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=TREE)
    accepted = []
    for batch_size in (1, 3):
        output = decoder.generate(list(PROMPTS), batch_size=batch_size, **options)
        assert new_ids(output) == expected
        accepted.append(sum(stats.accepted for stats in output.stats))
    assert accepted[1] > accepted[0], "what was stored does not help later texts"


def test_rejected_rows_are_learned_too():
    """The rows after proposals that the target rejects hold tokens that were never emitted."""
    target = lively()
    drafter = tt.RecyclingDrafter()
    decoder = tt.SpeculativeDecoder(target, TOKENIZER, drafter, budget=TREE)
    output = decoder.generate(PROMPTS[1], **GREEDY | {"max_new_tokens": 60})
    emitted = set(output.sequences[0].tolist())
    assert len(drafter) > len(emitted)


def test_what_is_stored_can_be_saved(tmp_path):
    drafter = tt.RecyclingDrafter()
    with pytest.raises(ValueError, match=r"^RecyclingDrafter.save: nothing is stored"):
        drafter.save(tmp_path / "table")
    drafter.learn([10, 11], logits_of({11: 0.7, 12: 0.3}, {13: 1.0}))
    before = proposed(drafter, 10)
    drafter.save(tmp_path / "table")
    loaded = tt.RecyclingDrafter.load(tmp_path / "table", nodes=8)
    assert len(loaded) == 2
    after = proposed(loaded, 10)
    assert after.ids == before.ids[: len(after.ids)]
    assert after.confidences == pytest.approx(before.confidences[: len(after.ids)])


def test_another_vocabulary_is_refused():
    drafter = tt.RecyclingDrafter()
    proposed(drafter, 10)
    other = tt.Vocabulary.from_tokenizer(OTHER)
    request = DraftRequest(b"", Place(Noise(0), State()), tt.Draft(limit=3), other, [0])
    drafter.begin(None, None, None)
    with pytest.raises(ValueError, match=r"^RecyclingDrafter: what is stored is of another"):
        drafter.propose([request], choose, lambda drafts: [[]])


def test_another_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"ids": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"^RecyclingDrafter.load: .* was not written by save$"):
        tt.RecyclingDrafter.load(tmp_path / "other")


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"nodes": 0}, {"depth": 0}])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^RecyclingDrafter: (candidates|nodes|depth) is 0"):
        tt.RecyclingDrafter(**wrong)
