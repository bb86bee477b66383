"""Tokenizers of every kind: those of real models, and small ones trained here."""

from __future__ import annotations

import os

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as kinds

from tokentiming import Vocabulary
from tokentiming.cli import demo_models as models

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, again and again.",
    "def f(x):\n    return x ** 2 + 1  # the square and one",
    "Жили-были старик со старухой у самого синего моря.",
    "从前有一座山,山上有一座庙。人工智能是一门研究。",
    "naïve café über straße — “quoted” text… 2025 1,234.5",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
] * 4


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(kinds.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special)
    )
    return tokenizer


def unigram_with_dummy_prefix() -> Tokenizer:
    tokenizer = Tokenizer(kinds.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<unk>", "</s>"], unk_token="<unk>"
        ),
    )
    return tokenizer


def bytes_alone() -> Tokenizer:
    tokenizer = Tokenizer(kinds.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [],
        trainers.BpeTrainer(
            vocab_size=257,
            special_tokens=["<|end|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    return tokenizer


def normalising() -> Tokenizer:
    tokenizer = Tokenizer(kinds.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<unk>", "</s>"], end_of_word_suffix="</w>"
        ),
    )
    return tokenizer


def real(name: str) -> Tokenizer:
    """A model's own tokenizer; the largest one only where its model has been fetched before."""
    if name == "qwen2.5-coder-1.5b" and models.cached(name) is None:
        pytest.skip(f"{name} is not in the cache, and too large to fetch for its tokenizer")
    try:
        folder = models.pull(name)
    except models.ModelError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the tokenizer of {name}, which cannot be had here: {error}")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


TRAINED = {
    "WordPiece": wordpiece,
    "Unigram with a dummy prefix": unigram_with_dummy_prefix,
    "bytes alone": bytes_alone,
    "normalising": normalising,
}
REAL = ("smollm2-135m", "gemma-3-270m", "qwen2.5-coder-1.5b")
BYTES_COME_BACK = (*REAL, "bytes alone")
"""Those that promise ``bytes(encode(text)) == text`` for all bytes that they have tokens for.

SmolLM2 has none for some control characters, nor for the first bytes of the rarest planes.
"""

_loaded: dict[str, tuple[Tokenizer, Vocabulary]] = {}


def tokenizer_and_vocabulary(name: str) -> tuple[Tokenizer, Vocabulary]:
    if name not in _loaded:
        tokenizer = TRAINED[name]() if name in TRAINED else real(name)
        added = tokenizer.get_added_tokens_decoder()
        ends = [i for i, token in added.items() if token.special and "unk" not in token.content]
        _loaded[name] = tokenizer, Vocabulary.from_tokenizer(tokenizer, eos_token_ids=ends[:1])
    return _loaded[name]
