"""The target's tokens for each token of the draft, by which distributions are transferred."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tokentiming import ops
from tokentiming.cache_folder import cache_folder
from tokentiming.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

NONE = -1
"""Stands for a missing target token."""

_LAYOUT = 1  # version of the cached file; increase it when its content changes
_WORTH_A_FILE = 4096  # draft tokens; a smaller map is built as quickly as it is read


_maps: WeakKeyDictionary[Vocabulary, WeakKeyDictionary[Vocabulary, VocabularyMap]] = (
    WeakKeyDictionary()
)
"""Maps of this process by draft and target, for as long as both vocabularies live."""


@dataclass(frozen=True)
class VocabularyMap:
    """The draft's vocabulary in the target's tokens, of D draft tokens.

    An end-of-turn id maps to the target's end of turn. No other special token maps to a token, and
    no token maps to another special token. Between equal vocabularies each token maps to itself.
    """

    exact: torch.Tensor
    """int32 ``[D]``: the target token with the same bytes, or -1."""
    first: torch.Tensor
    """int32 ``[D]``: first target token of the expansion, or -1 where there is none."""
    expansion_offsets: torch.Tensor
    """int64 ``[D + 1]``: token ``d`` expands to ``expansion_ids[offsets[d]:offsets[d + 1]]``."""
    expansion_ids: torch.Tensor
    """int32 ``[E]``: the encodings of each draft token's bytes, concatenated.

    An encoding is empty if the target's tokens cannot express these bytes.
    """

    @classmethod
    def build(cls, draft: Vocabulary, target: Vocabulary) -> VocabularyMap:
        """The map of two vocabularies, read from the user's cache if it has been built before.

        A map of a quarter of a million tokens takes some seconds. Its file, in ``maps`` of the
        cache folder, is named by the hashes of both vocabularies and of the target's encoder.
        If no file can be written, the map is built each time.
        """
        if len(draft) < _WORTH_A_FILE or draft.fingerprint == target.fingerprint:
            return cls._built(draft, target)
        try:
            path = _path(draft, target)
        except (OSError, RuntimeError, ValueError) as error:  # no home, or no folder to be made
            _keep_in_memory(error)
            return cls._built(draft, target)
        found = cls._read(path)
        if found is None:
            found = cls._built(draft, target)
            try:
                found._write(path)
            except OSError as error:
                _keep_in_memory(error)
        return found

    @classmethod
    def between(cls, draft: Vocabulary, target: Vocabulary) -> VocabularyMap:
        """``build``, once for these two objects."""
        maps = _maps.setdefault(draft, WeakKeyDictionary())
        if target not in maps:
            maps[target] = cls.build(draft, target)
        return maps[target]

    def on(self, device: torch.device | str) -> VocabularyMap:
        """The map in the memory of a device, copied there once."""
        device = torch.device(device)
        if device == self.first.device:
            return self
        if device not in self._on:
            parts = (getattr(self, field.name).to(device) for field in fields(self))
            self._on[device] = VocabularyMap(*parts)
        return self._on[device]

    @cached_property
    def _on(self) -> dict[torch.device, VocabularyMap]:
        return {}

    @cached_property
    def core(self) -> ops.VocabularyMap:
        """The map as the operations take it; on a GPU it is made at first use."""
        return ops.VocabularyMap(*(getattr(self, field.name) for field in fields(self)))

    @cached_property
    def shared(self) -> VocabularyMap:
        """The map of the tokens that both vocabularies have: each expands to its counterpart."""
        kept = self.exact != NONE
        offsets = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
        return VocabularyMap(self.exact, self.exact, offsets, self.exact[kept])

    def expansion(self, token: int) -> list[int]:
        """The target tokens that spell a draft token; none where the target cannot."""
        start, end = self.expansion_offsets[token : token + 2].tolist()
        ids: list[int] = self.expansion_ids[start:end].tolist()
        return ids

    def push_forward(self, distribution: torch.Tensor, columns: int) -> torch.Tensor:
        """The distribution of the first target token, ``q(t) = sum of distribution(d) over first(d)
        = t``.

        Args:
            distribution: float ``[D]``.
            columns: V_t.

        Returns:
            ``[V_t]``; the mass of tokens without an expansion is missing from its sum.
        """
        mass = torch.where(self.first == NONE, 0, distribution)
        return distribution.new_zeros(columns).index_add_(0, self.first.clamp(min=0), mass)

    def conditioned(
        self, distribution: torch.Tensor, taken: Sequence[int], columns: int
    ) -> torch.Tensor:
        """The distribution of the target token after some that were taken from one draft token.

        Args:
            distribution: float ``[D]``.
            taken: target tokens; without any this is ``push_forward``.
            columns: V_t.

        Returns:
            ``[V_t]``: the distribution conditioned on the expansions that begin with these tokens
            and have further ones; zeros if these have no mass.
        """
        if not taken:
            return self.push_forward(distribution, columns)
        starts, ends = self.expansion_offsets[:-1], self.expansion_offsets[1:]
        left = (ends - starts > len(taken)).nonzero()[:, 0]
        for k, token in enumerate(taken):
            left = left[self.expansion_ids[starts[left] + k] == token]
        nexts = self.expansion_ids[starts[left] + len(taken)].long()
        moved = distribution.new_zeros(columns).index_add_(0, nexts, distribution[left])
        mass = moved.sum()
        return moved / mass if mass > 0 else moved

    @classmethod
    def _built(cls, draft: Vocabulary, target: Vocabulary) -> VocabularyMap:
        if draft.fingerprint == target.fingerprint:
            every = torch.arange(len(draft), dtype=torch.int32, device="cpu")
            offsets = torch.arange(len(draft) + 1, device="cpu")
            return cls(every, every.clone(), offsets, every.clone())
        table = [draft.token_bytes(i) for i in range(len(draft))]
        exact = [target.owners.get(data, NONE) for data in table]
        expansions = [
            ids if target.decode(ids) == data else []
            for ids, data in zip(target.encode_all(table), table, strict=True)
        ]
        for token in draft.eos_ids if target.eos_ids else ():
            exact[token] = target.eos_ids[0]
            expansions[token] = [target.eos_ids[0]]
        firsts = [(ids or [NONE])[0] for ids in expansions]
        ends = list(accumulate(map(len, expansions)))
        return cls(
            exact=torch.tensor(exact, dtype=torch.int32, device="cpu"),
            first=torch.tensor(firsts, dtype=torch.int32, device="cpu"),
            expansion_offsets=torch.tensor([0, *ends], dtype=torch.int64, device="cpu"),
            expansion_ids=torch.tensor(
                list(chain.from_iterable(expansions)), dtype=torch.int32, device="cpu"
            ),
        )

    @classmethod
    def _read(cls, path: Path) -> VocabularyMap | None:
        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError):  # absent, cut short, or of another layout
            return None

    def _write(self, path: Path) -> None:
        """Write a temporary file and rename it, so that the file is either complete or absent."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
        try:
            save_file({field.name: getattr(self, field.name) for field in fields(self)}, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _keep_in_memory(error: Exception) -> None:
    logger.warning(
        "VocabularyMap.build: the map cannot be kept in a file (%s) and is built again next time; "
        "set TOKENTIMING_CACHE to a folder that can be written",
        error,
    )


def _path(draft: Vocabulary, target: Vocabulary) -> Path:
    hashes = (draft.fingerprint, target.fingerprint, target.encoder_fingerprint)
    return cache_folder() / "maps" / f"{'-'.join(h[:16] for h in hashes)}.{_LAYOUT}.safetensors"
