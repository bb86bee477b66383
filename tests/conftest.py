"""What several tests share: toy vocabularies, and real models with their tokenizers."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.selection import Selection

# The time that an example takes does not matter for a test.
settings.register_profile("tokentiming", deadline=None)
settings.load_profile("tokentiming")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Selection(config.option.markexpr))


@pytest.fixture(autouse=True)
def drafts_work(request, caplog):
    """Fail a test whose draft fails unnoticed, since the target would continue alone."""
    yield
    failures = [r for r in caplog.get_records("call") if "the draft failed" in r.getMessage()]
    if failures and not request.node.get_closest_marker("draft_fails"):
        pytest.fail(failures[0].getMessage())


@pytest.fixture
def bench(monkeypatch):
    """A function that imports a module of ``bench/python``, which is no package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench" / "python"))
    return importlib.import_module


def _real(name: str):
    """Model and tokenizer of a demo model; its weights may be 4-bit GGUF converted to bf16."""
    from tokentiming.cli import demo_models as models

    try:
        folder = models.pull(name)
    except models.ModelError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the weights of {name}, which cannot be downloaded here: {error}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct in float32: (model, tokenizer)."""
    return _real("smollm2-135m")


@pytest.fixture(scope="session")
def gemma():
    """Gemma-3-270M in float32: (model, tokenizer)."""
    return _real("gemma-3-270m")
