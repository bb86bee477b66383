"""Vocabularies as bytes, and the way from one vocabulary to another."""

from tokentiming.tokens.vocabulary import Vocabulary
from tokentiming.tokens.vocabulary_map import VocabularyMap

__all__ = ["Vocabulary", "VocabularyMap"]
