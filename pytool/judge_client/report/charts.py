"""Where the parts of a chart stand, in the units of its view box. The template draws them; nothing here is text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 280
HEIGHT: Final = 138
BASELINE: Final = 110
_PLOT: Final = 84
_SLOT: Final = 28
_BAR: Final = 22
CELL: Final = 27
MARGIN: Final = 28
HEAT_LEVELS: Final = 5


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram; `percent` is its share of all, as a short text."""

    score: int
    x: float
    y: float
    width: float
    height: float
    middle: float
    count: int
    percent: str


def histogram(counts: Sequence[int]) -> list[Bar]:
    """Return a bar for each score from 1. A score that was given at all shows, however seldom."""
    total, most = sum(counts), max(counts)
    bars = []
    for position, count in enumerate(counts):
        height = max(2.0, _PLOT * count / most) if count else 0.0
        bars.append(Bar(position + 1, position * _SLOT + (_SLOT - _BAR) / 2, round(BASELINE - height, 1), _BAR,
                        round(height, 1), position * _SLOT + _SLOT / 2, count, short_percent(count, total)))
    return bars


def place_of(score: float) -> float:
    """Return where a score stands on a histogram's axis."""
    return round((score - 0.5) * _SLOT, 1)


def short_percent(count: int, total: int) -> str:
    """Return a share in percent as at most three characters, "" for none of all."""
    if not count:
        return ""
    percent = 100 * count / total
    return "<1" if percent < 0.5 else f"{percent:.0f}"


@dataclass(frozen=True)
class Cell:
    """A field of the grid of two scores; `level` 0 is empty, 5 the fullest."""

    x: int
    y: int
    overall: int
    weighted: int
    count: int
    level: int
    percent: str


def heat(grid: Sequence[Sequence[int]]) -> list[Cell]:
    """Return the fields: overall upwards, weighted to the right. Levels go by the square root, so that few show."""
    total, most = sum(map(sum, grid)), max(map(max, grid))
    cells = []
    for row, counts in enumerate(grid):
        for column, count in enumerate(counts):
            level = math.ceil(HEAT_LEVELS * math.sqrt(count / most)) if count else 0
            cells.append(Cell(MARGIN + column * CELL, (len(grid) - 1 - row) * CELL, row + 1, column + 1, count, level,
                              short_percent(count, total)))
    return cells


@dataclass(frozen=True)
class Segment:
    """A part of a bar that is 100 wide."""

    kind: str
    x: float
    width: float


def stacked(parts: Sequence[tuple[str, int]]) -> list[Segment]:
    """Return the parts beside each other; a part that is not empty is wide enough to be seen."""
    total = sum(count for _, count in parts) or 1
    widths = [max(0.8, 100 * count / total) if count else 0.0 for _, count in parts]
    scale, x, segments = 100 / (sum(widths) or 1), 0.0, []
    for (kind, _), width in zip(parts, widths, strict=True):
        if width:
            segments.append(Segment(kind, round(x, 2), round(width * scale, 2)))
        x += width * scale
    return segments
