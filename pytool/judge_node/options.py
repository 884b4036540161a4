"""Options that more than one group of commands has. Apart, so that no group has to load another."""

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


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json."""
    command.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def add_changing(command: argparse.ArgumentParser, lock_wait_seconds: int) -> None:
    """Add what every command has that changes something."""
    command.add_argument("--check", action="store_true", help="say what would be done, and change nothing")
    command.add_argument(
        "--lock-wait",
        type=seconds,
        default=lock_wait_seconds,
        metavar="SECONDS",
        help="how long to wait for another judge-node (default: %(default)s)",
    )
