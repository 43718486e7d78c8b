"""Where a position would be given up or closed with a gain, and where the price has turned before. Needs numpy."""

from typing import Final, NamedTuple

import numpy as np

from app.core.indicators.compute import Columns, Floats

STOP_ATR: Final = 2.0
TARGET_ATR: Final = 3.0
"""Average true ranges from the opening of the next bar, where a position begins."""
PIVOT: Final = 5
"""Bars on both sides that a turning point towers above; it is known only when the later ones are over."""
REMEMBERED: Final = 250
"""Bars within which turning points count."""


class Walls(NamedTuple):
    """The nearest confirmed turning points below and above a price; None where there is none."""

    support: float | None
    resistance: float | None


def walls(bars: Columns) -> Walls:
    """Of the last bar's close."""
    first = max(len(bars) - REMEMBERED, 0)
    close = float(bars.close[-1])
    lows, highs = -_peaks(-bars.low[first:]), _peaks(bars.high[first:])
    below, above = lows[lows < close], highs[highs > close]
    return Walls(
        float(below.max()) if len(below) else None,
        float(above.min()) if len(above) else None,
    )


def _peaks(values: Floats) -> Floats:
    """The values higher than those of `PIVOT` bars before, and not lower than those of as many after."""
    around = 2 * PIVOT + 1
    if len(values) < around:
        return np.array([])
    windows = np.lib.stride_tricks.sliding_window_view(values, around)
    centre = windows[:, PIVOT]
    with np.errstate(invalid="ignore"):
        peak = (centre > windows[:, :PIVOT].max(axis=1)) & (centre >= windows[:, PIVOT + 1 :].max(axis=1))
    found: Floats = centre[peak]
    return found
