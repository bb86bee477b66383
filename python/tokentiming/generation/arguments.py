"""What `generate` accepts, and what it refuses before any model runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, QuantizedCache
from transformers.generation import GenerationMode

from tokentiming.scalars import type_of

_REFUSED = {
    "assistant_model": "the drafter is given to SpeculativeDecoder",
    "assistant_tokenizer": "the drafter is given to SpeculativeDecoder",
    "custom_generate": "SpeculativeDecoder.generate is one itself",
    "input_ids": "pass all that the tokenizer returned as the prompt: generate(inputs)",
    "inputs": "pass ids, or all that the tokenizer returned, as the prompt: generate(inputs)",
    "inputs_embeds": "proposals are ids; give the prompt as ids or text",
    "attention_mask": "pass all that the tokenizer returned as the prompt: generate(inputs)",
    "past_key_values": "the decoder keeps its own cache; give the whole prompt",
}

_REFUSED_IN_CONFIG = {
    "output_scores": "rejected rows have no place in it; score out.sequences with the target",
    "output_logits": "rejected rows have no place in it; score out.sequences with the target",
    "output_attentions": "run the target over out.sequences instead",
    "output_hidden_states": "run the target over out.sequences instead",
}

_WITHOUT_EFFECT = frozenset({"attention_mask", "logits_to_keep", "past_key_values", "use_cache"})
"""Inputs of a model that are used, or that do not change what it computes."""

_PARAMETERS = (
    _WITHOUT_EFFECT
    | {"input_ids", "position_ids", "tokenizer", "token_type_ids", "trust_remote_code"}
    | set(inspect.signature(GenerationMixin.generate).parameters)
)
"""Names that `generate` has parameters for, or that are checked elsewhere."""

_GENERATE = inspect.unwrap(GenerationMixin.generate).__code__

_DROPPED = {
    "streamer": "give functools.partial(decoder, streamer=streamer) as custom_generate, or call "
    "decoder.generate(streamer=streamer); tt.custom_generate(...) takes a streamer itself",
    "assistant_model": "give it to tt.custom_generate(draft_model=...), or to tt.ModelDrafter(...)",
}
"""Arguments that `generate` does not pass on to a `custom_generate` callable."""


def refuse_generate_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of transformers' ``generate`` that have no meaning here."""
    for name, way_out in (_REFUSED | _REFUSED_IN_CONFIG).items():
        if arguments.get(name) is not None and arguments[name] is not False:
            raise ValueError(f"generate: {name} cannot be honoured: {way_out}")
    refuse_other_inputs(arguments)
    config = arguments.get("generation_config")
    if config is not None and not isinstance(config, GenerationConfig):
        raise TypeError(
            f"generate: generation_config is {type_of(config)}; give a GenerationConfig"
        )
    for name in ("logits_processor", "stopping_criteria"):
        if arguments.get(name) is not None and not isinstance(arguments[name], Sequence):
            raise TypeError(f"generate: {name} is {type_of(arguments[name])}; give a list")


def refuse_callbacks(streamer: Any, watch: Any, stop_strings: Any) -> None:
    """Refuse streamers, callbacks and stop strings of a wrong type."""
    if streamer is not None and not all(hasattr(streamer, name) for name in ("put", "end")):
        raise TypeError(
            f"generate: streamer is {type_of(streamer)}; give an object with put and end, "
            "such as transformers' TextStreamer"
        )
    if watch is not None and not callable(watch):
        raise TypeError(f"generate: watch is {watch!r}; give a function of a Round")
    strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
    if strings is None:
        return
    if not isinstance(strings, Sequence) or not all(isinstance(s, str) and s for s in strings):
        raise TypeError(
            f"generate: stop_strings is {stop_strings!r}; give a string or a list of them, none "
            "of them empty"
        )


