"""Sources of proposals."""

from tokentiming.drafters.base import NOTHING, Asked, Candidates, Draft, Drafter
from tokentiming.drafters.model import ModelDrafter

__all__ = ["NOTHING", "Asked", "Candidates", "Draft", "Drafter", "ModelDrafter"]
