"""Gain and offset between the scaled signal and what a published model expects.

The scaling that the published models were trained with was never released, so it is found by calibration.
"""

import math


def check_input_scale(gain: float, offset: float) -> None:
    """Checks gain and offset.

    Raises:
        ValueError: the gain is not positive, or one of them is not finite.
    """
    if not (0 < gain < math.inf and math.isfinite(offset)):
        raise ValueError(f"input_gain is {gain} and input_offset {offset}; expected a gain above 0, both finite")
