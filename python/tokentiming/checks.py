"""What cannot be honoured is refused here, before any model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, StoppingCriteriaList, StopStringCriteria
from transformers.generation import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationMode,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from tokentiming import ops

_WARPERS = (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TopHLogitsWarper,
    MinPLogitsWarper,
    TypicalLogitsWarper,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
)

_NOT_HONOURED = {
    "assistant_model": "the drafter is given to SpeculativeDecoder",
    "assistant_tokenizer": "the drafter is given to SpeculativeDecoder",
    "custom_generate": "SpeculativeDecoder.generate is one itself",
    "input_ids": "ids are given as the prompt",
    "inputs": "ids are given as the prompt",
    "inputs_embeds": "proposals are ids; give the prompt as ids or text",
    "attention_mask": "give each prompt without padding, several as a list",
    "max_length": "say how many new tokens with max_new_tokens",
    "past_key_values": "the decoder keeps its own cache; give the whole prompt",
    "output_scores": "rejected rows have no place in it; score out.sequences with the target",
    "output_logits": "rejected rows have no place in it; score out.sequences with the target",
    "output_attentions": "run the target over out.sequences instead",
    "output_hidden_states": "run the target over out.sequences instead",
}


def model(candidate: Any) -> None:
    """Refuse what is not a causal language model ready for inference."""
    if not isinstance(candidate, PreTrainedModel) or not candidate.can_generate():
        raise TypeError(
            f"SpeculativeDecoder: model is a {type(candidate).__name__}; pass a causal language "
            "model of transformers (AutoModelForCausalLM)"
        )
    if candidate.training:
        raise ValueError(
            f"SpeculativeDecoder: {type(candidate).__name__} is in training mode, where dropout "
            "changes its output; call model.eval() first"
        )
    device(candidate, "SpeculativeDecoder")


def device(candidate: PreTrainedModel, caller: str) -> None:
    """Refuse a model whose scores the core could not read."""
    name, place = type(candidate).__name__, candidate.device
    if place.type not in ("cpu", "cuda"):
        raise ValueError(
            f"{caller}: {name} is on {place}; the core reads CPU memory and CUDA devices: move the "
            "model with .to('cpu')"
        )
    if place.type == "cuda" and not ops.has_cuda():
        raise ValueError(
            f"{caller}: {name} is on {place} and tokentiming was built without CUDA; install it "
            "where nvcc is found, or move the model with .to('cpu')"
        )


def generate_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of transformers' ``generate`` that have no meaning here."""
    for name, way_out in _NOT_HONOURED.items():
        if arguments.get(name) is not None and arguments[name] is not False:
            raise ValueError(f"generate: {name} cannot be honoured: {way_out}")


def generation_mode(config: Any) -> None:
    """Refuse all but greedy decoding and sampling."""
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(
            f"generate: {mode.value.replace('_', ' ')} cannot be speculated on; set num_beams=1 "
            "and leave out what asks for it"
        )


def prompt_device(prompt: Any, target: PreTrainedModel) -> None:
    """Refuse ids on another device than the target's."""
    if isinstance(prompt, torch.Tensor) and prompt.device != target.device:
        raise ValueError(
            f"generate: prompt is on {prompt.device} and the target on {target.device}; "
            f"pass prompt.to('{target.device}')"
        )


def single_for_streamer(streamer: Any, prompts: int) -> None:
    """Refuse to mix several texts in one stream."""
    if streamer is not None and prompts > 1:
        raise ValueError(
            f"generate: streamer takes one prompt at a time and there are {prompts}; call generate "
            "for each"
        )


def seed(value: int) -> int:
    """Refuse a seed that does not fit the noise's key."""
    if not 0 <= value < 2**63:
        raise ValueError(f"generate: seed is {value}; give 0 to 2**63 - 1")
    return value


def lengths(ids: Sequence[int], room: int, target: PreTrainedModel) -> None:
    """Refuse ids out of range, no room for new tokens, and more than the context holds."""
    if not ids:
        raise ValueError("generate: prompt is empty; give at least one token")
    size = target.get_input_embeddings().weight.shape[0]
    if min(ids) < 0 or max(ids) >= size:
        wrong = next(i for i in ids if not 0 <= i < size)
        raise ValueError(f"generate: prompt holds id {wrong}, outside the target's 0..{size - 1}")
    if room < 1:
        raise ValueError(f"generate: max_new_tokens leaves room for {room}; give at least 1")
    limit = getattr(target.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and len(ids) + room > limit:
        raise ValueError(
            f"generate: {len(ids)} prompt tokens and {room} new ones exceed the target's context "
            f"of {limit}; shorten the prompt or lower max_new_tokens"
        )


def criteria_device(criteria: StoppingCriteriaList, target: PreTrainedModel) -> torch.device:
    """Where criteria take their ids: transformers' own anywhere, others where ``generate`` would.

    Ids on the CPU need not be waited for.
    """
    own = {type(criterion).__module__ for criterion in criteria} <= {StopStringCriteria.__module__}
    return torch.device("cpu") if own else target.device


def is_warper(processor: Any) -> bool:
    """Whether a processor shapes a distribution by its values alone, whatever its vocabulary."""
    return isinstance(processor, _WARPERS)
