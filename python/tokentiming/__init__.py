"""Any draft model speeds up any target model, losslessly."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokentiming import methods as methods
    from tokentiming import ops as ops
    from tokentiming.decoder import SpeculativeDecoder as SpeculativeDecoder
    from tokentiming.drafters import Draft as Draft
    from tokentiming.drafters import Drafter as Drafter
    from tokentiming.drafters import LlamaCppDrafter as LlamaCppDrafter
    from tokentiming.drafters import ModelDrafter as ModelDrafter
    from tokentiming.drafters import RecyclingDrafter as RecyclingDrafter
    from tokentiming.drafters import SuffixDrafter as SuffixDrafter
    from tokentiming.engine.budget import Budget as Budget
    from tokentiming.engine.budget import Drafted as Drafted
    from tokentiming.engine.budget import FixedBudget as FixedBudget
    from tokentiming.engine.budget import Outcome as Outcome
    from tokentiming.engine.stats import Stats as Stats
    from tokentiming.generation.output import SpeculativeOutput as SpeculativeOutput
    from tokentiming.huggingface import custom_generate as custom_generate
    from tokentiming.tokens import Vocabulary as Vocabulary
    from tokentiming.tokens import VocabularyMap as VocabularyMap

_MODULES = {
    "Budget": "engine.budget",
    "Draft": "drafters",
    "Drafted": "engine.budget",
    "Drafter": "drafters",
    "FixedBudget": "engine.budget",
    "LlamaCppDrafter": "drafters",
    "ModelDrafter": "drafters",
    "Outcome": "engine.budget",
    "RecyclingDrafter": "drafters",
    "SpeculativeDecoder": "decoder",
    "SpeculativeOutput": "generation.output",
    "Stats": "engine.stats",
    "SuffixDrafter": "drafters",
    "Vocabulary": "tokens",
    "VocabularyMap": "tokens",
    "custom_generate": "huggingface",
}
"""The module of each public name. It is imported at the first use of the name (PEP 562), so that
``tokentiming.ops`` does not load transformers."""

__all__ = ["methods", "ops", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(import_module(f"tokentiming.{_MODULES[name]}"), name)
    elif name in ("methods", "ops"):
        value = import_module(f"tokentiming.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("tokentiming")
    else:
        raise AttributeError(f"module 'tokentiming' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
