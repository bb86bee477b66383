"""Where proposals come from."""

from tokentiming.drafters.base import NOTHING, Choice, Draft, Drafter
from tokentiming.drafters.model import ModelDrafter

__all__ = ["NOTHING", "Choice", "Draft", "Drafter", "ModelDrafter"]
