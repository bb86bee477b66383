"""Sampling from a head wider than the vocabulary: the columns of padding are never kept."""

from __future__ import annotations

import copy

import pytest
import torch

import tokentiming as tt
from tests.support.small_models import TOKENIZER, tiny

LENGTH = len(TOKENIZER)


def pair(seed: int):
    """A model whose padding often has the largest score, and a copy without padding."""
    wide = tiny(seed=seed, initializer_range=0.2)
    with torch.no_grad():
        wide.lm_head.weight[LENGTH:] *= 2
    narrow = copy.deepcopy(wide)
    narrow.resize_token_embeddings(LENGTH)
    return wide, narrow


@pytest.mark.parametrize("method", ["coupled", "tli"])
@pytest.mark.parametrize("warper", [{"top_k": 1}, {"top_k": 3}, {"top_k": 0, "top_p": 0.5}])
def test_texts_are_those_of_the_head_without_padding(method, warper):
    inputs = TOKENIZER("ab a", return_tensors="pt")
    texts = []
    for target, draft in zip(pair(0), pair(1), strict=True):
        decoder = tt.SpeculativeDecoder(
            target, TOKENIZER, tt.ModelDrafter(draft, TOKENIZER), method=method, draft_length=3
        )
        options = {"do_sample": True, "max_new_tokens": 24, "seed": 3, **warper}
        texts.append(decoder.generate(inputs, **options).sequences.tolist())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "processor",
    [
        lambda ids, scores: scores - scores.mean(-1, keepdim=True),
        lambda ids, scores: scores.masked_fill(
            scores < scores.max(-1, keepdim=True).values - scores.std(-1, keepdim=True), -torch.inf
        ),
    ],
)
def test_a_users_processor_sees_all_logits(processor):
    """As in generate, where it runs before the warpers."""
    wide, _ = pair(0)
    seen = []

    def recorded(ids, scores):
        seen.append(scores.clone())
        return processor(ids, scores)

    inputs = TOKENIZER("ab a", return_tensors="pt")
    options = {"do_sample": True, "max_new_tokens": 1, "top_k": 3}
    wide.generate(**inputs, **options, logits_processor=[recorded])
    decoder = tt.SpeculativeDecoder(wide, TOKENIZER)
    output = decoder.generate(inputs, **options, seed=0, logits_processor=[recorded])
    assert torch.allclose(seen[0], seen[1], atol=1e-5)
    kept = processor(None, seen[0])[0, :LENGTH].topk(3).indices.tolist()
    assert int(output.sequences[0, -1]) in kept