def refuse_config(config: Any) -> None:
    """Refuse all but greedy decoding and sampling, and outputs that do not exist here.

    Args:
        config: as `generate` prepared it, the model's own settings included.
    """
    if isinstance(config.do_sample, list | tuple):  # transformers takes it for True
        raise ValueError(
            "generate: do_sample is a list, which generate of the model does not take; call "
            "decoder.generate(do_sample=[...])"
        )
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(
            f"generate: {mode.value.replace('_', ' ')} cannot be speculated on; set num_beams=1 "
            "and leave out what asks for it"
        )
    for name, way_out in _REFUSED_IN_CONFIG.items():
        if getattr(config, name, None):
            raise ValueError(
                f"generate: {name} cannot be honoured: {way_out}; set {name}=False if the model's "
                "generation config asks for it"
            )


def refuse_model_inputs(inputs: Mapping[str, Any], mask: torch.Tensor) -> None:
    """Refuse inputs of the model other than ids.

    Args:
        inputs: what `generate` passes to the model besides the ids.
        mask: bool ``[B, L]``, False at padding.
    """
    cache = inputs.get("past_key_values")
    lossless = type(cache).__module__ == "transformers.cache_utils"
    if cache is not None and not (lossless and not isinstance(cache, QuantizedCache)):
        raise ValueError(
            f"generate: past_key_values is {type_of(cache)}, which may change the target's "
            "logits; the decoder keeps a cache of its own, so leave it out"
        )
    if cache is not None and cache.get_seq_length():
        raise ValueError(
            "generate: past_key_values holds tokens already; the decoder keeps its own cache, so "
            "give the whole prompt"
        )
    for name, value in inputs.items():
        if name in _WITHOUT_EFFECT or value is None or value is False or value == {}:
            continue
        if not isinstance(value, torch.Tensor) and name in ("position_ids", "token_type_ids"):
            _refuse_input(name)
        if name == "position_ids" and _are_usual_positions(value, mask):
            continue
        if name == "token_type_ids" and not value.any():
            continue
        _refuse_input(name)


def refuse_other_inputs(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that only the model takes, before an encoder runs on them.

    Args:
        arguments: all arguments; those that are parameters of `generate` are ignored.
    """
    settings = GenerationConfig()
    for name, value in arguments.items():
        if not (hasattr(settings, name) or name in _PARAMETERS or value is None or value is False):
            _refuse_input(name)


def _refuse_input(name: str) -> NoReturn:
    way_out = ", where the target reads ids alone; leave it out, or call the target's own generate"
    if name in ("drafter", "method", "draft_length"):
        way_out = "; it is given to SpeculativeDecoder or to custom_generate"
    elif similar := get_close_matches(name, [*vars(GenerationConfig()), "seed", "streamer"], 1):
        way_out = f"; did you mean {similar[0]}?"
    raise ValueError(f"generate: {name} is not used here{way_out}")


def _are_usual_positions(positions: torch.Tensor, mask: torch.Tensor) -> bool:
    if positions.shape != mask.shape:  # further axes, which the model creates itself
        return positions.ndim > 2
    usual = mask.cumsum(-1) - 1
    return bool(((positions == usual) | ~mask).all())


def refuse_dropped(model: PreTrainedModel) -> None:
    """Refuse arguments of the model's `generate` that it does not pass on to a callable.

    They are visible only in its stack frame. A streamer is ended; otherwise its reader would wait
    forever.
    """
    frame = inspect.currentframe()
    while frame is not None:
        given = frame.f_locals
        if frame.f_code is _GENERATE and given["self"] is model:
            for name, way_out in _DROPPED.items():
                if given.get(name) is None:
                    continue
                if name == "streamer":
                    given[name].end()
                raise ValueError(f"generate: {name} does not reach custom_generate; {way_out}")
            refuse_other_inputs(given["kwargs"])
            return
        frame = frame.f_back


def refuse_streamer(streamer: Any, texts: int) -> None:
    """Refuse to mix several texts in one stream."""
    if streamer is not None and texts > 1:
        raise ValueError(
            f"generate: streamer takes one text at a time and there are {texts}; call generate "
            "for each"
        )
