"""How far a judge's scores agree with gold scores, by criterion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judge_client.calibration import statistics
from judge_client.calibration.gold import GoldItem
from judge_client.calibration.statistics import CONFIDENCE, RESAMPLES, need_statistics


@dataclass(frozen=True)
class Pair:
    """The gold scores of an item and the judge's, by criterion; `judge` is None where it gave no verdict."""

    id: str
    gold: Mapping[str, int]
    judge: Mapping[str, int] | None


@dataclass
class Matched:
    """Pairs for the gold items that were judged; and the records left out: not in the gold set, or of another text."""

    pairs: list[Pair] = field(default_factory=list)
    unknown: int = 0
    other_text: int = 0


def pairs_of(gold: Iterable[GoldItem], records: Iterable[Mapping[str, Any]]) -> Matched:
    """Return the pairs of a gold set and the lines of a batch's output, as JSON gives them; matched by id.

    Of several records with one id the first counts. A record with texts is matched only when they are the gold item's:
    a number as an id means nothing.
    """
    items = {item.id: item for item in gold}
    found = Matched()
    for record in records:
        item = items.pop(str(record.get("id")), None)
        if item is None:
            found.unknown += 1
            continue
        if any(record.get(name, getattr(item, name)) != getattr(item, name)
               for name in ("original_prompt", "model_response")):
            found.other_text += 1
            items[item.id] = item
            continue
        verdict = record.get("verdict")
        verdict = verdict if isinstance(verdict, Mapping) else {}
        given = verdict.get("categories") if verdict.get("status") == "scored" else None
        found.pairs.append(Pair(item.id, item.scores, dict(given) if isinstance(given, Mapping) else None))
    return found


def agreement(pairs: Sequence[Pair], names: Sequence[str]) -> dict[str, Any]:
    """Return how far the judge agrees with the gold scores, as plain values that JSON can hold.

    `items` counts the pairs, `scored` those with a verdict, `coverage` is their share; what has no verdict is left out,
    never counted as a score. `criteria` has for each of `names` the number of `items` with both scores, and four
    Estimate.to_dict(): `spearman`, `kappa` (quadratic weights), `mean_absolute_error` and `mean_error` (judge - gold,
    above 0 where the judge is generous), in points. Raises InputProblem EVALUATION_MISSING without scipy.
    """
    need_statistics()
    scored = [pair for pair in pairs if pair.judge is not None]
    return {
        "items": len(pairs), "scored": len(scored), "coverage": round(len(scored) / len(pairs), 4) if pairs else None,
        "confidence": CONFIDENCE, "resamples": RESAMPLES,
        "criteria": {name: _criterion(scored, name) for name in names}}


def _criterion(pairs: Sequence[Pair], name: str) -> dict[str, Any]:
    both = [(pair.gold[name], pair.judge[name]) for pair in pairs
            if pair.judge is not None and name in pair.gold and name in pair.judge]
    gold, judge = [one for one, _ in both], [other for _, other in both]
    errors = [other - one for one, other in both]
    return {
        "items": len(both),
        "spearman": statistics.spearman(gold, judge).to_dict(),
        "kappa": statistics.weighted_kappa(gold, judge).to_dict(),
        "mean_absolute_error": statistics.mean([abs(error) for error in errors]).to_dict(),
        "mean_error": statistics.mean(errors).to_dict()}
