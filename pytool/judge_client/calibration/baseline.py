"""An accepted calibration in a file, and whether a judge still gives the scores that were accepted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from judge_client.calibration import statistics
from judge_client.calibration.statistics import FEWEST_FOR_INTERVALS, Estimate, need_statistics
from judge_client.errors import InputProblem
from judge_client.files import read_whole, write_whole
from judge_client.rubric import HIGHEST, LOWEST

KIND: Final = "judge-calibration"
SCHEMA: Final = 1
UNUSABLE: Final = "BASELINE_UNUSABLE"
AGAIN: Final = "judge-bootstrap judge calibrate ... --accept FILE   # accepts the scores of the judge that runs now"
LARGEST_BYTES: Final = 256 * 1024 * 1024
# A judge whose mean holds may still give other items the points: on average a score may lie this many tolerances away.
DISTANCE_TOLERANCES: Final = 2

# Item id -> criterion -> its score in each round that gave a verdict.
Rounds = Mapping[str, Mapping[str, Sequence[int]]]


@dataclass(frozen=True)
class Baseline:
    """Accepted scores, and which judge gave them with which prompts; None is what the server did not say.

    `time` is UTC. `gold_sha256` is gold_digest() of the items.
    """

    time: str
    client_version: str
    model: str | None
    model_root: str | None
    repo_id: str | None
    model_commit: str | None
    manifest_digest: str | None
    image: str | None
    prompt_sha256: str
    rubric: str
    rubric_sha256: str
    gold: str
    gold_sha256: str
    sampling: Mapping[str, Any]
    rounds: int
    scores: Rounds

    def check_same(self, path: Path | str, *, prompt_sha256: str, rubric_sha256: str, gold_sha256: str) -> None:
        """Raise InputProblem BASELINE_UNUSABLE unless the scores were given for the same question."""
        asked = {"prompts": (self.prompt_sha256, prompt_sha256), "rubric": (self.rubric_sha256, rubric_sha256),
                 "gold set": (self.gold_sha256, gold_sha256)}
        other = [what for what, (then, now) in asked.items() if then != now]
        if other:
            raise InputProblem(
                f"{path} was accepted on {self.time} with another {' and another '.join(other)} (then: rubric "
                f"{self.rubric}, gold set {self.gold}), so its scores say nothing about drift",
                reason=UNUSABLE, hint=AGAIN)


def read_baseline(path: Path | str) -> Baseline:
    """Return an accepted calibration. Raises InputProblem BASELINE_UNUSABLE."""
    path = Path(path)
    try:
        content = read_whole(path, LARGEST_BYTES)
    except ValueError as error:
        raise _problem(path, str(error)) from error
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _problem(path, f"is no baseline of judge calibrate: no JSON ({str(error)[:120]})") from None
    if not isinstance(document, Mapping) or document.get("kind") != KIND:
        raise _problem(path, f"is no baseline of judge calibrate: its kind is not {KIND!r}")
    if type(document.get("schema")) is not int or document["schema"] != SCHEMA:
        raise _problem(path, f"has the schema {str(document.get('schema'))[:20]!r}, wanted {SCHEMA}")
    return _checked(path, document)


def check_place(path: Path | str) -> None:
    """Raise InputProblem OUTPUT_EXISTS unless a baseline may be written there: a new file, or another baseline."""
    path = Path(path)
    if not os.path.lexists(path):
        return
    try:
        read_baseline(path)
    except InputProblem as problem:
        raise InputProblem(f"{problem.message}; it is not written over", reason="OUTPUT_EXISTS",
                           hint="give --accept another file, or remove this one yourself") from problem


def write_baseline(path: Path | str, baseline: Baseline) -> None:
    """Write an accepted calibration: whole or not at all. Raises InputProblem OUTPUT_EXISTS (check_place), OSError."""
    check_place(path)
    # The file that a link leads to: renaming onto the link would part the two.
    write_whole(Path(path).resolve(), baseline_text(baseline))


def baseline_text(baseline: Baseline) -> str:
    """Return a baseline's JSON, with an item a line, so that people see in a diff which ones moved."""
    head = {one.name: getattr(baseline, one.name) for one in fields(baseline) if one.name != "scores"}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}"
             for name, value in {"kind": KIND, "schema": SCHEMA, **head}.items()]
    items = [f"    {json.dumps(name)}: {json.dumps({key: list(value) for key, value in item.items()})}"
             for name, item in sorted(baseline.scores.items())]
    return "{\n" + ",\n".join(lines) + ',\n  "scores": {\n' + ",\n".join(items) + "\n  }\n}\n"


