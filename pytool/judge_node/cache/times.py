"""Spans of time, for people and for systemd."""

from __future__ import annotations

import re

# How often `cache schedule` has the store verified, and how many bytes a second the deep check may read.
QUICK_EVERY, DEEP_EVERY, DEEP_LIMIT_RATE = "15min", "7d", 200 << 20
_EVERY = re.compile(r"([1-9]\d?)(min|h|d)")
_SECONDS = {"min": 60, "h": 3600, "d": 86_400}


def format_age(seconds: float) -> str:
    """Return a span in its biggest unit: 42 s, 5 min, 3 h, 12 d."""
    value = max(0, int(seconds))
    for unit, most, next_unit in (("s", 60, 60), ("min", 60, 60), ("h", 48, 24)):
        if value < most:
            return f"{value} {unit}"
        value //= next_unit
    return f"{value} d"


def calendar(every: str) -> tuple[str, int]:
    """Return (OnCalendar=, seconds) of a span such as 15min, 6h or 7d.

    Calendar times, not times since boot: a node that is stopped each night would never reach the seventh day. So the
    span has to divide the hour, the day or (almost) the month. Raises ValueError.
    """
    found = _EVERY.fullmatch(every)
    if found is not None:
        count, unit = int(found[1]), found[2]
        seconds = count * _SECONDS[unit]
        if unit == "min" and 60 % count == 0 and count < 60:
            return f"*:0/{count}", seconds
        if unit == "h" and 24 % count == 0 and count < 24:
            return f"*-*-* 0/{count}:00", seconds
        if unit == "d" and count == 7:
            return "weekly", seconds
        if unit == "d" and count <= 15:
            return "daily" if count == 1 else f"*-*-1/{count}", seconds
    raise ValueError(f"{every} is no span such as 15min, 6h, 1d or 7d, which divides an hour or a day, or is 1d to 15d")
