"""Where proposals come from."""

from tokentiming.drafters.base import Draft, Drafter
from tokentiming.drafters.model import ModelDrafter

__all__ = ["Draft", "Drafter", "ModelDrafter"]
