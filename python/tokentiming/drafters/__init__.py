"""Where proposals come from."""

from tokentiming.drafters.base import Choice, Draft, Drafter
from tokentiming.drafters.model import ModelDrafter

__all__ = ["Choice", "Draft", "Drafter", "ModelDrafter"]
