"""The way in from ``transformers``: a callable for ``generate(custom_generate=...)``."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming import scalars
from tokentiming.decoder import SpeculativeDecoder
from tokentiming.drafters import ModelDrafter
from tokentiming.engine.streaming import ended_on_error
from tokentiming.generation import arguments
from tokentiming.generation.batch import Batch
from tokentiming.methods import Method, resolve
from tokentiming.noise import draw_seed


class custom_generate:  # noqa: N801 - used like the function that it makes
    """A callable that lets ``target_model.generate`` speculate.

    ``target_model.generate(**inputs, custom_generate=custom_generate(...))`` takes the same
    arguments as ever, batches included, whose rows run one after another, and ``seed=`` besides.
    ``streamer`` is given here, since ``generate`` does not pass it on. ``stop_strings`` may be
    given here or to ``generate``, but not in a generation config: ``generate`` then asks for a
    tokenizer, which it does not pass on to a callable.

    Args:
        draft_model: any causal language model of transformers.
        draft_tokenizer: its tokenizer.
        target_tokenizer: the tokenizer of the model whose ``generate`` is called.
        method: a key of ``tokentiming.methods.METHODS``, or a method with settings of one's own.
        draft_length: tokens to draft in every round; by default this follows what pays.
        streamer: a transformers streamer; takes a single text.
        stop_strings: strings at whose first occurrence generation ends.

    The result of a call is ``sequences``, or a ``SpeculativeOutput`` of lists under
    ``return_dict_in_generate=True``.
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
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        seed: int | None = None,
        stop_strings: str | list[str] | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """Generate as `generate` does, which calls this with what it prepared."""
        arguments.refuse_dropped(model)
        steps = logits_processor, stopping_criteria
        batch = Batch.of(input_ids, *steps, generation_config, model_kwargs)
        decoder = self._decoder_for(model)
        strings = self._stop_strings if stop_strings is None else stop_strings
        with ended_on_error(self._streamer):
            results = decoder.decode(
                [batch.stopping_at(strings, self._target_tokenizer)],
                seed=draw_seed() if seed is None else scalars.seed(seed),
                streamer=self._streamer,
            )
        output = decoder.output(results, batch=True)
        return output if generation_config.return_dict_in_generate else output.sequences

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
