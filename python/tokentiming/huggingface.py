"""Speculative decoding for ``generate`` of any target model of transformers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from tokentiming.decoder import SpeculativeDecoder
from tokentiming.drafters import ModelDrafter
from tokentiming.generation import arguments
from tokentiming.methods import Method, resolve


class custom_generate:  # noqa: N801 - used like a function
    """Builds a ``SpeculativeDecoder`` for the model whose ``generate`` calls it, and calls it.

    Args:
        draft_model: any causal language model of transformers.
        draft_tokenizer: its tokenizer.
        target_tokenizer: the tokenizer of the model whose ``generate`` is called.
        method: as for ``SpeculativeDecoder``.
        draft_length: as for ``SpeculativeDecoder``.
        streamer: a transformers streamer for a single text. It is an argument here because
            ``generate`` does not pass it on.
        stop_strings: strings at whose first occurrence generation ends; also an argument of
            ``generate``.

    Example:
        >>> speculate = custom_generate(
        ...     draft_model=draft_model,
        ...     draft_tokenizer=draft_tokenizer,
        ...     target_tokenizer=target_tokenizer,
        ... )
        >>> ids = target_model.generate(**inputs, custom_generate=speculate, max_new_tokens=8)
    """

    def __init__(
        self,
        *,
        draft_model: PreTrainedModel,
        draft_tokenizer: Any,
        target_tokenizer: Any,
        method: str | Method = "coupled",
        draft_length: int | None = None,
        streamer: Any = None,
        stop_strings: str | list[str] | None = None,
    ) -> None:
        arguments.refuse_callbacks(streamer, None, stop_strings)
        self._target_tokenizer = target_tokenizer
        self._method = resolve(method)
        self._draft_length = draft_length
        self._drafter = ModelDrafter(draft_model, draft_tokenizer)
        self._streamer = streamer
        self._stop_strings = stop_strings
        self._decoder: SpeculativeDecoder | None = None

    def __call__(
        self,
        model: PreTrainedModel,
        *args: Any,
        seed: int | list[int] | None = None,
        batch_size: int | None = None,
        stop_strings: str | list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate with the arguments of ``SpeculativeDecoder.__call__``."""
        return self._decoder_for(model)(
            model,
            *args,
            seed=seed,
            batch_size=batch_size,
            stop_strings=self._stop_strings if stop_strings is None else stop_strings,
            streamer=self._streamer,
            **kwargs,
        )

    def _decoder_for(self, model: PreTrainedModel) -> SpeculativeDecoder:
        decoder = self._decoder
        if decoder is None or decoder.target_model is not model:
            decoder = SpeculativeDecoder(
                model,
                self._target_tokenizer,
                self._drafter,
                method=self._method,
                draft_length=self._draft_length,
            )
            self._decoder = decoder
        return decoder
