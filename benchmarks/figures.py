"""How a figure is printed: one JSON line each on stdout, and exit code 1 when one falls short (README, "Figures")."""

from __future__ import annotations

import json
import operator
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHOWN_CHARACTERS = 1500
_GOAL = re.compile(r"(<=|>=|==|<|>)\s*([0-9][0-9,]*(?:\.[0-9]+)?)\s*%?")


@dataclass(frozen=True)
class Figure:
    """One measured figure. `goal` is a comparison such as "<= 1.2", ">= 95 %" or "== 0"; `value` has the same unit."""

    name: str
    value: float
    goal: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Tell whether the goal is met. Raises ValueError for a goal that is no comparison."""
        found = _GOAL.fullmatch(self.goal.strip())
        if found is None:
            raise ValueError(f"goal {self.goal!r} is no comparison such as '<= 1.2' or '== 0'")
        sign, number = found.groups()
        wanted = float(number.replace(",", ""))
        return {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt,
                ">": operator.gt}[sign](self.value, wanted)

    def line(self) -> str:
        """Return the figure as its JSON line."""
        return json.dumps({"figure": self.name, "value": self.value, "goal": self.goal, "ok": self.ok,
                           "detail": dict(self.detail)})


def report(*figures: Figure) -> int:
    """Print the figures; return the exit code of the program (1 when one falls short, and says so on stderr)."""
    for figure in figures:
        print(figure.line(), flush=True)
    for figure in figures:
        if not figure.ok:
            said = json.dumps(dict(figure.detail))
            sys.stderr.write(f"SHORT {figure.name}: {figure.value}, wanted {figure.goal}: {said[:SHOWN_CHARACTERS]}\n")
    return 0 if all(figure.ok for figure in figures) else 1


def small() -> bool:
    """Tell whether SCALE=small asks for fewer and smaller runs (never for fewer checks)."""
    return os.environ.get("SCALE", "") == "small"
