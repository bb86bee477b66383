"""Logits processors and stopping criteria for each row of a batch.

Texts of a batch start and end at different times, and some of the computed rows of logits are
rejected. Neither may change what a processor with state sees.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dis import get_instructions
from types import FunctionType, NoneType
from typing import Any

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MaxTimeCriteria,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    StopStringCriteria,
    generation,
)
from transformers.generation import EosTokenCriteria, MaxLengthCriteria

WARPERS = frozenset(
    {
        generation.TemperatureLogitsWarper,
        generation.TopKLogitsWarper,
        generation.TopPLogitsWarper,
        generation.TopHLogitsWarper,
        generation.MinPLogitsWarper,
        generation.TypicalLogitsWarper,
        generation.EpsilonLogitsWarper,
        generation.EtaLogitsWarper,
    }
)
"""Processors that depend only on the scores, so that they also apply to the draft's scores."""

STATELESS = WARPERS | {
    generation.EncoderNoRepeatNGramLogitsProcessor,
    generation.EncoderRepetitionPenaltyLogitsProcessor,
    generation.ExponentialDecayLengthPenalty,
    generation.ForcedBOSTokenLogitsProcessor,
    generation.ForcedEOSTokenLogitsProcessor,
    generation.InfNanRemoveLogitsProcessor,
    generation.LogitNormalization,
    generation.MinLengthLogitsProcessor,
    generation.MinNewTokensLengthLogitsProcessor,
    generation.NoBadWordsLogitsProcessor,
    generation.NoRepeatNGramLogitsProcessor,
    generation.RepetitionPenaltyLogitsProcessor,
    generation.SequenceBiasLogitsProcessor,
    generation.SuppressTokensAtBeginLogitsProcessor,
    generation.SuppressTokensLogitsProcessor,
    generation.WatermarkLogitsProcessor,
}
"""Processors that depend only on their arguments. Types must match: subclasses may have state."""

_STATELESS_CRITERIA = frozenset(
    {EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StopStringCriteria}
)

_END_REASONS: Sequence[tuple[type, str]] = (
    (EosTokenCriteria, "eos"),
    (StopStringCriteria, "stop_string"),
    (MaxTimeCriteria, "time"),
    (MaxLengthCriteria, "length"),
)


def warpers(processors: LogitsProcessorList) -> LogitsProcessorList:
    """The processors that are also applied to the draft's scores."""
    return LogitsProcessorList(p for p in processors if type(p) in WARPERS)


class WithoutPadding(LogitsProcessor):
    """Makes ids beyond the tokenizer, which pad a model's head, impossible.

    Args:
        tokens: number of ids that may be drawn.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.shape[1] <= self._tokens:
            return scores
        scores = scores.clone()
        scores[:, self._tokens :] = -torch.inf
        return scores


def without_padding(processors: LogitsProcessorList, tokens: int) -> LogitsProcessorList:
    """The processors, none of whose warpers keeps padding of the head.

    Those before the first warper see all logits, as in ``generate``: a user's may take their mean.
    """
    first = next((i for i, p in enumerate(processors) if type(p) in WARPERS), None)
    if first is None:
        return processors
    return LogitsProcessorList([*processors[:first], WithoutPadding(tokens), *processors[first:]])


def have_state(processors: LogitsProcessorList) -> bool:
    """Whether a processor may keep state between calls, as `guidance_scale` and users' own do."""
    stateless = STATELESS | {WithoutPadding}
    return not all(type(processor) in stateless for processor in processors)


def for_row(
    processors: LogitsProcessorList, criteria: StoppingCriteriaList, row: int, rows: int
) -> tuple[LogitsProcessorList, StoppingCriteriaList]:
    """Processors and criteria of a batch for one of its rows.

    The row gets its own part of values for the batch, and its own copy of state. Objects without
    state are shared. Processors and criteria are copied together, so that those that share an
    object share its copy.

    Args:
        processors: of the whole batch.
        criteria: of the whole batch.
        row: the index of the row.
        rows: the number of rows.

    Raises:
        ValueError: one of them cannot be copied.
    """
    memo: dict[int, Any] = {}
    return (
        LogitsProcessorList(_of_row(p, row, rows, memo, "logits processor") for p in processors),
        StoppingCriteriaList(_of_row(c, row, rows, memo, "stopping criterion") for c in criteria),
    )


def end_reason(criteria: StoppingCriteriaList) -> Callable[[torch.Tensor], str | None]:
    """A function that says why a text, ids ``[1, L]``, ends here, or None if it does not."""

    def reason(ids: torch.Tensor) -> str | None:
        # All criteria are called every time, as in `generate`: a criterion may count its calls.
        met = [criterion for criterion in criteria if _is_met(criterion, ids)]
        for kind, name in _END_REASONS:
            if any(isinstance(criterion, kind) for criterion in met):
                return name
        return "criterion" if met else None

    return reason


