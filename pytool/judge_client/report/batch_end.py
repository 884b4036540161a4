"""What a batch said of itself when it was complete: RESULTS.summary.json, beside its results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from judge_client.batch.summary import summary_path

MAX_BYTES: Final = 4 << 20
MAX_CANARIES: Final = 50


@dataclass(frozen=True)
class Canary:
    """A known answer that was judged with the others, `asked` times: the scores it got, and how often wrong ones."""

    name: str
    expect: str
    asked: int
    scores: tuple[int, ...]
    wrong: int


@dataclass(frozen=True)
class BatchEnd:
    """How a batch ended. `floor` is the share of scored items below which it fails; `seconds` are of its last run,
    `resumed` counts the items that earlier runs had judged.
    """

    total: int
    scored: int
    floor: float
    ok: bool
    reason: str | None
    seconds: float
    resumed: int
    canaries: tuple[Canary, ...]
    canaries_ok: bool
    output_sha256: str | None


def read_batch_end(results: Path) -> BatchEnd | None:
    """Return what the summary says; None without one. Raises ValueError for one that cannot be used."""
    try:
        with summary_path(results).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror) from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
    try:
        return _read(json.loads(content))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a batch's summary ({type(error).__name__}: {error})"[:200]) from None


def _read(document: Mapping[str, Any]) -> BatchEnd:
    floor, seconds, reason = document["floor"], document["seconds"], document["reason"]
    for value in (floor, seconds):
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise ValueError("a floor or a time that is no number")
    counts = [document[name] for name in ("total", "scored", "resumed")]
    for value in counts:
        if type(value) is not int or value < 0:
            raise ValueError("a count that is no whole number")
    total, scored, resumed = counts
    digest = document.get("output_sha256")
    return BatchEnd(total, scored, float(floor), bool(document["ok"]), None if reason is None else str(reason),
                    float(seconds), resumed, _canaries(document["canaries"]), bool(document["canaries_ok"]),
                    str(digest) if digest else None)


def _canaries(sightings: Sequence[Mapping[str, Any]]) -> tuple[Canary, ...]:
    """Return the sightings by canary: there is one every few hundred items."""
    found: dict[tuple[str, str], Canary] = {}
    for one in sightings:
        score = one["score"]
        if score is not None and type(score) is not int:
            raise ValueError("a canary's score that is no whole number")
        key = (str(one["name"])[:200], str(one["expect"])[:40])
        if key not in found and len(found) >= MAX_CANARIES:
            continue
        seen = found.get(key, Canary(*key, 0, (), 0))
        scores = seen.scores if score is None else tuple(sorted({*seen.scores, score}))
        # None says that there was no verdict: that is no wrong one.
        found[key] = replace(seen, asked=seen.asked + 1, scores=scores, wrong=seen.wrong + (one["ok"] is False))
    return tuple(found.values())
