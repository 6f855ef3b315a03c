import math

import pytest

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.report.scores import (
    Estimate,
    is_worse,
    methods_with,
    names_under,
    num_significant,
    reference_method,
)

CONDITION = MetricName("abide", "gait")
OTHER = MetricName("abide", "sleep")


def compared(first, second, difference=0.1, p=0.01, condition=CONDITION):
    pair = condition.by(first).against(second)
    return {pair.of("r2"): difference, pair.of("p_corrected"): p}


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.3914, 0.38, 0.4021), "0.391 [0.380, 0.402]"),
        (Estimate(0.3914), "0.391"),
        (Estimate(0.3914, 0.38, 0.4021, worse=True), "0.391 [0.380, 0.402] *↓"),
        (Estimate(0.3914, worse=False), "0.391 *↑"),
        (Estimate(math.nan, worse=True), "–"),
    ],
)
def test_an_estimate_shows_its_interval_and_its_mark(estimate, text):
    assert str(estimate) == text


def test_an_estimate_in_per_cent():
    assert Estimate(0.7912, 0.77, 0.811).text(digits=1, scale=100) == "79.1 [77.0, 81.1]"


def test_the_methods_of_a_condition_are_those_with_the_score_and_no_comparisons():
    metrics = {CONDITION.by(method).of("r2"): 0.1 for method in ("zero", "mae")} | compared("mae", "zero")
    metrics |= {CONDITION.of("r2"): 1.0, CONDITION.by("ar").of("mse"): 1.0, OTHER.by("ar").of("r2"): 1.0}
    assert methods_with(metrics, "r2") == {CONDITION: ["zero", "mae"], OTHER: ["ar"]}
    assert {name.by() for name in names_under(metrics, [CONDITION])} == {CONDITION}


def test_the_reference_is_the_first_method_of_the_most_comparisons():
    methods = {CONDITION: ["zero", "ar", "mae"]}
    metrics = compared("ar", "untrained_ar") | compared("mae", "zero") | compared("mae", "ar")
    metrics |= compared("zero", "a", condition=OTHER) | compared("zero", "b", condition=OTHER)
    metrics |= compared("zero", "c", condition=OTHER)  # of another condition
    assert reference_method(metrics, methods) == "mae"
    assert reference_method(compared("ar", "untrained_ar"), methods) == "ar"
    assert reference_method(compared("vae", "ar"), methods) == "vae"  # without a score of its own
    assert reference_method({}, methods) == "zero"
    assert reference_method({}, methods, default="mae") == "mae"


def test_only_a_significant_difference_makes_a_method_worse_or_better():
    pair = CONDITION.by("mae").against("zero")
    given = [(0.1, 0.049), (-0.1, 0.01), (0.1, 0.05), (0.1, math.nan)]
    found = [is_worse(compared("mae", "zero", difference, p), pair, "r2") for difference, p in given]
    assert found == [True, False, None, None]
    assert is_worse({}, pair, "r2") is None


def test_significant_comparisons_are_counted_under_their_conditions():
    metrics = compared("mae", "zero") | compared("mae", "ar", p=0.05) | compared("mae", "ar", condition=OTHER)
    assert num_significant(metrics, [CONDITION]) == (1, 2)
    assert num_significant(metrics, [CONDITION, OTHER]) == (2, 3)
