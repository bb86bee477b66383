"""Checks of models and drafters, made when a decoder is constructed."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from tokentiming import ops
from tokentiming.runners.cache import ForestCache
from tokentiming.scalars import refuse_class, type_of


def target(candidate: Any) -> None:
    """Refuse anything but a causal language model in eval mode."""
    causal_model(candidate, "SpeculativeDecoder")
    evaluating(candidate)


def evaluating(candidate: PreTrainedModel) -> None:
    """Refuse a target in training mode, whose dropout changes its output."""
    if candidate.training:
        raise ValueError(
            f"SpeculativeDecoder: {type(candidate).__name__} is in training mode, where dropout "
            "changes its output; call model.eval() first"
        )


def causal_model(candidate: Any, caller: str) -> None:
    """Refuse anything but a causal language model on a supported device."""
    if not isinstance(candidate, PreTrainedModel) or not candidate.can_generate():
        raise TypeError(
            f"{caller}: model is {type_of(candidate)}; pass a causal language "
            "model of transformers (AutoModelForCausalLM)"
        )
    device(candidate, caller)


def device(candidate: PreTrainedModel, caller: str) -> None:
    """Refuse a model on a device whose memory the core cannot read."""
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


def rolls_back(model: PreTrainedModel, caller: str) -> None:
    """Refuse a model whose state cannot be rolled back to an earlier token."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{caller}: {name} is an encoder-decoder; pass a decoder-only language model"
        )
    cache = DynamicCache(config=model.config)
    if getattr(model, "_is_stateful", False) or not cache.is_croppable:
        raise ValueError(
            f"{caller}: {name} keeps a recurrent state, which cannot be rolled back "
            "after a rejected token; pass a model with attention layers only"
        )
    if not ForestCache.holds(model.config):
        raise ValueError(
            f"{caller}: {name} remembers more of a token than its keys and values, and the cache "
            "for several texts holds only these; pass a model with ordinary attention layers"
        )


def runner(candidate: Any, caller: str) -> None:
    """Refuse anything but a runner, or None."""
    refuse_class(candidate, "runner", caller=caller)
    members = ("device", "max_length", "forwards", "supports_forests")
    calls = ("read", "extend", "drop", "reset")
    missing = [name for name in members if not hasattr(candidate, name)]
    missing += [name for name in calls if not callable(getattr(candidate, name, None))]
    if candidate is None:
        return
    if missing:
        raise TypeError(
            f"{caller}: runner is {type_of(candidate)} and has no {', '.join(missing)}; "
            "pass runners.TorchRunner(model), or an object with all members of runners.ModelRunner"
        )


def drafters(given: Any) -> None:
    """Refuse anything but a drafter, a list of different drafters, or None."""
    listed = isinstance(given, list)
    for candidate in given if listed else [] if given is None else [given]:
        _drafter(candidate)
    if listed and len({id(candidate) for candidate in given}) < len(given):
        raise ValueError("SpeculativeDecoder: drafter holds the same object twice; list it once")


def _drafter(candidate: Any) -> None:
    refuse_class(candidate, "drafter", caller="SpeculativeDecoder")
    if callable(getattr(candidate, "propose", None)):
        members = ("vocabulary", "forwards", "begin", "drop", "reset")
        missing = [name for name in members if not hasattr(candidate, name)]
        if not missing:
            return
        raise TypeError(
            f"SpeculativeDecoder: drafter {type(candidate).__name__} has no {', '.join(missing)}; "
            "give it all members of tokentiming.Drafter"
        )
    if isinstance(candidate, PreTrainedModel):
        way_out = "pass ModelDrafter(model, tokenizer)"
    else:
        way_out = "pass ModelDrafter(model, tokenizer), an object with its methods, or None"
    raise TypeError(f"SpeculativeDecoder: drafter is {type_of(candidate)}; {way_out}")


def prompt_device(prompt: Any, model: PreTrainedModel) -> None:
    """Refuse ids on another device than the target's."""
    if isinstance(prompt, torch.Tensor) and prompt.device != model.device:
        raise ValueError(
            f"generate: prompt is on {prompt.device} and the target on {model.device}; "
            f"pass prompt.to('{model.device}')"
        )
