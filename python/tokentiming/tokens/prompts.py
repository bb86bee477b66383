"""The user's prompt, and its ids for each model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import index
from typing import Any

import numpy as np
import torch

from tokentiming.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One prompt: text, chat messages, or only the target's ids."""

    ids: list[int]
    """The target's prompt."""
    text: str | None = None
    messages: Sequence[Message] | None = None
    given: list[int] = field(default_factory=list)
    """The ids as they were given, padding included; empty if they equal ``ids``."""
    mask: list[int] | None = None
    """1 for each token, 0 for padding; None for a tensor, for which ``generate`` infers it."""

    @property
    def padded(self) -> list[int]:
        """The ids that `generate` would show to processors and return."""
        return self.given or self.ids

    def ids_for(self, tokenizer: Any, vocabulary: Vocabulary, target_tokenizer: Any) -> list[int]:
        """The same prompt in another model's ids, with its own chat template and special tokens.

        A tokenizer without a template gets the messages as plain paragraphs. If its template
        refuses them, it gets the text that the target's template made of them.

        Args:
            tokenizer: the other model's.
            vocabulary: of the same model.
            target_tokenizer: the target's.
        """
        text = self.text
        if self.messages is not None and tokenizer.chat_template:
            try:
                return _apply_template(tokenizer, self.messages)
            except Exception as error:  # templates raise errors of any class
                logger.warning(
                    "generate: the draft's chat template refuses the messages (%s: %s); the draft "
                    "reads the target's prompt as text",
                    type(error).__name__,
                    error,
                )
        elif self.messages is not None:
            text = "".join(f"{message.get('content') or ''}\n\n" for message in self.messages)
        if text is None:
            return _translate(self.ids, target_tokenizer, tokenizer, vocabulary)
        ids: list[int] = tokenizer.encode(text)
        return ids


def parse(prompt: Any, tokenizer: Any) -> list[Prompt]:
    """Read what ``generate`` was given: one prompt or a list of them.

    Args:
        prompt: text, a list of texts, chat messages (dicts with role and content), a list of such
            conversations, or ids: a list of ints, an integer tensor or NumPy array ``[L]`` or
            ``[B, L]``, or what a tokenizer returned (a mapping with ``input_ids``).
        tokenizer: the target's.

    Raises:
        TypeError: it is something else.
        ValueError: a prompt is empty, or there are messages but no chat template.
    """
    if isinstance(prompt, np.ndarray) and prompt.dtype.kind in "biuf":
        native = prompt.astype(np.int64) if prompt.dtype.kind in "iu" else np.array(prompt)
        return _from_tensor(torch.from_numpy(native))
    if isinstance(prompt, torch.Tensor):
        return _from_tensor(prompt)
    if isinstance(prompt, str):
        return [_from_text(prompt, tokenizer)]
    if isinstance(prompt, Mapping):
        return _from_encoding(prompt)
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray | memoryview):
        raise TypeError(
            f"generate: prompt is {_named(prompt)}; give text, a list of texts, chat messages or "
            "ids"
        )
    if not len(prompt):
        raise ValueError("generate: prompt is empty; give at least one token")
    if all(_is_id(part) for part in prompt):
        return [_unpadded([index(part) for part in prompt])]
    if all(isinstance(part, Mapping) and "input_ids" not in part for part in prompt):
        return [_from_messages(prompt, tokenizer)]
    if len(prompt) == 1:
        return _one_of_several(prompt[0], tokenizer)
    return [single for i, part in enumerate(prompt) for single in _part(part, i, tokenizer)]


def is_batch(prompt: Any) -> bool:
    """Whether the prompt is a batch, so that the result holds lists."""
    if isinstance(prompt, Mapping):
        return is_batch(prompt.get("input_ids"))
    if isinstance(prompt, torch.Tensor | np.ndarray):
        return prompt.ndim == 2
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return False
    messages = all(isinstance(part, Mapping) and "input_ids" not in part for part in prompt)
    return not (messages or all(_is_id(part) for part in prompt))


def _one_of_several(part: Any, tokenizer: Any) -> list[Prompt]:
    if is_batch(part):
        raise TypeError(
            f"generate: prompt holds {_named(part)} that holds prompts itself; give one list of "
            "prompts"
        )
    return parse(part, tokenizer)


def _part(part: Any, place: int, tokenizer: Any) -> list[Prompt]:
    """Read one prompt of a list; an error names its place."""
    try:
        return _one_of_several(part, tokenizer)
    except (TypeError, ValueError) as error:
        if not str(error).startswith("generate: prompt"):
            raise
        raise type(error)(f"{error} (prompt {place} of the list)") from None


def _is_id(part: Any) -> bool:
    if isinstance(part, torch.Tensor | np.ndarray):
        integral = part.ndim == 0 and part.dtype not in (torch.bool, np.bool_)
        return integral and not _is_fractional(part)
    return hasattr(part, "__index__") and not isinstance(part, bool | np.bool_)


def _is_fractional(values: Any) -> bool:
    if isinstance(values, torch.Tensor):
        return values.is_floating_point() or values.is_complex()
    return not np.issubdtype(values.dtype, np.integer)


