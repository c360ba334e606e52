"""Numbers as people write them: three significant digits, thousands apart, never an exponent."""

from __future__ import annotations

import math

import numpy as np

MISSING = "n/a"


def readable_number(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, all of its integer part, and no exponent.

    1900.3 is ``1,900``, 25471.6 is ``25,472``, 0.0172 stays, 2.9e-05 is ``0.000029``; ``n/a``
    where there is no finite number.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if round(abs(value)) >= 10**digits:
        return f"{value:,.0f}"
    return np.format_float_positional(
        value, precision=digits, unique=False, fractional=False, trim="-"
    )


def short_number(value: float) -> str:
    """Three significant digits with k, M or G: for the ticks of an axis and labels in pictures."""
    rounded = float(f"{value:.3g}")
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= factor:
            return f"{readable_number(rounded / factor)}{letter}"
    return readable_number(rounded)


def number(value: float | None, form: str) -> str:
    """The formatted value; ``n/a`` where there is none or it is not finite."""
    return format(value, form) if value is not None and math.isfinite(value) else MISSING


def percent(part: int, whole: int) -> str:
    """A share in percent; ``n/a`` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else MISSING
