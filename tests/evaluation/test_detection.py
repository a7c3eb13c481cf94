import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import auc as area
from sklearn.metrics import roc_curve

from cce.config import ConfigError, Detector
from cce.detectors import calibrate
from cce.evaluation.detection import auc


def test_calibrate_by_hand():
    """Of ten values two may be flagged at 20%, and two lie above the eighth."""
    values = [0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 1.0, 0.4, 0.8, 0.6]
    detector = calibrate(values, 0.2, "ten numbers")
    assert detector == Detector(0.8, 0.2, "ten numbers", 10, "entropy")
    assert detector.flags(values).tolist() == [v in (0.9, 1.0) for v in values]


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.1, 1 / 3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 100, 1000])
@pytest.mark.parametrize("ties", [False, True])
def test_false_positive_rate_is_never_above_the_stated_and_the_threshold_is_the_lowest(rate, count, ties):
    rng = np.random.default_rng(count)
    values = rng.integers(0, 5, count) / 4 if ties else rng.random(count)
    detector = calibrate(values, rate, "random numbers")
    assert detector.flags(values).mean() <= rate + 1e-12
    lower = values[values < detector.threshold]
    if len(lower):  # the next lower threshold would flag too many
        flagged = (values > lower.max()).mean()
        assert flagged > rate - 1e-12 or detector.threshold == values.min()


def test_a_rate_that_binary_fractions_miss_is_taken_at_its_word():
    """0.29 * 100 is 28.999999999999996 in floating point; 29 of 100 are allowed."""
    assert calibrate(np.arange(100), 0.29, "numbers").flags(np.arange(100)).sum() == 29


def test_a_value_at_the_threshold_is_not_flagged():
    assert Detector(0.5, 0.05, "", 1).flags([0.5, math.nextafter(0.5, 1)]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("values", "rate", "words"),
    [
        ([], 0.05, "there are no clean images to calibrate the detector on"),
        ([0.1], -0.1, "false_positive_rate is -0.1; it is from 0 to 1"),
        ([0.1], 5, "false_positive_rate is 5; it is from 0 to 1"),
        ([0.1], math.nan, "false_positive_rate is nan"),
        ([0.1, math.nan], 0.05, "some entropies to calibrate the detector on are not finite"),
    ],
)
def test_calibrate_refuses(values, rate, words):
    with pytest.raises(ConfigError, match=words):
        calibrate(values, rate, "nothing")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((math.nan, 0.05, "", 1), "threshold is nan; it must be a finite number"),
        ((math.inf, 0.05, "", 1), "threshold is inf; it must be a finite number"),
        ((1.0, 1.5, "", 1), "false_positive_rate is 1.5; it is from 0 to 1"),
        ((1.0, 0.05, "", 1, "mood"), "score is 'mood'; it is one of entropy"),
    ],
)
def test_a_detector_that_cannot_be_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        Detector(*settings)


def test_what_every_command_imports_leaves_scikit_learn_out():
    """Its import takes a second; the digits are read from its file alone."""
    program = (
        "import sys, cce.__main__; from cce.data import datasets; datasets.load('digits'); "
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_auc_by_hand():
    """Of six pairs: 2 beats 1, ties with 2, loses to 3; 4 beats all three. (1 + 1/2 + 3) / 6."""
    assert auc([1, 2, 3], [2, 4]) == pytest.approx(4.5 / 6)
    assert auc([1, 2], [3, 4]) == 1.0
    assert auc([3, 4], [1, 2]) == 0.0
    assert auc([1, 1], [1, 1]) == 0.5


def test_auc_of_nothing_is_none():
    assert auc([], [1.0]) is None
    assert auc([1.0], []) is None


def test_auc_is_the_area_under_scikit_learns_curve_and_the_fraction_of_pairs():
    rng = np.random.default_rng(0)
    clean, attacked = rng.normal(0, 1, 80).round(1), rng.normal(1, 1, 50).round(1)  # with ties
    fpr, tpr, _ = roc_curve([0] * 80 + [1] * 50, np.concatenate([clean, attacked]))
    found = auc(clean, attacked)
    assert found == pytest.approx(area(fpr, tpr))
    above = (attacked[:, None] > clean).mean() + (attacked[:, None] == clean).mean() / 2
    assert found == pytest.approx(above)
