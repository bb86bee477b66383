"""Vocabularies as bytes, and conversion between vocabularies."""

from tokentiming.tokens.vocabulary import Vocabulary
from tokentiming.tokens.vocabulary_map import VocabularyMap

__all__ = ["Vocabulary", "VocabularyMap"]
