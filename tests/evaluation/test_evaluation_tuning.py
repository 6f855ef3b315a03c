"""Grids that grow, against functions with a known minimum."""

import math

import pytest

from brainlm_lightning.evaluation.tuning import Axis, choose


def bowl(*minimum):
    """A quadratic in the logarithms, 1 at its minimum; and the settings that it was asked for."""
    asked = []

    def error(setting):
        asked.append(tuple(setting.values()))
        pairs = zip(setting.values(), minimum, strict=True)
        return 1 + sum(math.log10(value / best) ** 2 for value, best in pairs)

    return error, asked


def test_a_minimum_inside_is_found_and_nothing_is_asked_twice():
    error, asked = bowl(0.1, 10.0)
    chosen = choose(error, [Axis("a", (0.01, 0.1, 1.0)), Axis("b", (1.0, 10.0, 100.0))])
    assert chosen.setting == {"a": 0.1, "b": 10.0}
    assert chosen.error == 1
    assert chosen.numbers() == {"a": 0.1, "b": 10.0, "at_edge": 0.0}
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("best", [1e-4, 1e4])
def test_a_grid_grows_to_a_minimum_beyond_its_end(best):
    chosen = choose(bowl(best)[0], [Axis("a", (0.1, 1.0, 10.0))])
    assert chosen.setting["a"] == pytest.approx(best)
    assert chosen.at_edge == {"a": False}


def test_an_edge_that_stays_one_is_told():
    chosen = choose(bowl(1e9)[0], [Axis("a", (0.1, 1.0), extensions=3)])
    assert chosen.setting["a"] == pytest.approx(1e3)
    assert chosen.numbers()["at_edge"] == 1


def test_the_end_of_what_is_possible_is_no_edge():
    chosen = choose(lambda setting: 2 - setting["a"], [Axis("a", (0.25, 0.5), highest=0.9)])
    assert (chosen.setting["a"], chosen.at_edge["a"]) == (0.9, False)


def test_an_error_that_no_longer_falls_is_no_edge():
    chosen = choose(lambda setting: 1 + 1e-6 * setting["a"], [Axis("a", (0.01, 0.1, 1.0))])
    assert (chosen.setting["a"], chosen.at_edge["a"]) == (0.01, False)


def test_of_two_valleys_the_deeper_is_found_where_all_is_tried():
    """Along either axis from the middle the error only rises; the lowest is in a corner."""
    errors = {(1, 1): 2.0, (0.1, 1): 3.0, (10, 1): 3.0, (1, 0.1): 3.0, (1, 10): 3.0, (10, 10): 1.0}
    axes = [Axis(name, (0.1, 1, 10), 0.1, 10) for name in "ab"]
    deeper = {
        tried: choose(lambda s: errors.get((s["a"], s["b"]), 4.0), axes, try_all=tried) for tried in (False, True)
    }
    assert {tried: chosen.error for tried, chosen in deeper.items()} == {False: 2.0, True: 1.0}


def test_added_values_can_be_whole():
    chosen = choose(bowl(50.0)[0], [Axis("order", (2, 3), highest=50, whole=True)])
    assert chosen.setting["order"] == round(chosen.setting["order"])
    assert chosen.setting["order"] > 3


def test_one_value_is_taken_as_it_is():
    assert choose(bowl(5.0)[0], [Axis("a", (1.0,))]).setting == {"a": 1.0}


@pytest.mark.parametrize("values", [(), (1.0, 0.5), (0.5, 0.5), (-1.0, 1.0)])
def test_values_without_order_are_refused(values):
    with pytest.raises(ValueError, match="rising order"):
        Axis("a", values)
