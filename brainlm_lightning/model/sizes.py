"""Checks of the sizes that a model is made of."""

from dataclasses import fields
from typing import Any


def check_sizes(config: Any) -> None:
    """Checks a model's configuration: every whole number is at least 1, and `dropout` a share below 1.

    Raises:
        ValueError: names the size.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise ValueError(f"{field.name} is {value}; expected a whole number from 1 on")
        if field.name == "dropout" and not 0 <= value < 1:
            raise ValueError(f"dropout is {value}; expected a share from 0 to below 1")
