"""Any draft model speeds up any target model, losslessly."""

from importlib.metadata import version

from tokentiming import methods, ops
from tokentiming.decoder import SpeculativeDecoder
from tokentiming.drafters import Draft, Drafter, ModelDrafter
from tokentiming.huggingface import custom_generate
from tokentiming.output import SpeculativeOutput
from tokentiming.stats import Stats
from tokentiming.vocabulary import Vocabulary
from tokentiming.vocabulary_map import VocabularyMap

__version__ = version("tokentiming")

__all__ = [
    "Draft",
    "Drafter",
    "ModelDrafter",
    "SpeculativeDecoder",
    "SpeculativeOutput",
    "Stats",
    "Vocabulary",
    "VocabularyMap",
    "custom_generate",
    "methods",
    "ops",
]
