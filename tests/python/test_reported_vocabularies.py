"""Problems that users of other engines reported: different tokenizers or vocabularies.

Each row of ``REPORTS`` is a public report in the issue tracker of its repository. The case and the
outcome are described in our words, and the tests use inputs of our own.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tokenizers import processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import tokentiming as tt
from tests.support import tokenizer_kinds, toys
from tests.support.reported import (
    GPT2,
    OTHER,
    PROMPT,
    TOKENIZER,
    Reports,
    alone,
    decoder_of,
    one_thread,
    read_by,
    renumbered,
    tiny,
    twin,
    written,
)
from tokentiming import methods
from tokentiming.engine.adaptive import AdaptiveBudget
from tokentiming.engine.budget import FixedBudget
from tokentiming.tokens import vocabulary_map

REPORTS = Reports(
    {
        "huggingface/transformers#46936": (
            "a greedy run crashes if the draft's prompt has another number of tokens",
            "each model counts its own positions; the ids are those of generate",
        ),
        "huggingface/transformers#46124": (
            "each new encoding of the text for the draft adds a BOS and tidies spaces",
            "one BOS at the beginning of the draft's prompt, and every space kept",
        ),
        "huggingface/transformers#45307": (
            "one tokenizer, and heads that are padded to different sizes, crash",
            "the padding is never drafted or emitted; an equal draft is accepted whole",
        ),
        "sgl-project/sglang#24051": (
            "ids of another vocabulary are taken for the target's, and the text is garbage",
            "tokens are compared by their bytes; a renumbered draft is accepted whole",
        ),
        "vllm-project/vllm#51561": (
            "with another option on, draft ids skip the mask and the map to target ids",
            "no option goes around the map: greedy, sampled, any method, any length",
        ),
        "vllm-project/vllm#38174": (
            "drafting from shared tokens only; the draft's probabilities were dropped",
            "tli drafts shared tokens only, and judges them by the draft's probabilities",
        ),
        "vllm-project/vllm#54780": (
            "the map is made from another revision of a tokenizer than the model's",
            "the map is made from the tokenizer object given, also if a map is on disk",
        ),
        "LostRuins/koboldcpp#2325": (
            "drafting is off if the two tokenizers are of different kinds",
            "any two kinds work together, with the ids of generate",
        ),
    }
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def target():
    return tiny()


@pytest.mark.parametrize("kind", ["rotary", "learned"])
@pytest.mark.parametrize("draft_tokenizer", [toys.byte_level_tokenizer(), OTHER])
@REPORTS.met("huggingface/transformers#46936")
def test_prompts_of_different_lengths_in_tokens(target, kind, draft_tokenizer):
    size = len(draft_tokenizer)
    draft = (
        tiny(seed=1, vocab_size=size)
        if kind == "rotary"
        else tiny(GPT2LMHeadModel, GPT2Config, seed=1, vocab_size=size, **GPT2)
    )
    assert len(draft_tokenizer(PROMPT).input_ids) > len(TOKENIZER(PROMPT).input_ids)
    ids, stats = written(decoder_of(target, draft, draft_tokenizer, draft_length=4), PROMPT)
    assert ids == alone(target, PROMPT)
    assert stats.drafted > 0


@REPORTS.met("huggingface/transformers#46124")
def test_the_draft_reads_one_bos_and_every_space(target):
    draft_tokenizer = toys.byte_level_tokenizer([("a", "b")])
    draft_tokenizer.add_special_tokens({"bos_token": "<bos>"})
    bos = draft_tokenizer.bos_token_id
    draft_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    draft = tiny(seed=1, vocab_size=len(draft_tokenizer))
    decoder = decoder_of(target, draft, draft_tokenizer, draft_length=4)
    passes = read_by(draft)
    text = "it 's  n't so , he said ."
    expected = target.generate(**TOKENIZER(text, return_tensors="pt"), max_new_tokens=20)
    output = decoder.generate(TOKENIZER(text).input_ids, max_new_tokens=20)
    assert torch.equal(output.sequences, expected)
    assert passes[0][0] == bos
    assert draft_tokenizer.decode(passes[0][1:], clean_up_tokenization_spaces=False) == text
    assert sum(ids.count(bos) for ids in passes) == 1
    assert output.stats.drafted > 4


@pytest.mark.parametrize("sizes", [(280, len(TOKENIZER)), (len(TOKENIZER), 280)])
@REPORTS.met("huggingface/transformers#45307")
def test_heads_with_more_rows_than_tokens(sizes):
    target = tiny(vocab_size=sizes[0])
    target.lm_head.weight.data[len(TOKENIZER) :] = 0  # no likely winners, on either side
    rows = [min(i, len(TOKENIZER) - 1) for i in range(sizes[1])]
    decoder = decoder_of(target, twin(target, rows), draft_length=5)
    ids, stats = written(decoder, PROMPT)
    assert ids == alone(target, PROMPT)
    output = decoder.generate(PROMPT, do_sample=True, temperature=3.0, seed=0, max_new_tokens=60)
    assert int(output.sequences.max()) < len(TOKENIZER)
    plain = decoder.generate("q", do_sample=False, max_new_tokens=20).stats
    assert plain.acceptance_rate == 1
    assert stats.drafted > 0


@REPORTS.met("sgl-project/sglang#24051")
def test_equal_ids_that_mean_different_tokens(target):
    other = renumbered(TOKENIZER)
    assert len(other) == len(TOKENIZER)
    assert other.convert_ids_to_tokens(100) != TOKENIZER.convert_ids_to_tokens(100)
    draft = twin(target, [-i % len(TOKENIZER) for i in range(len(TOKENIZER))])
    decoder = decoder_of(target, draft, other, draft_length=5)
    expected = target.generate(
        **TOKENIZER(PROMPT, return_tensors="pt"), do_sample=False, max_new_tokens=20
    )
    output = decoder.generate(PROMPT, do_sample=False, max_new_tokens=20)
    assert torch.equal(output.sequences, expected)
    assert output.stats.acceptance_rate == 1
    assert output.stats.drafted > 10


@pytest.mark.parametrize("budget", [AdaptiveBudget, partial(FixedBudget, depth=1),
                                    partial(FixedBudget, depth=6)])  # fmt: skip
@pytest.mark.parametrize("method", ["coupled", "pushforward", "tli", "tokentiming"])
@REPORTS.met("vllm-project/vllm#51561")
def test_no_option_bypasses_the_map(target, method, budget):
    draft = twin(target, [-i % len(TOKENIZER) for i in range(len(TOKENIZER))])
    chains = budget(candidates=1)
    decoder = decoder_of(target, draft, renumbered(TOKENIZER), method=method, budget=chains)
    stats = decoder.generate(PROMPT, do_sample=True, seed=5, max_new_tokens=30).stats
    assert stats.acceptance_rate > 0.9
    assert stats.proposed > 0
    ids, _ = written(decoder, PROMPT)
    assert ids == alone(target, PROMPT)


@REPORTS.met("vllm-project/vllm#38174")
def test_tli_drafts_shared_tokens_by_the_draft_s_probabilities(target):
    proposals = []

    class Recording(methods.Tli.bound):
        def transfer(self, draft, proposal):
            moved = super().transfer(draft, proposal)
            rows = [self.distribution(moved, at) for at in range(len(moved))]
            proposals.append((moved, torch.stack(rows) if rows else None))
            return moved

    class Watched(methods.Tli):
        bound = Recording

    draft = tiny(seed=1, vocab_size=len(OTHER))
    decoder = decoder_of(target, draft, OTHER, method=Watched(), draft_length=4)
    decoder.generate(PROMPT, do_sample=True, seed=1, max_new_tokens=40)
    theirs = decoder.drafter.vocabulary.owners
    ours = [decoder.vocabulary.token_bytes(i) for i in range(len(TOKENIZER))]
    shared = torch.tensor([data in theirs or i == 0 for i, data in enumerate(ours)])
    assert not shared.all()
    proposals = [(proposal, probs) for proposal, probs in proposals if proposal.ids]
    assert proposals
    for proposal, probs in proposals:
        assert shared[proposal.ids].all()
        assert (probs[:, ~shared] == 0).all()
        torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)))
        assert (probs.max(1).values < 0.9).all()  # the probabilities, not a point mass


@REPORTS.met("vllm-project/vllm#54780")
def test_the_map_is_built_for_the_given_tokenizers(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENTIMING_CACHE", str(tmp_path))
    monkeypatch.setattr(vocabulary_map, "_WORTH_A_FILE", 1)
    ours = tt.Vocabulary.from_tokenizer(TOKENIZER)
    for revision in (OTHER, renumbered(OTHER)):
        theirs = tt.Vocabulary.from_tokenizer(revision)
        for _ in range(2):  # built, and read from its file
            exact = tt.VocabularyMap.build(theirs, ours).exact.tolist()
            token = revision.convert_tokens_to_ids("q")
            assert exact[token] == TOKENIZER.convert_tokens_to_ids("q")
    changed = renumbered(OTHER)
    changed.add_tokens(["inner"])
    theirs = tt.Vocabulary.from_tokenizer(changed)
    expansion = tt.VocabularyMap.build(theirs, ours).expansion(len(theirs) - 1)
    assert TOKENIZER.decode(expansion) == "inner"


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram with a dummy prefix", "normalising"])
@REPORTS.met("LostRuins/koboldcpp#2325")
def test_tokenizers_of_different_kinds(target, kind):
    backend, vocabulary = tokenizer_kinds.tokenizer_and_vocabulary(kind)
    draft = tiny(seed=1, vocab_size=len(vocabulary), eos_token_id=None)
    draft_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids, stats = written(decoder_of(target, draft, draft_tokenizer, draft_length=4), PROMPT)
    assert ids == alone(target, PROMPT)
    assert stats.drafted > 0


def test_every_report_has_its_test():
    REPORTS.check()
