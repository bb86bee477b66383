"""Checks that a model gives the same logits as in ``generate`` when it reads a text in pieces."""

from __future__ import annotations

import logging
import math
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from tokentiming.runners.base import ModelRunner
from tokentiming.tokens.tree import TEXT, Tree

logger = logging.getLogger(__name__)

_PROMPT = 6
_NEW = 3
_TOLERANCE, _ROUNDED = 1e-4, 0.1
"""Largest difference of logits in units of their spread: in float32, and where weights or
activations have fewer bits. Wrong positions or an unused cache cause far larger differences."""

_KEPT = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}

_quiet = Lock()
"""Held while transformers' verbosity, which all threads share, is changed."""

_found: WeakKeyDictionary[PreTrainedModel, dict[type, bool | None]] = WeakKeyDictionary()
"""For each model the types of this package's runners that give its logits, and whether they do so
for several texts and in trees with branches as well; None if that was not tried."""


def require_same_logits(model: PreTrainedModel, runner: ModelRunner, caller: str) -> None:
    """Refuse a model that gives other logits here than in ``generate``.

    The runner reads a short text piece by piece and rolls wrong tokens back, as the rounds of
    speculative decoding do. Models that count positions from a padding id, or that use no cache,
    then give other logits. A model that gives other logits only for several texts, or for a tree
    with branches, is not refused. ``runner.supports_forests`` becomes False instead.

    Args:
        model: borrowed. Each is checked once with a type of runner of this package. A runner of the
            user's own, or of another object than this model, is always checked.
        runner: of the model; empty afterwards.
        caller: the name with which the error begins.

    Raises:
        ValueError: the logits differ, or the model cannot be read in pieces at all.
    """
    too_short = runner.max_length is not None and runner.max_length < _PROMPT + _NEW
    if too_short:
        return
    kind = type(runner)
    own = kind.__module__.startswith(f"{__package__}.") and getattr(runner, "model", 0) is model
    found = _found.setdefault(model, {}) if own else {}
    if kind not in found or (runner.supports_forests and found[kind] is None):
        found[kind] = _check(model, runner, caller)
    runner.supports_forests = runner.supports_forests and found[kind] is True


def _check(model: PreTrainedModel, runner: ModelRunner, caller: str) -> bool | None:
    """Refuse other logits; returns whether those of several texts and in trees are the same too.

    The answer is None if the runner does not support them.
    """
    name = type(model).__name__
    tolerance = _ROUNDED if _is_rounded(model) else _TOLERANCE
    forests = None
    try:
        prompt, wrong = _tokens(model)
        text, expected = _generated(model, prompt)
        if runner.supports_forests:  # first: without it a runner may read the chain in another way
            gap = _forest_gap(runner, text, wrong, expected)
            runner.reset()
            # Single rows differ more than the median of all rows; in bfloat16 a chain's do too.
            chain = _greatest_gap(_read_in_pieces(runner, text, wrong), expected)
            runner.supports_forests = forests = gap <= max(tolerance, 2 * chain)
            if not forests:
                logger.warning(
                    "%s: %s gives other logits in a tree or beside another text than alone, and "
                    "reads one text and a chain at a time, which is slower", caller, name,
                )  # fmt: skip
            runner.reset()
        gap = _distance(_read_in_pieces(runner, text, wrong).to(expected.device), expected)
    except Exception as error:  # an architecture may fail in any way
        raise ValueError(
            f"{caller}: {name} cannot be read piece by piece ({type(error).__name__}: {error}); "
            "pass a causal language model with attention layers and a cache"
        ) from error
    finally:
        runner.reset()
    if gap > tolerance:
        raise ValueError(
            f"{caller}: {name} gives other logits when a text is read piece by piece than in "
            f"generate (they differ by {gap:.1%} of their spread): its positions or its cache do "
            "not allow speculative decoding; call model.generate, or pass another model"
        )
    return forests


