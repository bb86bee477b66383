"""Texts of the target alone that rounding cannot change, with real weights in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokentiming as tt
from tokentiming import noise
from tokentiming.methods import Coupled

MARGIN = 1e-3
"""A pass over several tokens and one over a single token differ by up to 1e-4 in a logit."""
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}


def greedy_alone(model, tokenizer, prompt: str, length: int) -> list[int]:
    """Ids of the target's own ``generate``, after asserting that no rounding could change them."""
    ids = tokenizer(prompt, return_tensors="pt")
    output = model.generate(
        **ids,
        do_sample=False,
        max_new_tokens=length,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(output.logits).topk(2, dim=-1).values
    margin = float((best[..., 0] - best[..., 1]).min())
    assert margin > MARGIN, f"{prompt!r} has a margin of {margin}: choose another prompt"
    return output.sequences[0].tolist()


def sampled_alone(
    decoder: tt.SpeculativeDecoder, prompt: str, options: dict[str, Any]
) -> tuple[int, list[int]]:
    """The first seed whose races have leads larger than rounding, and the ids that it gives.

    Args:
        decoder: without a drafter, and with a method in which the target emits a race's winner.
        prompt: to continue.
        options: of ``generate``.
    """
    choices: list[tuple[torch.Tensor, list]] = []
    choose = Coupled.bound.choose_target

    def recording(self, scores, places):
        choices.append((scores.clone(), places))
        return choose(self, scores, places)

    for seed in range(5):
        choices.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Coupled.bound, "choose_target", recording)
            output = decoder.generate(prompt, seed=seed, **options)
        if _margin(choices, decoder.vocabulary) > MARGIN:
            return seed, output.sequences[0].tolist()
    pytest.fail(f"{prompt!r} has a margin below {MARGIN} for every seed")


def _margin(choices: list[tuple[torch.Tensor, list]], vocabulary: tt.Vocabulary) -> float:
    """Smallest lead of a race's winner over the second token, in nats."""
    shares = [noise.candidates(scores, vocabulary, at, 2).shares for scores, at in choices]
    return min(float((first / second).log()) for first, second in torch.cat(shares))