def drift(before: Rounds, now: Rounds, names: Sequence[str], tolerance: float) -> dict[str, Any]:
    """Return whether the judge still gives the accepted scores, item by item, as plain values that JSON can hold.

    Of each item the mean over rounds counts. By criterion there is the mean difference (`mean_difference`: now -
    before) and the mean distance (`mean_distance`, which also sees points that went from some items to others), each an
    Estimate.to_dict() over `items`. It is `drift` when the first one's interval leaves +-`tolerance`, or the second
    one's goes beyond `distance_limit`: `ok` has been shown then, not assumed. `shown` tells whether the whole interval
    lies outside; if not, the items are too few or the judge too unsteady to rule drift out. `verdict` is ok when no
    criterion drifts.
    """
    need_statistics()
    found = {name: _criterion(before, now, name, tolerance) for name in names}
    return {"verdict": "drift" if any(one["drift"] for one in found.values()) else "ok", "tolerance": tolerance,
            "distance_limit": DISTANCE_TOLERANCES * tolerance,
            "items": sum(1 for name in before if name in now), "criteria": found}


def _criterion(before: Rounds, now: Rounds, name: str, tolerance: float) -> dict[str, Any]:
    moved = [_mean(now[item][name]) - _mean(scores[name]) for item, scores in before.items()
             if item in now and scores.get(name) and now[item].get(name)]
    difference, distance = statistics.mean(moved), statistics.mean([abs(one) for one in moved])
    if len(moved) < FEWEST_FOR_INTERVALS:
        why: str | None = f"{len(moved)} items, wanted {FEWEST_FOR_INTERVALS} to tell drift"
        shown = False
    else:
        why, shown = _judged(difference, distance, tolerance)
    return {"items": len(moved), "mean_difference": difference.to_dict(), "mean_distance": distance.to_dict(),
            "drift": why is not None, "shown": shown, "why": why}


def _judged(difference: Estimate, distance: Estimate, tolerance: float) -> tuple[str | None, bool]:
    """Return why it is drift (None: it is not), and whether that is beyond doubt."""
    low, high = _ends(difference)
    least, most = _ends(distance)
    limit = DISTANCE_TOLERANCES * tolerance
    if low > tolerance or high < -tolerance:
        return f"moved by {difference.value:+.2f} points, from {low:+.2f} to {high:+.2f}", True
    if least > limit:
        return f"scores are {distance.value:.2f} points away on average, from {least:.2f} to {most:.2f}", True
    if low < -tolerance or high > tolerance:
        return f"may have moved by more than {tolerance:g} points: from {low:+.2f} to {high:+.2f}", False
    if most > limit:
        return f"scores may be more than {limit:g} points away on average: from {least:.2f} to {most:.2f}", False
    return None, False


def _ends(estimate: Estimate) -> tuple[float, float]:
    """Return the interval; where all items moved alike there is none, and the value is all that can be seen."""
    assert estimate.value is not None
    if estimate.low is None or estimate.high is None:
        return estimate.value, estimate.value
    return estimate.low, estimate.high


def _mean(scores: Sequence[int]) -> float:
    return sum(scores) / len(scores)


def _checked(path: Path, document: Mapping[str, Any]) -> Baseline:
    values = {}
    for one in fields(Baseline):
        if one.name not in document:
            raise _problem(path, f"has no {one.name}")
        values[one.name] = document[one.name]
        text, optional = one.type == "str", one.type == "str | None"
        if (text or optional) and not (isinstance(values[one.name], str) or (optional and values[one.name] is None)):
            raise _problem(path, f"has a {one.name} that is no text")
    if type(values["rounds"]) is not int or values["rounds"] < 1:
        raise _problem(path, "has rounds that are no number from 1")
    if not isinstance(values["sampling"], Mapping):
        raise _problem(path, "has a sampling that is no object")
    scores = values["scores"]
    if not isinstance(scores, Mapping) or not scores:
        raise _problem(path, "has no scores")
    for item, criteria in scores.items():
        if not isinstance(criteria, Mapping) or not criteria or not all(map(_are_scores, criteria.values())):
            raise _problem(path, f"has scores of {item[:60]!r} that are no lists of integers from {LOWEST} to "
                                 f"{HIGHEST} by criterion")
    return Baseline(**values)


def _are_scores(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(
        type(score) is int and LOWEST <= score <= HIGHEST for score in value)


def _problem(path: Path | str, found: str) -> InputProblem:
    return InputProblem(f"{path} {found}", reason=UNUSABLE, hint=AGAIN)
