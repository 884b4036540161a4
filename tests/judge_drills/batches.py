"""A batch in a process of its own that may be killed: started here, and its output held against what was asked.

    python -m judge_drills.batches URL INPUT OUTPUT WINDOW TIMEOUT_SECONDS

judges INPUT's items as `judge-bootstrap judge batch` does and prints the summary. The server is a stand-in, whose
verdict tells which texts it is on (standin.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_client import AsyncJudgeClient, Reason, Status, Verdict
from judge_client.rubric import CRITERION_NAMES

from .processes import PYTHONPATH
from .standin import digest_of, reasoning_of, scores_of
from .texts import Pair

WINDOW = 32
TIMEOUT_SECONDS = 5.0  # hundreds of times what the stand-in takes


@dataclass(frozen=True)
class Asked:
    """The items of a batch, and the file they stand in."""

    path: Path
    items: list[tuple[str, str, str]]  # id, prompt, response

    @property
    def digests(self) -> dict[str, str]:
        """The id by what stands for the texts in the stand-in's counts."""
        return {digest_of(prompt, response): name for name, prompt, response in self.items}


def write_items(path: Path, pairs: Sequence[Pair], seed: int) -> Asked:
    """Write the items as JSONL, with ids that are in no order."""
    numbers = list(range(len(pairs)))
    random.Random(seed).shuffle(numbers)
    items = [(f"item-{number}", *pair) for number, pair in zip(numbers, pairs, strict=True)]
    path.write_text("".join(json.dumps({"id": name, "original_prompt": prompt, "model_response": response,
                                        "system": f"system of {name}"}) + "\n" for name, prompt, response in items))
    return Asked(path, items)


def start(url: str, asked: Asked, out: Path) -> subprocess.Popen[str]:
    """Start the batch."""
    argv = [sys.executable, "-m", "judge_drills.batches", url, str(asked.path), str(out), str(WINDOW),
            str(TIMEOUT_SECONDS)]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"})


@dataclass
class Found:
    """What is wrong with an output, by kind: each an id or a line's number, with what was found."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    untyped: list[str] = field(default_factory=list)  # neither a verdict that holds to the schema nor a typed reason
    misplaced: list[str] = field(default_factory=list)  # not at its item's place, or another item's verdict
    miscounted: list[str] = field(default_factory=list)  # the summary says otherwise
    reasons: Counter[str] = field(default_factory=Counter)


def check(asked: Asked, out: Path, summary: dict[str, Any]) -> Found:
    """Hold an output and its summary against the items."""
    found = Found()
    lines = out.read_bytes().split(b"\n")
    if lines.pop():
        found.untyped.append("the last line has no end")
    documents = []
    for number, line in enumerate(lines, 1):
        try:
            documents.append(json.loads(line))
        except ValueError as error:
            found.untyped.append(f"line {number}: {error}")
    ids = Counter(str(document.get("id")) for document in documents)
    found.lost = [name for name, _, _ in asked.items if name not in ids]
    found.doubled = [name for name, count in ids.items() if count > 1]
    texts = {name: (index, prompt, response) for index, (name, prompt, response) in enumerate(asked.items)}
    for place, document in enumerate(documents):
        name = str(document.get("id"))
        if name not in texts:
            found.misplaced.append(f"{name}: nobody asked")
            continue
        index, *pair = texts[name]
        if (index, index) != (place, document["index"]) or document["extra"] != {"system": f"system of {name}"}:
            found.misplaced.append(f"{name}: at {place}, index {document['index']}, wanted {index}")
        if [document["original_prompt"], document["model_response"]] != pair:
            found.misplaced.append(f"{name}: other texts")
        problem = _problem(document["verdict"], *pair)
        if problem and problem.startswith("of others"):
            found.misplaced.append(f"{name}: {problem}")
        elif problem:
            found.untyped.append(f"{name}: {problem}")
        found.reasons[str(document["verdict"].get("reason"))] += 1
    statuses = Counter(document["verdict"]["status"] for document in documents)
    counted = {"total": len(asked.items), "scored": statuses["scored"], "unscored": statuses["unscored"],
               "errored": statuses["error"]}
    for what, count in counted.items():
        if summary.get(what) != count:
            found.miscounted.append(f"{what} is {summary.get(what)}, wanted {count}")
    return found


def _problem(document: dict[str, Any], prompt: str, response: str) -> str | None:
    """Return what is wrong with a verdict on these texts; it starts with "of others" when it is on other ones."""
    try:
        verdict = Verdict.from_dict(document)
    except (ValueError, LookupError, TypeError) as error:
        return f"no verdict: {error!r}"
    if verdict.status is not Status.SCORED:
        typed = isinstance(verdict.reason, Reason) and bool(verdict.message)
        return None if typed and verdict.score is None and not verdict.categories else f"no reason: {document}"
    if set(verdict.categories) != set(CRITERION_NAMES) or not all(
            type(score) is int and 1 <= score <= 10 for score in verdict.categories.values()):
        return f"scores {verdict.categories}"
    wanted = scores_of(CRITERION_NAMES, prompt, response)
    if (verdict.categories, verdict.reasoning) != (wanted, reasoning_of(prompt, response)):
        return f"of others: {verdict.reasoning}"
    return None


async def main(url: str, source: str, out: str, window: str, timeout_seconds: str) -> None:
    from judge_client.batch import run_batch

    async with AsyncJudgeClient(url, timeout_seconds=float(timeout_seconds)) as client:
        summary = await run_batch(client, source, out, window=int(window))
    print(json.dumps(summary.to_dict()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
