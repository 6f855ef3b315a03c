import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainlm_lightning.evaluation.names import MetricName, check_method_name, parsed, quoted

GOLDEN = sorted((Path(__file__).parents[1] / "door" / "golden").glob("*.json"))
label = st.text(min_size=1, max_size=12)
score = st.text(st.characters(blacklist_characters="/"), min_size=1, max_size=12)


@given(label, label, label, score)
def test_any_label_comes_back_from_a_name(cohort, condition, method, score):
    name = MetricName(cohort, condition, method, score)
    assert MetricName.parse(str(name)) == name


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_name_of_a_test_run_is_written_as_it_was_read(path):
    names = [name for name in json.loads(path.read_text()) if name.startswith("test/")]
    assert [str(name) for name in parsed(names)] == names


def test_a_score_of_the_whole_condition_has_no_method():
    name = MetricName.parse("test/ukb/horizon20/num_windows")
    assert name == MetricName("ukb", "horizon20", "", "num_windows")
    assert str(name) == "test/ukb/horizon20/num_windows"


def test_a_comparison_names_its_two_methods():
    name = MetricName("ukb", "hidden0.2", "mae").against("zero")
    assert name.of("p") == "test/ukb/hidden0.2/mae_minus_zero/p"
    assert MetricName.parse(name.of("p")).pair == ("mae", "zero")
    assert MetricName("ukb", "hidden0.2", "mae").pair is None


def test_other_methods_and_the_condition_itself_are_reached_from_any_name():
    name = MetricName("ukb", "hidden0.2", "mae", "r2_pooled")
    assert name.by("zero").of("r2") == "test/ukb/hidden0.2/zero/r2"
    assert name.by() == MetricName("ukb", "hidden0.2")
    assert name.by().of("num_windows") == "test/ukb/hidden0.2/num_windows"


@pytest.mark.parametrize(
    ("condition", "level"),
    [("hidden0.75", 0.75), ("hidden.5", 0.5), ("hidden1", 1), ("hidden1e-05", 1e-5), ("hidden", None),
     ("hiddennan", None), ("hidden1_0", None), ("hidden-1", None), ("horizon20", None), ("age hidden1", None)],
)  # fmt: skip
def test_the_number_in_a_condition_is_read(condition, level):
    assert MetricName("ukb", condition).level("hidden") == level


@given(st.lists(label, min_size=1, max_size=3))
def test_the_parts_of_a_score_come_back(labels):
    name = MetricName("ukb", "task", "mae", "/".join(map(quoted, labels)))
    assert MetricName.parse(str(name)).parts == tuple(labels)


@pytest.mark.parametrize("name", ["val/loss", "fitted/ar/order", "test/ukb/seen", "train/r2", ""])
def test_other_names_are_none_of_a_test(name):
    assert MetricName.parse(name) is None


@pytest.mark.parametrize("name", ["", "a_minus_b"])
def test_names_that_would_be_read_as_comparisons_are_refused(name):
    with pytest.raises(ValueError, match="_minus_"):
        check_method_name(name)