def criteria_device(criteria: StoppingCriteriaList, device: torch.device) -> torch.device:
    """The device on which the criteria get their ids.

    The criteria of transformers accept any device, and get ids on the CPU, where reading them does
    not synchronize. Users' own criteria get ids on the target's device, as in `generate`.
    """
    own = {type(criterion).__module__ for criterion in criteria} <= {StopStringCriteria.__module__}
    return torch.device("cpu") if own else device


def _is_met(criterion: Any, ids: torch.Tensor) -> bool:
    verdict = criterion(ids, None)
    if isinstance(verdict, torch.Tensor | np.ndarray):
        return bool(verdict.all())
    if not isinstance(verdict, int | np.bool_ | np.integer):
        raise TypeError(
            f"generate: stopping criterion {type(criterion).__name__} returned a "
            f"{type(verdict).__name__}; return a bool, or a bool tensor with a verdict for each row"
        )
    return bool(verdict)


def _of_row(step: Any, row: int, rows: int, memo: dict[int, Any], kind: str) -> Any:
    if type(step) in _ROW_OF_BATCH:
        return _ROW_OF_BATCH[type(step)](copy.copy(step), row, rows)
    if type(step) in STATELESS or type(step) in _STATELESS_CRITERIA:
        return step
    return _own_copy(step, memo, kind)


def _own_copy(step: Any, memo: dict[int, Any], kind: str) -> Any:
    """A copy with its own state; models and tokenizers are shared."""
    parts = [step, *getattr(step, "__dict__", {}).values()]
    for part in parts:
        if isinstance(part, FunctionType) and _closure_holds_state(part):
            raise ValueError(
                f"generate: {kind} {getattr(step, '__qualname__', type(step).__name__)} is or has "
                "a function with a closure, which may hold state, and each text needs state of its "
                "own; make it a class, or pass one text at a time"
            )
    memo |= {id(p): p for p in parts if isinstance(p, PreTrainedModel | PreTrainedTokenizerBase)}
    try:
        return copy.deepcopy(step, memo)
    except Exception as error:  # a user's class may raise anything
        raise ValueError(
            f"generate: {kind} {type(step).__name__} cannot be copied ({type(error).__name__}: "
            f"{error}), and each text needs a copy with state of its own; pass one at a time"
        ) from error


def _closure_holds_state(function: FunctionType) -> bool:
    """Whether a closure's variables may change from call to call."""
    written = {i.argval for i in get_instructions(function) if i.opname == "STORE_DEREF"}
    constants = (bool, int, float, str, bytes, type, torch.Tensor, PreTrainedModel, NoneType)
    return bool(written & set(function.__code__.co_freevars)) or not all(
        isinstance(cell.cell_contents, (*constants, PreTrainedTokenizerBase))
        for cell in function.__closure__ or ()
    )


def _part(values: Any, row: int, rows: int) -> Any:
    """A row's part of values for a batch; several rows may share a prompt."""
    index = row // (rows // len(values)) if len(values) < rows else row
    return values[index : index + 1]


def _repetition_penalty(step: Any, row: int, rows: int) -> Any:
    ignored = step.prompt_ignore_length
    if isinstance(ignored, torch.Tensor) and ignored.dim():
        step.prompt_ignore_length = _part(ignored, row, rows)
    return step


def _encoder_repetition_penalty(step: Any, row: int, rows: int) -> Any:
    step.encoder_input_ids = _part(step.encoder_input_ids, row, rows)
    return step


def _encoder_no_repeat_ngram(step: Any, row: int, rows: int) -> Any:
    step.generated_ngrams = _part(step.generated_ngrams, row, rows)
    step.batch_size = 1
    return step


def _prefix_constrained(step: Any, row: int, rows: int) -> Any:
    allowed = step._prefix_allowed_tokens_fn
    step._prefix_allowed_tokens_fn = lambda _, ids: allowed(row, ids)
    return step


def _guidance(step: Any, row: int, rows: int) -> Any:
    step.unconditional_context = {
        name: _part(value, row, rows) if isinstance(value, torch.Tensor) else value
        for name, value in step.unconditional_context.items()
    }
    return step


_ROW_OF_BATCH: dict[type, Callable[[Any, int, int], Any]] = {
    generation.EncoderNoRepeatNGramLogitsProcessor: _encoder_no_repeat_ngram,
    generation.EncoderRepetitionPenaltyLogitsProcessor: _encoder_repetition_penalty,
    generation.PrefixConstrainedLogitsProcessor: _prefix_constrained,
    generation.RepetitionPenaltyLogitsProcessor: _repetition_penalty,
    generation.UnbatchedClassifierFreeGuidanceLogitsProcessor: _guidance,
}
"""For each processor that holds values per row: how to reduce it to one row."""
