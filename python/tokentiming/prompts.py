"""What the user asks for, in a form from which each model makes its own prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One prompt: text, chat messages, or only the target's ids."""

    ids: list[int]
    """The target's prompt."""
    text: str | None = None
    messages: Sequence[Message] | None = field(default=None)

    def ids_for(self, tokenizer: Any, target_tokenizer: Any) -> list[int]:
        """The same prompt in another model's ids, with its own chat template and special tokens.

        A tokenizer without a template gets the messages as plain paragraphs.
        """
        if self.messages is not None and tokenizer.chat_template:
            return _apply_template(tokenizer, self.messages)
        if self.messages is not None:
            text = "\n\n".join(str(message["content"]) for message in self.messages) + "\n\n"
        elif self.text is not None:
            text = self.text
        else:
            text = target_tokenizer.decode(
                self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        ids: list[int] = tokenizer.encode(text)
        return ids


def parse(prompt: Any, tokenizer: Any) -> list[Prompt]:
    """Read what ``generate`` was given: one prompt or a list of them.

    Args:
        prompt: text, a list of texts, chat messages (dicts with role and content), a list of such
            conversations, or ids: a list of ints, or an integer tensor ``[L]`` or ``[B, L]``.
        tokenizer: the target's.

    Raises:
        TypeError: it is none of these.
        ValueError: a prompt is empty, or there are messages but no chat template.
    """
    if isinstance(prompt, torch.Tensor):
        if prompt.is_floating_point() or prompt.dim() not in (1, 2):
            raise TypeError(
                f"generate: prompt is a {prompt.dtype} tensor of shape {list(prompt.shape)}; "
                "ids are an integer tensor [L] or [B, L]"
            )
        rows = prompt[None] if prompt.dim() == 1 else prompt
        return [_checked(Prompt(row)) for row in rows.tolist()]
    if isinstance(prompt, str):
        return [_from_text(prompt, tokenizer)]
    if isinstance(prompt, Sequence) and prompt:
        if all(isinstance(part, int) for part in prompt):
            return [_checked(Prompt(list(prompt)))]
        if all(isinstance(part, str) for part in prompt):
            return [_from_text(part, tokenizer) for part in prompt]
        if all(isinstance(part, Mapping) for part in prompt):
            return [_from_messages(prompt, tokenizer)]
        if all(isinstance(part, Sequence) and part for part in prompt):
            return [single for part in prompt for single in parse(part, tokenizer)]
    if isinstance(prompt, Sequence):
        raise ValueError("generate: prompt is empty; give at least one token")
    raise TypeError(
        f"generate: prompt is a {type(prompt).__name__}; give text, a list of texts, chat messages "
        "or ids"
    )


def _from_text(text: str, tokenizer: Any) -> Prompt:
    if not text:
        raise ValueError("generate: prompt is empty; give at least one character")
    return _checked(Prompt(tokenizer.encode(text), text=text))


def _from_messages(messages: Sequence[Message], tokenizer: Any) -> Prompt:
    if not tokenizer.chat_template:
        raise ValueError(
            "generate: prompt holds chat messages and the target's tokenizer has no chat template; "
            "give text, or set tokenizer.chat_template"
        )
    return _checked(Prompt(_apply_template(tokenizer, messages), messages=messages))


def _apply_template(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_dict=False
    )
    return ids


def _checked(prompt: Prompt) -> Prompt:
    if not prompt.ids:
        raise ValueError("generate: prompt is empty; give at least one token")
    return prompt
