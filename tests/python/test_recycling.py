"""Token Recycling: what the target expected is stored and proposed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import tokentiming as tt
from tests.support.batches import OTHER, PROMPTS, TREE, new_ids
from tests.support.small_models import TOKENIZER, lively, tiny
from tokentiming.drafters import DraftRequest
from tokentiming.drafters.expected import Expected, most_probable
from tokentiming.engine.budget import FixedBudget
from tokentiming.engine.drafting import Drafting
from tokentiming.methods import Greedy
from tokentiming.noise import Noise, Place, State
from tokentiming.tokens.tree import TEXT

VOCABULARY = tt.Vocabulary.from_tokenizer(TOKENIZER)
GREEDY = {"do_sample": False, "max_new_tokens": 24}
SAMPLED = {"do_sample": True, "temperature": 1.2, "max_new_tokens": 24, "seed": 3}


def choose(scores, places, tokens):
    method = Greedy().bind(VOCABULARY, VOCABULARY)
    return method.choose_among(tokens, scores, places, 4)


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


class Twin:
    """A dict of lists, filled row by row and followed node by node."""

    def __init__(self) -> None:
        self.expected: dict[int, list[tuple[int, float]]] = {}

    def learn(self, tokens, logits) -> None:
        for token, row in zip(tokens, logits.double().softmax(1).tolist(), strict=True):
            best = sorted(range(len(row)), key=lambda other: -row[other])[:8]
            self.expected[token] = [(other, row[other]) for other in best]

    def propose(self, last: int, depth: int) -> list[tuple[int, int, float]]:
        """Token, parent and confidence of each node; 4 children of a node, 32 nodes at most."""
        nodes: list[tuple[int, int, float]] = []
        level = [(1.0, 0, TEXT, last)] if last in self.expected else []
        for _ in range(depth):
            remaining = 32 - len(nodes)
            growing = sorted(level, key=lambda entry: -entry[0])[: (remaining + 2) // 3]
            level = [entry for entry in level if entry not in growing]
            for prob, at, node, token in sorted(growing, key=lambda entry: entry[2]):
                for child, confidence in self.expected[token][:4]:
                    if len(nodes) < 32:
                        nodes.append((child, node, confidence))
                        path = prob * confidence
                        if path > 0.02 and child in self.expected:
                            level.append((path, at + 1, len(nodes) - 1, child))
        return nodes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_trees_are_those_of_a_dict_of_lists(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    drafter, twin = tt.RecyclingDrafter(), Twin()
    for rows in (1, 9, 30, 30, 30):  # tokens repeat, in a call too
        tokens = torch.randint(40, (rows,), generator=generator).tolist()
        logits = torch.randn(rows, len(VOCABULARY), generator=generator, dtype=torch.float64)
        logits[:, :40] += torch.randn(rows, 40, generator=generator).double() * 3 + 2
        drafter.learn(tokens, logits.to(dtype))
        twin.learn(tokens, logits.to(dtype))
        assert len(drafter) == len(twin.expected)
        for last in range(40):
            draft = proposed(drafter, last, 6)
            nodes = twin.propose(last, 6)
            assert list(zip(draft.ids, draft.parents, strict=True)) == [node[:2] for node in nodes]
            assert draft.confidences == pytest.approx([node[2] for node in nodes], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [3, 8, 200, 128 * 8, 128 * 9, 128 * 40 + 37])
def test_the_most_probable_tokens_are_those_of_a_sorted_row(columns, dtype):
    logits = torch.randn(11, columns, generator=torch.Generator().manual_seed(columns)).to(dtype)
    logits[0, -2:] = torch.tensor([9.0, 8.0])  # behind the last whole block
    logits[1, -1] = -torch.inf
    count = min(columns, 8)
    ids, log_probs = most_probable(logits, count)
    everything = logits.double().log_softmax(1)
    expected = everything.sort(1, descending=True).values[:, :count]
    assert (log_probs.dtype, ids.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(log_probs.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(everything.gather(1, ids), expected)  # equal logits in any order
    assert all(len(set(row)) == count for row in ids.tolist())


def test_a_stored_token_takes_about_a_hundred_bytes():
    table = Expected(50_000, 8)
    for first in range(0, 30_000, 8):
        tokens = list(range(first, first + 8))
        table.store(tokens, torch.zeros(8, 8, dtype=torch.int64), torch.zeros(8, 8))
        assert table.nbytes - 4 * 50_000 <= max(102 * len(table), 68 * 8)


@pytest.mark.parametrize(
    ("device", "calls"), [("cpu", [([1, 2], 2), ([3], 1)]), ("meta", [([1, 2, 3], 3)])]
)
def test_a_round_on_a_device_is_learned_in_one_call(device, calls):
    """Each call waits for the device."""
    seen = []

    class Learner:
        def begin(self, *args) -> None:
            pass

        def learn(self, tokens, logits) -> None:
            assert logits.shape[1] == 5
            seen.append((list(tokens), len(logits)))

    method = Greedy().bind(VOCABULARY, VOCABULARY)
    drafting = Drafting(Learner(), 0, method, FixedBudget(depth=1), TOKENIZER)
    drafting.begin(SimpleNamespace(request=SimpleNamespace(prompt=None, warpers=None)))
    logits = [torch.empty(2, 5, device=device), torch.empty(1, 5, device=device)]
    drafting.learn([[1, 2], [3]], logits)
    assert seen == calls


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


def test_ids_beyond_the_vocabulary_are_not_proposed():
    """The head of many models has more columns than there are tokens."""
    size = len(TOKENIZER)
    model = tiny(initializer_range=0.2, vocab_size=size + 13)
    decoder = tt.SpeculativeDecoder(model, TOKENIZER, tt.RecyclingDrafter(), budget=TREE)
    options = {"do_sample": False, "max_new_tokens": 60, "eos_token_id": None}
    for _ in range(3):
        output = decoder.generate("ab", **options)
        assert output.stats.draft_failure is None
    assert output.stats.proposed > 0
    inputs = TOKENIZER("ab", return_tensors="pt")
    assert torch.equal(output.sequences, model.generate(**inputs, **options))
    assert (output.sequences >= size).any()


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


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": "many"},
        {"columns": "3"},
        {"ids": torch.full((2, 8), 10**6)},
        {"ids": torch.zeros(2, dtype=torch.int64)},
        {"ids": torch.zeros(2, 8)},
        {"log_probs": torch.zeros(2, 3)},
        {"log_probs": torch.zeros(3, 8)},
        {"tokens": torch.tensor([-1, 5])},
        {"tokens": torch.tensor([5, 5])},
    ],
)
def test_a_table_with_other_values_is_refused(changes, tmp_path):
    from safetensors.torch import load_file, save_file

    drafter = tt.RecyclingDrafter()
    drafter.learn([10, 11], logits_of({11: 1.0}, {13: 1.0}))
    drafter.save(tmp_path / "table")
    about = {"columns": changes.pop("columns", str(len(VOCABULARY))), "fingerprint": ""}
    save_file(load_file(tmp_path / "table") | changes, tmp_path / "table", about)
    with pytest.raises(ValueError, match=r"^RecyclingDrafter.load: .* (was not|other values)"):
        tt.RecyclingDrafter.load(tmp_path / "table")


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_damaged_file_is_refused(part, tmp_path):
    drafter = tt.RecyclingDrafter()
    drafter.learn([10], logits_of({11: 1.0}))
    drafter.save(tmp_path / "table")
    data = (tmp_path / "table").read_bytes()
    (tmp_path / "table").write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"^RecyclingDrafter.load: .* was not written by save$"):
        tt.RecyclingDrafter.load(tmp_path / "table")


def test_candidates_of_a_file_cannot_be_changed(tmp_path):
    with pytest.raises(TypeError, match=r"^RecyclingDrafter.load: candidates are the file's"):
        tt.RecyclingDrafter.load(tmp_path / "table", candidates=3)


def test_rows_of_another_size_are_not_stored():
    drafter = tt.RecyclingDrafter()
    drafter.learn([10], logits_of({11: 1.0}))
    with pytest.raises(ValueError, match=r"another target's vocabulary; make a new Recycling"):
        drafter.learn([10], torch.zeros(1, len(VOCABULARY) + 1))


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"nodes": 0}, {"depth": 0}])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^RecyclingDrafter: (candidates|nodes|depth) is 0"):
        tt.RecyclingDrafter(**wrong)


def test_a_file_decides_the_number_of_candidates(tmp_path):
    drafter = tt.RecyclingDrafter(candidates=2)
    drafter.learn([10], logits_of({11: 0.5, 12: 0.3, 13: 0.2}))
    drafter.save(tmp_path / "table")
    loaded = tt.RecyclingDrafter.load(tmp_path / "table")
    loaded.learn([11], logits_of({10: 0.5, 12: 0.3, 13: 0.2}))
    draft = proposed(loaded, 10, 2)
    assert draft.ids[:2] == [11, 12]
    assert set(draft.parents) == {TEXT, 0}
    assert draft.ids[2:] == [10, 12]
