"""Sources of proposals."""

from tokentiming.drafters.base import (
    NO_TOKEN,
    Candidates,
    Draft,
    Drafter,
    DraftRequest,
    Learner,
)
from tokentiming.drafters.model import ModelDrafter
from tokentiming.drafters.recycling import RecyclingDrafter

__all__ = [
    "NO_TOKEN",
    "Candidates",
    "Draft",
    "DraftRequest",
    "Drafter",
    "Learner",
    "ModelDrafter",
    "RecyclingDrafter",
]
