"""The enumeration detects each known mistake."""

from __future__ import annotations

import pytest

from tests.support.enumeration import RevisitedError, distance
from tests.support.mutations import MUTATIONS
from tests.support.pairs import models

EXPECTED = models("crossing")[0].joint(3, (0,))


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_detected(name):
    mutation = MUTATIONS[name]
    if name == "noise used twice":
        with pytest.raises(RevisitedError):
            mutation.distribution(mutated=True)
        return
    assert distance(mutation.distribution(mutated=True), EXPECTED) > 1e-3


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_same_run_without_a_mutation_is_exact(name):
    assert distance(MUTATIONS[name].distribution(mutated=False), EXPECTED) < 1e-12