def _from_tensor(prompt: torch.Tensor) -> list[Prompt]:
    if _is_fractional(prompt) or prompt.dtype == torch.bool or prompt.ndim not in (1, 2):
        raise TypeError(
            f"generate: prompt is a {prompt.dtype} tensor of shape {list(prompt.shape)}; "
            "ids are an integer tensor [L] or [B, L]"
        )
    rows = prompt[None] if prompt.ndim == 1 else prompt
    if not rows.shape[0]:
        raise ValueError("generate: prompt is empty; give at least one row")
    return [_checked(Prompt(row)) for row in rows.tolist()]


def _from_encoding(encoding: Mapping[str, Any]) -> list[Prompt]:
    """Read what a tokenizer returns; padding is removed by its mask."""
    if "input_ids" not in encoding:
        raise TypeError(
            f"generate: prompt is a mapping with {', '.join(map(str, encoding)) or 'no keys'}; "
            "give chat messages as a list, or what a tokenizer returns, with input_ids"
        )
    unused = set(encoding) - {"input_ids", "attention_mask", "token_type_ids"}
    if unused:
        raise ValueError(
            f"generate: prompt holds {', '.join(sorted(unused))}, which the decoder does not use; "
            "it reads input_ids and attention_mask"
        )
    kinds = encoding.get("token_type_ids")
    if kinds is not None and np.any(np.asarray(kinds)):
        raise ValueError("generate: prompt holds token_type_ids, which the decoder does not use")
    ids = _rows(encoding["input_ids"], index)
    masks = [[1] * len(row) for row in ids]
    if encoding.get("attention_mask") is not None:
        masks = _rows(encoding["attention_mask"], lambda kept: int(bool(kept)))
    if [len(row) for row in ids] != [len(row) for row in masks]:
        raise ValueError("generate: prompt has input_ids and attention_mask of different shapes")
    return [
        _checked(Prompt([i for i, kept in zip(row, m, strict=True) if kept], given=row, mask=m))
        for row, m in zip(ids, masks, strict=True)
    ]


def _rows(values: Any, convert: Callable[[Any], int]) -> list[list[int]]:
    if isinstance(values, torch.Tensor | np.ndarray):
        values = values.tolist()
    if not isinstance(values, Sequence) or not len(values):
        raise TypeError(f"generate: prompt holds {_named(values)} as input_ids; give rows of ids")
    batch = all(isinstance(value, Sequence) for value in values)
    try:
        return [[convert(value) for value in row] for row in (values if batch else [values])]
    except TypeError as error:
        raise TypeError(
            f"generate: prompt holds input_ids that are not integers: {error}"
        ) from error


def _from_text(text: str, tokenizer: Any) -> Prompt:
    if not text:
        raise ValueError("generate: prompt is empty; give at least one character")
    return _unpadded(tokenizer.encode(text), text=text)


def _from_messages(messages: Sequence[Message], tokenizer: Any) -> Prompt:
    if not tokenizer.chat_template:
        raise ValueError(
            "generate: prompt holds chat messages and the target's tokenizer has no chat template; "
            "give text, or set tokenizer.chat_template"
        )
    return _unpadded(_apply_template(tokenizer, messages), messages=messages)


def _apply_template(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_dict=False
    )
    return ids


def _translate(
    ids: Sequence[int], source: Any, tokenizer: Any, vocabulary: Vocabulary
) -> list[int]:
    """Convert ids of one tokenizer to another; special tokens match by equal text or by role.

    The other tokenizer encodes the text, so that its own special tokens come first, as in any
    text. Special tokens of the source without a counterpart are left out.
    """
    special = _special_ids(source)
    roles = {
        getattr(source, f"{role}_token_id"): getattr(tokenizer, f"{role}_token_id")
        for role in ("bos", "eos", "sep", "cls")
    }
    by_text = {content: i for i, content in _special_ids(tokenizer).items()}
    added: list[int] = tokenizer.encode("")
    result = added[:1] if added[:1] == [tokenizer.bos_token_id] else []
    for is_special, run in groupby(ids, key=special.__contains__):
        if is_special:
            mapped = (by_text.get(special[i], roles.get(i)) for i in run)
            result += [i for i in mapped if i is not None and result != [i]]
            continue
        text = source.decode(list(run), clean_up_tokenization_spaces=False)
        # At the start the tokenizer may put a space before the first word; not after that.
        whole = result == added[: len(result)] and len(result) < 2
        result = tokenizer.encode(text) if whole else result + vocabulary.encode(text.encode())
    return result


def _special_ids(tokenizer: Any) -> dict[int, str]:
    """The special tokens of a tokenizer, and their texts."""
    marked = {
        i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return marked | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _named(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _unpadded(ids: list[int], **source: Any) -> Prompt:
    return _checked(Prompt(ids, mask=[1] * len(ids), **source))


def _checked(prompt: Prompt) -> Prompt:
    if not prompt.ids:
        raise ValueError("generate: prompt is empty; give at least one token")
    if not -(2**63) <= min(prompt.ids) <= max(prompt.ids) < 2**63:
        raise ValueError("generate: prompt holds an id beyond 64 bits; give ids of the target")
    return prompt
