"""Checks of the sizes that a model is made of."""

from dataclasses import fields
from typing import Any


def check_sizes(config: Any) -> None:
    """Checks a model: whole numbers are at least 1, depths at least 0, and `dropout` is a share below 1.

    Raises:
        ValueError: names the size.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        least = 0 if field.name.endswith("depth") else 1
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            raise ValueError(f"{field.name} is {value}; expected a whole number from {least} on")
        if field.name == "dropout" and not 0 <= value < 1:
            raise ValueError(f"dropout is {value}; expected a share from 0 to below 1")
