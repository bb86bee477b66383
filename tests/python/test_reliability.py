"""Confidences are corrected by what the target emitted."""

from __future__ import annotations

import pytest

from tokentiming.drafters.draft import Visit
from tokentiming.engine.reliability import Reliability


def observed(truth: dict[float, float], visits: int = 300) -> Reliability:
    """After visits of nodes with one child, by its confidence and the share that is emitted."""
    reliability = Reliability()
    for count in range(visits):
        for confidence, share in truth.items():
            emitted = 0 if int(share * (count + 1)) > int(share * count) else None
            reliability.observe([Visit([confidence], emitted)])
    return reliability


def test_without_observations_confidences_stay():
    assert Reliability().calibrate([0.03, 0.5, 1.0]) == [0.03, 0.5, 1.0]


def test_each_bucket_is_corrected_by_itself():
    """The draft is overconfident where it is sure, and underconfident where it is not."""
    sure, unsure = observed({0.99: 0.7, 0.3: 0.5}).calibrate([0.99, 0.3])
    assert sure == pytest.approx(0.7, abs=0.05)
    assert unsure == pytest.approx(0.5, abs=0.1)


def test_a_rare_bucket_follows_the_others():
    """Confidences are twice the true probabilities, in a bucket without observations too."""
    (rare,) = observed({0.6: 0.3, 0.9: 0.45}).calibrate([0.15])
    assert rare == pytest.approx(0.075, abs=0.03)


def test_old_observations_fade():
    reliability = observed({0.8: 0.8})
    for _ in range(300):
        reliability.observe([Visit([0.8], None)])
    assert reliability.calibrate([0.8])[0] < 0.05


def test_a_calibrated_confidence_is_a_probability():
    reliability = observed({0.5: 1.0})
    assert reliability.calibrate([0.5, 0.99, 1.0])[1:] == [1.0, 1.0]


def test_the_second_child_counts_for_its_own_bucket():
    reliability = Reliability()
    for _ in range(400):
        reliability.observe([Visit([0.6, 0.3], 1)])
    first, second = reliability.calibrate([0.6, 0.3])
    assert first < 0.15
    assert second > 0.75
