"""The pages of docs: their links, and the examples of docs/batches.md on small models."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

import tokentiming as tt
from tests.support.batches import near
from tests.support.small_models import TOKENIZER, lively

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_relative_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
    assert links or page.parent != ROOT
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_readme_links_to_every_page(page):
    assert f"](docs/{page.name})" in (ROOT / "README.md").read_text("utf-8")


def test_the_examples_of_batches_run(capsys):
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    tokenizer.pad_token = tokenizer.eos_token
    model = lively()
    decoder = tt.SpeculativeDecoder(model, tokenizer, tt.ModelDrafter(near(model), TOKENIZER))
    names = {"decoder": decoder, "model": model, "tokenizer": tokenizer}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/batches.md").read_text("utf-8"), re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
        if "out" in names:
            assert len(names["out"].text) == 3
    assert names["sequences"].shape[0] == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["length"] * 3
    assert any(line.startswith("2 ") for line in lines)  # printed by watch
