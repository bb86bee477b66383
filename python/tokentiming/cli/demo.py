"""The demonstration: the target alone and with a draft, side by side on the same prompts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tokentiming.decoder import SpeculativeDecoder
from tokentiming.engine.stats import Stats
from tokentiming.tokens.prompts import parse

ARTICLE = (
    "The James Webb Space Telescope was launched on 25 December 2021 from Kourou, French Guiana. "
    "It orbits the Sun near the second Lagrange point of the Earth-Sun system, 1.5 million "
    "kilometres from Earth. Its mirror of 6.5 metres is made of 18 hexagonal segments of "
    "gold-plated beryllium. A five-layer sunshield keeps its instruments below 50 kelvin, so that "
    "it can observe infrared light from the first galaxies and the atmospheres of exoplanets."
)
PROMPTS = {
    "code": "Write a Python function that reads a text file and returns its ten most common words.",
    "question": "Why is the sky blue during the day and red at sunset?",
    "summary": f"Summarize in two sentences: {ARTICLE}",
    "Chinese": "请用三句话介绍一下中国的长城。",
}


@dataclass(frozen=True)
class Difference:
    """Where two runs part: rounding can turn the order of two near logits."""

    position: int
    """New tokens that agree."""
    gap: float
    """Logit of the first run's token less that of the second's, by the target over the prefix."""


@dataclass(frozen=True)
class Comparison:
    """One prompt with and without a draft."""

    name: str
    alone: float
    """Tokens per second of the target alone: the faster of ``generate`` and our loop."""
    stats: Stats
    difference: Difference | None

    @property
    def ratio(self) -> float:
        return self.stats.tokens_per_second / self.alone


class Watcher:
    """Told what is generated, as it comes."""

    def alone(self, data: bytes) -> None:
        """Bytes that the target alone generated."""

    def speculative(self, data: bytes, accepted: bool) -> None:
        """Bytes of one token of the speculative run; accepted ones had been drafted."""


def compare(
    decoder: SpeculativeDecoder,
    name: str,
    prompt: Any,
    *,
    length: int,
    sampling: dict[str, Any],
    watcher: Watcher,
) -> Comparison:
    """Run a prompt through ``generate``, our loop without a drafter and with one."""
    vocabulary, target = decoder.vocabulary, decoder.target_model
    ids = torch.tensor([parse(prompt, decoder.target_tokenizer)[0].ids], device=target.device)
    streamer = _Streamer(lambda token: watcher.alone(vocabulary.token_bytes(token)))
    start = time.perf_counter()
    reference = target.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=length,
        streamer=streamer,
        **sampling,
    )
    generate_speed = (reference.shape[1] - ids.shape[1]) / (time.perf_counter() - start)
    without = SpeculativeDecoder(target, decoder.target_tokenizer, method=decoder.method)
    plain = without.generate(prompt, max_new_tokens=length, seed=0, **sampling)

    def watch(round_: Any) -> None:
        for i, token in enumerate(round_.tokens):
            watcher.speculative(vocabulary.token_bytes(token), i < round_.accepted)

    output = decoder.generate(prompt, max_new_tokens=length, seed=0, watch=watch, **sampling)
    # generate draws from a stream of its own: what is sampled is compared with our loop alone
    expected = plain.sequences if sampling["do_sample"] else reference
    return Comparison(
        name,
        max(generate_speed, plain.stats.tokens_per_second),
        output.stats,
        _difference(target, expected[0], output.sequences[0], ids.shape[1]),
    )


class _Streamer:
    """Passes on each new token of ``generate``, whose first call brings the prompt."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._prompt_seen = False

    def put(self, ids: torch.Tensor) -> None:
        if self._prompt_seen:
            for token in ids.flatten().tolist():
                self._tell(token)
        self._prompt_seen = True

    def end(self) -> None:
        pass


@torch.inference_mode()
def _difference(
    target: Any, left: torch.Tensor, right: torch.Tensor, prompt: int
) -> Difference | None:
    shorter = min(len(left), len(right))
    unequal = (left[:shorter] != right[:shorter]).nonzero()
    if not len(unequal):
        return None
    at = int(unequal[0])
    logits = target(left[None, :at], logits_to_keep=1).logits[0, -1].float()
    return Difference(at - prompt, float(logits[left[at]] - logits[right[at]]))
