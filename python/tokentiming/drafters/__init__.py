"""Sources of proposals."""

from tokentiming.drafters.base import Candidates, Drafter, DraftRequest, Learner
from tokentiming.drafters.draft import NO_TOKEN, Draft
from tokentiming.drafters.llama_cpp import LlamaCppDrafter
from tokentiming.drafters.model import ModelDrafter
from tokentiming.drafters.recycling import RecyclingDrafter
from tokentiming.drafters.suffix import SuffixDrafter

__all__ = [
    "NO_TOKEN",
    "Candidates",
    "Draft",
    "DraftRequest",
    "Drafter",
    "Learner",
    "LlamaCppDrafter",
    "ModelDrafter",
    "RecyclingDrafter",
    "SuffixDrafter",
]
