"""Checks of numbers that a DataModule is given."""

from collections.abc import Mapping


def check_counts(least: Mapping[str, int], given: Mapping[str, int | None]) -> None:
    """Checks that counts are not below the least that makes sense.

    Args:
        least: name -> least value.
        given: name -> value; None is a choice of its own.

    Raises:
        ValueError: names the count.
    """
    for name, smallest in least.items():
        value = given[name]
        if value is not None and value < smallest:
            raise ValueError(f"data.{name} is {value}; expected a whole number from {smallest} on")


def check_weights(weights: Mapping[str, float]) -> None:
    """Checks that there are cohorts, each with a weight above 0.

    Raises:
        ValueError: there is none, or a weight is not above 0.
    """
    wrong = {name: weight for name, weight in weights.items() if not 0 < weight < float("inf")}
    if wrong or not weights:
        raise ValueError(
            f"data.cohorts is {dict(weights)}; expected the name of a cohort, or names with weights above 0"
        )
