"""Choosing settings of a method on validation subjects, over grids that grow where the best choice is at their end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

Setting = dict[str, float]

FLAT = 1e-4  # share by which an error must fall from the last value but one to the last, for the grid to go on


@dataclass(frozen=True)
class Axis:
    """The values of one setting to choose from.

    Attributes:
        name: of the setting.
        values: in rising order; where there are two or more, the grid goes on by the ratio of the two nearest.
        lowest: no value below this is tried. A choice there is the end of what is possible, and no edge.
        highest: no value above this is tried.
        extensions: how many values may be added to those named.
        whole: values that are added are whole numbers.
    """

    name: str
    values: Sequence[float]
    lowest: float = 0.0
    highest: float = float("inf")
    extensions: int = 6
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuses grids without order.

        Raises:
            ValueError: no value, or values not in rising order within the limits.
        """
        values = list(self.values)
        inside = all(self.lowest <= value <= self.highest for value in values)
        if not values or values != sorted(set(values)) or not inside:
            raise ValueError(
                f"values of {self.name} are {values}; expected one or more, in rising order, "
                f"from {self.lowest:g} to {self.highest:g}"
            )

    def beyond(self, errors: Mapping[float, float]) -> float | None:
        """The next value to try, where the error still falls at the first or last that was; else None.

        Args:
            errors: of the values tried, in rising order of the values.
        """
        values, best = list(errors), min(errors, key=errors.__getitem__)
        if len(values) < 2 or best not in (values[0], values[-1]) or best in (self.lowest, self.highest):
            return None
        near = values[1] if best == values[0] else values[-2]
        if errors[best] > (1 - FLAT) * errors[near]:
            return None
        following = best * best / near if near > 0 else best * 2
        following = min(max(following, self.lowest), self.highest)
        return float(round(following)) if self.whole else following


@dataclass(frozen=True)
class Chosen:
    """The setting with the lowest error, its error, and which axes still have their best value at an end."""

    setting: Setting
    error: float
    at_edge: Mapping[str, bool]

    def numbers(self) -> dict[str, float]:
        """Each setting, and ``at_edge``: 1 where any of them is at the end of its grid, else 0."""
        return {**self.setting, "at_edge": float(any(self.at_edge.values()))}


def choose(error: Callable[[Setting], float], axes: Sequence[Axis], rounds: int = 2, try_all: bool = False) -> Chosen:
    """Minimises an error along one axis at a time, the others held, and extends an axis whose best value is at its end.

    Args:
        error: of a setting, on validation subjects; called once for each setting.
        axes: searched in this order.
        try_all: begin at the best of all combinations of what was named, for errors with several valleys; else in the
            middle of each axis.
        rounds: how often all axes are gone through; it ends early where a round changes nothing.

    Returns:
        The best setting that was tried.
    """
    known: dict[tuple[float, ...], float] = {}

    def measured(setting: Setting) -> float:
        key = tuple(setting.values())
        if key not in known:
            known[key] = error(dict(setting))
        return known[key]

    grids = {axis.name: list(axis.values) for axis in axes}
    setting = {axis.name: axis.values[len(axis.values) // 2] for axis in axes}
    if try_all:
        combinations = product(*(axis.values for axis in axes))
        setting = min((dict(zip(setting, values, strict=True)) for values in combinations), key=measured)
    at_edge: dict[str, bool] = {}
    for _ in range(rounds):
        before = dict(setting)
        for axis in axes:
            setting[axis.name], at_edge[axis.name] = _along(axis, grids[axis.name], setting, measured)
        if setting == before:
            break
    return Chosen(dict(setting), measured(setting), at_edge)


def _along(axis: Axis, grid: list[float], setting: Setting, measured: Callable[[Setting], float]) -> tuple[float, bool]:
    """The best value of one axis, and whether it is at an edge; the grid grows in place."""
    while True:
        errors = {value: measured({**setting, axis.name: value}) for value in grid}
        following = axis.beyond(errors)
        if following is None or len(grid) >= len(axis.values) + axis.extensions:
            return min(errors, key=errors.__getitem__), following is not None
        grid[:] = sorted({*grid, following})
