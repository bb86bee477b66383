"""Sources of proposals."""

from tokentiming.drafters.base import NO_TOKEN, Candidates, Draft, Drafter, DraftRequest
from tokentiming.drafters.model import ModelDrafter

__all__ = ["NO_TOKEN", "Candidates", "Draft", "DraftRequest", "Drafter", "ModelDrafter"]
