"""Systems that continue prompts with the same target: ours, and those of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch

from tokentiming.bench.pair import Pair
from tokentiming.bench.prompts import given, sampling_at
from tokentiming.decoder import SpeculativeDecoder

GENERATE, ALONE = "generate", "alone"
"""The target alone: by ``generate`` of transformers, and by our loop without a draft."""

_LOOKUP_TOKENS = 10


@dataclass(frozen=True)
class Generated:
    """What a system generated for some prompts."""

    ids: list[list[int]]
    """New ids of each prompt."""
    forwards: int
    """Passes of the target."""
    stats: list[dict[str, Any]] = field(default_factory=list)
    """``Stats.to_dict`` of each prompt; empty for systems of transformers."""


class System(Protocol):
    """A way to continue prompts with the target."""

    name: str
    is_peer: bool
    """Whether it is an alternative of transformers, which may fail and differ."""

    def runs_at(self, temperature: float) -> bool:
        """Whether the system takes part at this temperature."""

    def generate(
        self, texts: Sequence[str], *, length: int, temperature: float, seed: int
    ) -> Generated:
        """Continue prompts, which run together, by at most ``length`` tokens each."""


class Ours:
    """A ``SpeculativeDecoder``.

    Args:
        name: of the system.
        pair: the models.
        decoder: makes the decoder, at first use.
        greedy: whether the system takes part in greedy decoding.
        sampled: whether it takes part in sampling.
    """

    is_peer = False

    def __init__(
        self,
        name: str,
        pair: Pair,
        decoder: Callable[[], SpeculativeDecoder],
        *,
        greedy: bool = True,
        sampled: bool = True,
    ) -> None:
        self.name = name
        self._pair = pair
        self._decoder = decoder
        self._greedy, self._sampled = greedy, sampled

    def runs_at(self, temperature: float) -> bool:
        return self._sampled if temperature else self._greedy

    def generate(
        self, texts: Sequence[str], *, length: int, temperature: float, seed: int
    ) -> Generated:
        """As in ``System``.

        Raises:
            RuntimeError: the draft failed, so that the target continued alone.
        """
        decoder = self._decoder()
        before = decoder.runner.forwards
        output = decoder.generate(
            [given(text, decoder.target_tokenizer) for text in texts],
            max_new_tokens=length,
            batch_size=len(texts),
            seed=seed,
            **sampling_at(temperature),
        )
        if failures := {stats.draft_failure for stats in output.stats} - {None}:
            raise RuntimeError(f"{self.name}: the draft failed: {', '.join(failures)}")
        prompts = [len(self._pair.prompt_ids(text)) for text in texts]
        rows = zip(output.sequences.tolist(), prompts, output.stats, strict=True)
        return Generated(
            [row[prompt : prompt + stats.tokens] for row, prompt, stats in rows],
            decoder.runner.forwards - before,
            [stats.to_dict() for stats in output.stats],
        )


class Transformers:
    """``generate`` of the target.

    Args:
        name: of the system.
        pair: the models.
        options: further arguments of ``generate`` at a temperature.
    """

    def __init__(
        self,
        name: str,
        pair: Pair,
        options: Callable[[float], dict[str, Any]] = lambda temperature: {},
    ) -> None:
        self.name = name
        self.is_peer = name != GENERATE
        self._pair = pair
        self._options = options

    def runs_at(self, temperature: float) -> bool:
        return True

    def generate(
        self, texts: Sequence[str], *, length: int, temperature: float, seed: int
    ) -> Generated:
        model = self._pair.target[0]
        prompts = [self._pair.prompt_ids(text) for text in texts]
        longest = max(map(len, prompts))
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [0 if ends is None else ends]
        padded = [[ends[0]] * (longest - len(ids)) + ids for ids in prompts]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        torch.manual_seed(seed)
        with _counted(model) as forwards:
            rows = model.generate(
                torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=length,
                pad_token_id=ends[0],
                **sampling_at(temperature),
                **self._options(temperature),
            )
        return Generated([_ended(row[longest:].tolist(), ends) for row in rows], len(forwards))


def assisted(pair: Pair) -> Transformers:
    """Assisted generation: string re-encoding if greedy, and TLI if sampled.

    It has a draft of its own for each, because TLI prunes the head of the draft and leaves it so.
    """
    load = cache(lambda sampled: pair.load_draft())

    def options(temperature: float) -> dict[str, Any]:
        model, tokenizer = load(bool(temperature))
        target = pair.target[0]
        sizes = [one.config.get_text_config().vocab_size for one in (model, target)]
        if sizes[0] == sizes[1]:  # transformers refuses tokenizers in this case
            return {"assistant_model": model}
        tokenizers = {"tokenizer": pair.target[1], "assistant_tokenizer": tokenizer}
        return {"assistant_model": model, **tokenizers}

    return Transformers("assisted", pair, options)


def prompt_lookup(pair: Pair) -> Transformers:
    """Prompt lookup decoding, which proposes what followed the last tokens earlier in the text."""
    options = {"prompt_lookup_num_tokens": _LOOKUP_TOKENS}
    return Transformers("prompt-lookup", pair, lambda temperature: options)


@contextmanager
def _counted(model: Any) -> Iterator[list[None]]:
    """A list that grows by one entry with each pass of a model."""
    passes: list[None] = []
    hook = model.register_forward_pre_hook(lambda *_: passes.append(None))
    try:
        yield passes
    finally:
        hook.remove()


def _ended(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Ids up to the first end of turn; what follows pads the batch."""
    length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[:length]
