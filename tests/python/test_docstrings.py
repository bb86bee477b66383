"""The examples in the docstrings of ``tokentiming.ops``."""

from __future__ import annotations

import doctest

import pytest
import torch

from tokentiming import ops
from tokentiming.ops import inverse


def examples() -> dict[str, doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True, recurse=False)
    names = {name: getattr(ops, name) for name in ops.__all__} | {"inverse": inverse.inverse}
    everything = vars(ops) | {"torch": torch, "inverse": inverse.inverse}
    found = {}
    for name, thing in names.items():
        for test in finder.find(thing, name, module=False, globs=dict(everything)):
            if test.examples:
                found[name] = test
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    output: list[str] = []
    failed, _ = doctest.DocTestRunner().run(EXAMPLES[name], out=output.append)
    assert not failed, "".join(output)


def test_every_operation_has_an_example() -> None:
    operations = {
        "align", "candidates", "log_noise", "restrict", "sample", "transfer", "verify", "walk",
    }  # fmt: skip
    classes = {"ByteTable", "SuffixAutomaton", "VocabularyMap"}
    assert operations | classes | {"inverse"} <= set(EXAMPLES)
