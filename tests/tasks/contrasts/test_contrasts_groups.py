import numpy as np
import pandas as pd
import pytest

from brainlm_lightning.tasks.contrasts.groups import Filter, select

TABLE = pd.DataFrame(
    {
        "subject_id": ["a", "a", "b", "c", "d", "e"],
        "task": ["rest", "heat", "rest", "rest", "heat", "rest"],
        "age": [60.0, 60.0, 70.0, np.nan, 50.0, 65.0],
        "dx": [1, 1, 2, 2, 1, 2],
        "shard": 0,
    }
)
ALL = np.arange(6)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"column": "task", "equals": "rest"}, [0, 2, 3, 5]),
        ({"column": "dx", "equals": 1}, [0, 1, 4]),
        ({"column": "dx", "equals": "2"}, [2, 3, 5]),
        ({"column": "task", "one_of": ("heat", "none")}, [1, 4]),
        ({"column": "age", "below": 65}, [0, 1, 4]),
        ({"column": "age", "above": 55, "below": 66}, [0, 1, 5]),
    ],
)
def test_a_filter_keeps_what_it_says_and_nothing_without_a_value(given, rows):
    assert select(TABLE, (Filter(**given),), "group", ALL).tolist() == rows


def test_filters_are_joined_and_choose_among_the_rows_given():
    both = (Filter("task", equals="rest"), Filter("age", above=61))
    assert select(TABLE, both, "group", ALL).tolist() == [2, 5]
    assert select(TABLE, both, "group", np.array([0, 5])).tolist() == [5]


def test_terciles_are_of_subjects_left_by_the_filters_before():
    ages = pd.DataFrame({"subject_id": list("abcdefghi"), "age": np.arange(9.0), "task": ["x"] * 8 + ["y"]})
    nine = np.arange(9)
    assert select(ages, (Filter("age", tercile="upper"),), "g", nine).tolist() == [6, 7, 8]
    assert select(ages, (Filter("age", tercile="lower"),), "g", nine).tolist() == [0, 1, 2]
    many = pd.concat([ages, ages.iloc[[8] * 50]], ignore_index=True)  # one subject, many recordings
    assert select(many, (Filter("age", tercile="lower"),), "g", np.arange(59)).tolist() == [0, 1, 2]
    before = (Filter("task", equals="x"), Filter("age", tercile="upper"))
    assert select(ages, before, "g", nine).tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"column": "sex", "equals": "F"},
            "no column 'sex' to filter on; the cohort's table has subject_id, task, age",
        ),
        ({"column": "shard", "equals": 0}, "no column 'shard'"),
        ({"column": "task", "equals": "Rest"}, r"no recording with `task equals Rest` among 6; task has 'rest' \(4\)"),
        ({"column": "age", "above": 90}, r"no recording with `age above 90` among 6; age has 60.0 \(2\)"),
        ({"column": "task", "below": 3}, r"column 'task' holds words \('rest' \(4\), 'heat' \(2\)\)"),
    ],
)
def test_a_filter_that_finds_nothing_says_what_there_is(given, message):
    with pytest.raises(ValueError, match=message):
        select(TABLE, (Filter(**given),), "group", ALL)


def test_text_is_compared_and_never_run(tmp_path):
    evil = f"__import__('os').mkdir({str(tmp_path / 'made')!r})"
    for column, value in (("task", evil), (evil, "rest"), ("task", "@TABLE")):
        with pytest.raises(ValueError, match=r"no (recording|column)"):
            select(TABLE, (Filter(column, equals=value),), "group", ALL)
    assert not (tmp_path / "made").exists()


def test_a_filter_without_a_condition_is_refused():
    with pytest.raises(ValueError, match="names no condition; give one of equals, one_of, above, below, tercile"):
        Filter("task")
