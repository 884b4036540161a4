"""Values of options that more than one group of commands has. Small, so that no group has to load another."""

from __future__ import annotations

import argparse


def seconds(text: str) -> float:
    """Return a number of seconds, at most a day (argparse type)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 86400")
    return value