def _read_in_pieces(runner: ModelRunner, text: list[int], wrong: list[int]) -> torch.Tensor:
    """Logits ``[_NEW, V]`` of the text's last tokens."""
    runner.read([text[:2]], [Tree()])
    runner.read([text[:4]], [Tree.chain(wrong)])
    runner.read([text[:_PROMPT]], [Tree.chain([*text[_PROMPT:-1], wrong[0]])])
    return runner.read([text[:_PROMPT]], [Tree.chain(text[_PROMPT:])])[0]


def _forest_gap(
    runner: ModelRunner, text: list[int], wrong: list[int], expected: torch.Tensor
) -> float:
    """Largest difference of logits in a tree with branches, in a second text, and after a path."""
    right, last = text[_PROMPT:]
    tree = Tree([wrong[0], right, wrong[1], last], [TEXT, TEXT, 0, 1])
    try:
        texts, trees = [text[:_PROMPT], text[: _PROMPT + 1]], [tree, Tree.chain([last])]
        branched, beside = runner.read(texts, trees)
        found = [branched[[0, 2, 4]], beside, *runner.read([text, text], [Tree(), Tree()])]
    except Exception:  # an architecture may fail in any way
        return math.inf
    return _greatest_gap(torch.cat(found), expected[[0, 1, 2, 1, 2, 2, 2]])


def _greatest_gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance of a row, since a single row may be wrong."""
    pairs = zip(found.to(expected.device), expected, strict=True)
    return max(_distance(row[None], own[None]) for row, own in pairs)


def _tokens(model: PreTrainedModel) -> tuple[list[int], list[int]]:
    """A prompt, and two wrong tokens: ids spread over the vocabulary, none of them special."""
    config = model.generation_config
    special = {
        config.pad_token_id,
        config.bos_token_id,
        getattr(model.config.get_text_config(), "pad_token_id", None),
    }
    special |= set(eos if isinstance(eos := config.eos_token_id, list) else [eos])
    size = model.get_input_embeddings().weight.shape[0]
    ids = [i for i in range(size) if i not in special] or list(range(size))
    spread = [ids[(7 * k + 3) * len(ids) // 64 % len(ids)] for k in range(_PROMPT + 2)]
    return spread[:_PROMPT], spread[_PROMPT:]


@torch.no_grad()
def _generated(model: PreTrainedModel, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
    """The text that ``generate`` writes, without its last token, and the logits ``[_NEW, V]``."""
    ids = torch.tensor([prompt], device=model.device)
    # All settings of the model's own config are reset, except for the special ids.
    own = {name: None for name in model.generation_config.to_diff_dict() if name not in _KEPT}
    plain = {
        "max_new_tokens": _NEW,
        "min_new_tokens": _NEW,
        "do_sample": False,
        "num_beams": 1,
        "num_return_sequences": 1,
        "use_cache": True,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    with _quiet:
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # the warnings are about settings that are reset
        try:
            out: Any = model.generate(ids, attention_mask=torch.ones_like(ids), **own | plain)
        finally:
            transformers_logging.set_verbosity(verbosity)
    return out.sequences[0, :-1].tolist(), torch.cat(out.logits)


def _is_rounded(model: PreTrainedModel) -> bool:
    """Whether the model may compute with fewer bits than float32 has."""
    if model.device.type != "cpu":  # float32 matrices may be multiplied in TF32
        return True
    weights = any(p.dtype not in (torch.float32, torch.float64) for p in model.parameters())
    return weights or any("quant" in type(part).__module__ for part in model.modules())


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Median difference of the logits, in units of the distance between their quartiles.

    Entries equal to the minimum are left out: a model may mask part of its head with a number.
    """
    columns = min(found.shape[-1], expected.shape[-1])
    found, expected = found[:, :columns].double(), expected[:, :columns].double()
    finite = expected.isfinite()
    if not torch.equal(found.isfinite(), finite):
        return math.inf
    kept = finite & (expected > expected[finite].min()) if finite.any() else finite
    if not kept.any():
        return 0.0
    quarters = torch.tensor([0.25, 0.75], dtype=torch.float64, device=expected.device)
    low, high = expected[kept].quantile(quarters)
    difference = (found - expected)[kept].abs().median()
    return float(difference / (high - low)) if high > low else 0.0
