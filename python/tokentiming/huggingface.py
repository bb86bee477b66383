"""The way in from ``transformers``: a callable for ``generate(custom_generate=...)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel, StoppingCriteriaList, StopStringCriteria

from tokentiming.decoder import SpeculativeDecoder
from tokentiming.drafters import ModelDrafter
from tokentiming.methods import Method, resolve
from tokentiming.noise import Noise, draw_seed
from tokentiming.output import SpeculativeOutput, pad
from tokentiming.prompts import Prompt


def custom_generate(
    *,
    draft_model: PreTrainedModel,
    draft_tokenizer: Any,
    target_tokenizer: Any,
    method: str | Method = "coupled",
    draft_length: int | None = None,
    streamer: Any = None,
    stop_strings: str | list[str] | None = None,
) -> Callable[..., Any]:
    """Make the callable that lets ``target_model.generate`` speculate.

    ``target_model.generate(**inputs, custom_generate=custom_generate(...))`` takes the same
    arguments as ever, batches included, whose rows run one after another, and ``seed=`` besides.
    ``streamer`` and ``stop_strings`` are given here, since ``generate`` does not pass them on.

    Args:
        draft_model: any causal language model of transformers.
        draft_tokenizer: its tokenizer.
        target_tokenizer: the tokenizer of the model whose ``generate`` is called.
        method: a key of ``tokentiming.methods.METHODS``, or a method with settings of one's own.
        draft_length: tokens to draft in every round; by default this follows what pays.
        streamer: a transformers streamer.
        stop_strings: strings at whose first occurrence generation ends.

    Returns:
        A callable whose result is ``sequences``, or a ``SpeculativeOutput`` under
        ``return_dict_in_generate=True``.
    """
    method = resolve(method)
    drafter = ModelDrafter(draft_model, draft_tokenizer)
    decoders: list[SpeculativeDecoder] = []

    def decoder_for(model: PreTrainedModel) -> SpeculativeDecoder:
        if not decoders or decoders[0].target_model is not model:
            decoders[:] = [
                SpeculativeDecoder(
                    model, target_tokenizer, drafter, method=method, draft_length=draft_length
                )
            ]
        return decoders[0]

    def speculate(
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        seed: int | None = None,
        **model_kwargs: Any,
    ) -> Any:
        decoder = decoder_for(model)
        cache = model_kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            raise ValueError(
                "custom_generate: past_key_values holds tokens already; the decoder keeps its own "
                "cache, so give the whole prompt"
            )
        if stop_strings is not None:
            criterion = StopStringCriteria(target_tokenizer, stop_strings)
            stopping_criteria = StoppingCriteriaList([*stopping_criteria, criterion])
        noise_seed = draw_seed() if seed is None else seed
        mask = model_kwargs.get("attention_mask")
        rows, new, stats = [], [], []
        for i, ids in enumerate(input_ids):
            kept = ids if mask is None else ids[mask[i].bool()]
            sequence, row_stats = decoder.decode(
                Prompt(kept.tolist()),
                logits_processor,
                stopping_criteria,
                generation_config,
                room=generation_config.max_length - len(ids),
                noise=Noise(noise_seed, i),
                streamer=streamer,
            )
            new.append(sequence[len(kept) :])
            rows.append(ids.tolist() + new[-1])
            stats.append(row_stats)
        sequences = pad(rows, model)
        if not generation_config.return_dict_in_generate:
            return sequences
        text = target_tokenizer.batch_decode(new, skip_special_tokens=True)
        return SpeculativeOutput(sequences=sequences, text=text, stats=stats)

    return speculate
