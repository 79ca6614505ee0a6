"""Numbers as a reader sees them: one way each, and never a 0 for what is undefined."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["UNDEFINED", "count", "duration", "memory", "money", "number", "percent"]

UNDEFINED: Final = "undefined"
_NOT_ASKED: Final = "–"


def number(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; "undefined" for NaN, a dash for what was not asked for.

    >>> number(0.99849, 3), number(-0.0, 2), number(float("nan"), 4), number(None, 4)
    ('0.998', '0.00', 'undefined', '–')
    """
    if value is None:
        return _NOT_ASKED
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """A fraction in percent, with three significant digits.

    >>> percent(0.0312), percent(0.5), percent(0.00012345), percent(float("nan"))
    ('3.12 %', '50 %', '0.0123 %', 'undefined')
    """
    if value is None or math.isnan(value):
        return number(value, 0)
    digits = 2 if value == 0 else min(max(2 - math.floor(math.log10(abs(100 * value))), 0), 6)
    text = f"{100 * value:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def count(value: int | None) -> str:
    """A whole number with its thousands set apart.

    >>> count(1234567)
    '1,234,567'
    """
    return _NOT_ASKED if value is None else f"{value:,}"


def memory(num_bytes: int) -> str:
    """Bytes in the unit that leaves one to three digits before the point; 1 kB is 1,000 bytes.

    >>> memory(0), memory(999), memory(123_456), memory(5_750_000_000), memory(123_000_000_000_000)
    ('0 B', '999 B', '123 kB', '5.75 GB', '123,000 GB')
    """
    size, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    digits = 0 if unit == "B" or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:,.{digits}f} {unit}"


def money(micros: int | None) -> str:
    """An amount in micros as whole units of its currency, to four digits after the point.

    >>> money(1_234_567), money(None)
    ('1.2346', '–')
    """
    return number(None if micros is None else micros / 1_000_000, 4)


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(0.0123), duration(3.21), duration(75.4), duration(4000)
    ('12 ms', '3.2 s', '1 min 15 s', '1 h 7 min')
    """
    if not math.isfinite(seconds):
        return number(seconds, 0)
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
