"""The tokenizer and the vocabulary of a GGUF file, read by llama.cpp."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokentiming.scalars import type_of
from tokentiming.tokens.vocabulary import Vocabulary

_LOGGER = logging.getLogger("llama-cpp-python")


def library(caller: str) -> Any:
    """The low-level functions of llama-cpp-python.

    Raises:
        ImportError: the extra ``tokentiming[llama-cpp]`` is not installed.
    """
    try:
        return import_module("llama_cpp.llama_cpp")
    except ImportError as error:
        raise ImportError(
            f"{caller}: reading a GGUF file by llama.cpp needs llama-cpp-python ({error}); install "
            'the extra: pip install "tokentiming[llama-cpp]"'
        ) from error


class LlamaCppModel:
    """A model that llama.cpp loaded from a GGUF file, freed with the last reference to it.

    Args:
        path: of the file.
        gpu_layers: number of layers on a GPU.
        caller: the function that messages begin with.

    Attributes:
        library: the low-level functions of llama-cpp-python.
        pointer: llama.cpp's own, to the model.

    Raises:
        TypeError: ``path`` is not a string or a path.
        ValueError: there is no such file, or llama.cpp cannot load it.
        ImportError: the extra ``tokentiming[llama-cpp]`` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, gpu_layers: int, caller: str) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"{caller}: path is {type_of(path)}; give the path of a GGUF file")
        self.path = Path(path).expanduser()
        self.library = library(caller)
        if not self.path.is_file():
            raise ValueError(f"{caller}: no file '{self.path}'; give the path of a GGUF file")
        if _LOGGER.level == logging.NOTSET:  # llama.cpp's messages fill a screen
            _LOGGER.setLevel(logging.CRITICAL)
        self.library.llama_backend_init()
        parameters = self.library.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        # Some vocabularies add a space before what they encode, which may be the middle of a text.
        overrides = (self.library.llama_model_kv_override * 2)()  # the second one ends the list
        overrides[0].tag = self.library.LLAMA_KV_OVERRIDE_TYPE_BOOL
        overrides[0].key = b"tokenizer.ggml.add_space_prefix"
        overrides[0].value.val_bool = False
        parameters.kv_overrides = overrides
        self.pointer = self.library.llama_model_load_from_file(os.fsencode(self.path), parameters)
        if not self.pointer:
            raise ValueError(
                f"{caller}: llama.cpp cannot load '{self.path}'; give a complete GGUF file of an "
                "architecture that the installed llama-cpp-python supports; "
                f"logging.getLogger('{_LOGGER.name}').setLevel('DEBUG') shows the reason"
            )
        self._again = partial(type(self), gpu_layers=gpu_layers, caller=caller)
        weakref.finalize(self, self.library.llama_model_free, self.pointer)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by loading the file."""
        return self._again, (self.path,)


class LlamaCppTokenizer:
    """The tokenizer of a GGUF file, with the members of a transformers tokenizer that prompts need.

    Args:
        model: of the file.

    Attributes:
        special: the text of each special token, by id.
        eos_ids: ids that end a turn; the first one is the one that the file names.
        bos_token_id: and the others of a role; None if the vocabulary has no such token.
        chat_template: in Jinja, or None.
    """

    def __init__(self, model: LlamaCppModel) -> None:
        library = self._library = model.library
        self._model = model
        self._vocabulary = library.llama_model_get_vocab(model.pointer)
        self._size: int = library.llama_vocab_n_tokens(self._vocabulary)
        flags = [library.llama_vocab_get_attr(self._vocabulary, i) for i in range(self._size)]
        eos, eot = library.llama_vocab_eos, library.llama_vocab_eot
        named = [i for i in (eos(self._vocabulary), eot(self._vocabulary)) if i >= 0]
        ending = filter(
            lambda i: library.llama_vocab_is_eog(self._vocabulary, i), range(self._size)
        )
        self.eos_ids: list[int] = list(dict.fromkeys([*named, *ending]))
        without_text = (
            library.LLAMA_TOKEN_ATTR_CONTROL
            | library.LLAMA_TOKEN_ATTR_UNKNOWN
            | library.LLAMA_TOKEN_ATTR_UNUSED
        )
        special = {i for i, flag in enumerate(flags) if flag & without_text} | set(self.eos_ids)
        self.special = {i: self._text(i) for i in sorted(special)}
        self._bytes = {i for i, flag in enumerate(flags) if flag & library.LLAMA_TOKEN_ATTR_BYTE}
        self.bos_token_id = self._role(library.llama_vocab_bos)
        self.eos_token_id = self._role(eos)
        self.sep_token_id = self._role(library.llama_vocab_sep)
        self.cls_token_id = self.bos_token_id  # llama.cpp has one for both roles
        template = library.llama_model_chat_template(model.pointer, None)
        self.chat_template = None if template is None else template.decode()
        self._begins_with_space = (
            self._metadata("tokenizer.ggml.model") == "llama"
            and self._metadata("tokenizer.ggml.add_space_prefix") != "false"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by reading the model's."""
        return type(self), (self._model,)

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Special tokens by id, as transformers describes them."""
        return {i: SimpleNamespace(content=s, special=True) for i, s in self.special.items()}

    @property
    def all_special_ids(self) -> list[int]:
        return list(self.special)

    @property
    def all_special_tokens(self) -> list[str]:
        return list(self.special.values())

    def encode(self, text: str) -> list[int]:
        """Ids of a whole text, which may name special tokens, with those that the model adds."""
        space = " " if text and self._begins_with_space else ""
        return self._encoded(space + text, add_special=True, parse_special=True)

    def encode_middle(self, text: str) -> list[int]:
        """Ids of the middle of a text, without special tokens."""
        return self._encoded(text, add_special=False, parse_special=False)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        return_dict: bool,
    ) -> list[int]:
        """Ids of chat messages in the file's own template."""
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered, _ = render_jinja_template(
            [list(messages)],
            chat_template=self.chat_template,
            add_generation_prompt=add_generation_prompt,
            bos_token=self._written(self.bos_token_id),
            eos_token=self._written(self.eos_token_id),
        )
        return self._encoded(rendered[0], add_special=False, parse_special=True)

    def vocabulary(self) -> Vocabulary:
        """The bytes of all tokens, as llama.cpp writes them."""
        table = [b"" if i in self.special else self._piece(i) for i in range(self._size)]
        byte_ids: list[int | None] = [None] * 256
        for token, data in enumerate(table):
            if len(data) == 1 and (token in self._bytes or byte_ids[data[0]] is None):
                byte_ids[data[0]] = token
        encoder: Any = _Encoder(self)
        return Vocabulary(
            table,
            encoder=encoder,
            eos_ids=self.eos_ids,
            special_ids=[i for i, data in enumerate(table) if not data],
            byte_ids=byte_ids,
        )

    def description(self) -> str:
        """What determines how texts are encoded."""
        keys = ("model", "pre", "add_space_prefix", "remove_extra_whitespaces")
        values = [self._metadata(f"tokenizer.ggml.{key}") for key in keys]
        return json.dumps([values, [self._text(i) for i in range(self._size)]])

    def _encoded(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode(errors="replace")
        capacity = len(data) + 8
        while True:
            ids = (self._library.llama_token * capacity)()
            count: int = self._library.llama_tokenize(
                self._vocabulary, data, len(data), ids, capacity, add_special, parse_special
            )
            if count >= 0:
                return list(ids[:count])
            capacity = -count

    def _piece(self, token: int) -> bytes:
        capacity = 64
        while True:
            data = ctypes.create_string_buffer(capacity)
            count: int = self._library.llama_token_to_piece(
                self._vocabulary, token, data, capacity, 0, False
            )
            if count >= 0:
                return data.raw[:count]
            capacity = -count

    def _text(self, token: int) -> str:
        text: bytes = self._library.llama_vocab_get_text(self._vocabulary, token)
        return text.decode(errors="replace")

    def _written(self, token: int | None) -> str:
        return "" if token is None else self._text(token)

    def _role(self, find: Any) -> int | None:
        token: int = find(self._vocabulary)
        return token if token >= 0 else None

    def _metadata(self, key: str) -> str | None:
        value = ctypes.create_string_buffer(256)
        found = self._library.llama_model_meta_val_str(
            self._model.pointer, key.encode(), value, 256
        )
        return value.value.decode(errors="replace") if found >= 0 else None


class _Encoder:
    """The part of ``tokenizers.Tokenizer`` that a ``Vocabulary`` uses."""

    def __init__(self, tokenizer: LlamaCppTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(ids=self._tokenizer.encode_middle(text))

    def encode_batch_fast(
        self, texts: Sequence[str], *, add_special_tokens: bool
    ) -> list[SimpleNamespace]:
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    def to_str(self) -> str:
        return self._tokenizer.description()
