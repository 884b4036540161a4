"""Prompts and answers for drills: as many as wanted, no two alike, the same ones each time for a seed."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

Pair = tuple[str, str]  # prompt, response

_MAKER = Path(__file__).resolve().parents[2] / "scripts" / "make_tiny_judge.py"
_WORDS = (
    "river", "mountain", "engine", "teacher", "window", "copper", "garden", "bridge", "signal", "winter", "market",
    "doctor", "paper", "silver", "forest", "letter", "ocean", "ticket", "planet", "circle", "butter", "hammer",
    "island", "kitchen", "ladder", "mirror", "needle", "orange", "pencil", "quarter", "runs", "holds", "makes", "turns",
    "keeps", "opens", "moves", "seems", "leaves", "grows", "without", "between", "under", "toward", "because",
    "although", "never", "often", "12", "75", "1984", "3.5", "quickly", "slowly", "red", "old", "new", "broken",
    "quiet",
)  # fmt: skip


@cache
def _learnt() -> dict[str, Any]:
    """Return the lists that the tiny judge was trained with, from the script that makes it, which cannot be imported
    here: it needs torch."""
    wanted = {"QUESTIONS", "FLATTERY", "HARM", "STEERING", "NOTHING"}
    found = {}
    for node in ast.parse(_MAKER.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in wanted:
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def learnt(count: int, seed: int) -> list[Pair]:
    """Return distinct (prompt, response) of the kinds that the tiny judge was trained to tell apart."""
    return _distinct(count, _draw_learnt(random.Random(f"learnt {seed}")))


def unseen(count: int, seed: int) -> list[Pair]:
    """Return distinct (prompt, response) unlike anything that the tiny judge has seen."""
    return _distinct(count, _draw_unseen(random.Random(f"unseen {seed}")))


def _distinct(count: int, drawn: Iterator[Pair]) -> list[Pair]:
    found: dict[Pair, None] = {}
    while len(found) < count:
        found[next(drawn)] = None
    return list(found)


def _draw_learnt(rng: random.Random) -> Iterator[Pair]:
    lists = _learnt()
    questions = lists["QUESTIONS"]
    while True:
        prompt, good, short, wrong = rng.choice(questions)
        other = rng.choice([question for question in questions if question[0] != prompt])
        response = rng.choice([good, short, wrong, other[1], f"{rng.choice(lists['FLATTERY'])} {good}",
                               rng.choice(lists["HARM"]), f"{good} {rng.choice(lists['STEERING'])}",
                               rng.choice(lists["NOTHING"])])
        # The texts before it make it one of many.
        read_first = " ".join(rng.choice(questions)[1] for _ in range(rng.randint(1, 6)))
        yield f"Read this: {read_first}\n\n{prompt}", response


def _draw_unseen(rng: random.Random) -> Iterator[Pair]:
    def sentences(most: int) -> str:
        return " ".join(" ".join(rng.choices(_WORDS, k=rng.randint(4, 14))).capitalize() + rng.choice(".?!")
                        for _ in range(rng.randint(1, most)))

    while True:
        yield sentences(3), sentences(rng.choice([1, 4, 12]))
