"""Asking a judge for the scores of gold answers, several times each, and what came of it."""

from __future__ import annotations

import contextlib
import datetime
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from judge_client.calibration.agreement import Pair
from judge_client.calibration.baseline import Baseline
from judge_client.calibration.gold import GoldItem, gold_digest
from judge_client.prompts import fence_of, prompt_digest
from judge_client.rubric import Rubric
from judge_client.verdict import Provenance, Reason, Status, Verdict

if TYPE_CHECKING:
    from judge_client.async_client import AsyncJudgeClient

WINDOW: Final = 16
# A calibration is short: rather begin it again than wait long for a server that went away.
PATIENCE_SECONDS: Final = 60.0
_SOURCE: Final = ("model_root", "repo_id", "model_commit", "manifest_digest", "image")


@dataclass(frozen=True)
class Judged:
    """The verdicts on gold items: `rounds` holds, for each round, those of all items in their order."""

    gold: Sequence[GoldItem]
    rubric: Rubric
    rounds: Sequence[Sequence[Verdict]]

    @property
    def verdicts(self) -> list[Verdict]:
        """Return all verdicts, round by round."""
        return [verdict for one in self.rounds for verdict in one]

    @property
    def coverage(self) -> float:
        """Return the share of judgements that gave a score, from 0 to 1."""
        return self.count(Status.SCORED) / len(self.verdicts)

    def count(self, status: Status) -> int:
        """Return how many judgements ended so."""
        return sum(verdict.status is status for verdict in self.verdicts)

    @property
    def reasons(self) -> dict[str, int]:
        """Return why judgements gave no score, with their counts, the most frequent first."""
        return dict(Counter(str(verdict.reason) for verdict in self.verdicts if verdict.reason).most_common())

    @property
    def suspects(self) -> list[str]:
        """Return the ids of items with a suspect verdict."""
        return [item.id for item, *verdicts in zip(self.gold, *self.rounds, strict=True)
                if any(verdict.suspect for verdict in verdicts)]

    @property
    def sources(self) -> list[dict[str, str | None]]:
        """Return who judged: one entry, unless the model was changed meanwhile or several servers differ."""
        found: dict[tuple[str | None, ...], dict[str, str | None]] = {}
        for verdict in self._scored:
            source = {name: getattr(verdict.provenance, name, None) for name in _SOURCE}
            # The place that a model was loaded from is told apart from its commit, and may be unknown for a while.
            weights = source["model_commit"] or source["model_root"] or verdict.model
            found.setdefault((weights, source["manifest_digest"], source["image"]), {"model": verdict.model, **source})
        return list(found.values())

    @property
    def pairs(self) -> list[Pair]:
        """Return the gold scores with those of the first round: what somebody who judges once gets."""
        return [Pair(item.id, item.scores, scores)
                for item, scores in zip(self.gold, self.scores[0], strict=True)]

    @property
    def scores(self) -> list[list[Mapping[str, int] | None]]:
        """Return the scores by round and item, None where there is no verdict."""
        return [[dict(verdict.categories) if verdict.status is Status.SCORED else None for verdict in one]
                for one in self.rounds]

    @property
    def by_item(self) -> dict[str, dict[str, list[int]]]:
        """Return the scores of all rounds by item and criterion, without items that have none."""
        found = {}
        for item, *rounds in zip(self.gold, *self.scores, strict=True):
            given = [scores for scores in rounds if scores is not None]
            if given:
                found[item.id] = {name: [scores[name] for scores in given] for name in self.rubric.names}
        return found

    @property
    def _scored(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.status is Status.SCORED]

    def baseline(self, gold_name: str) -> Baseline:
        """Return these scores as an accepted calibration. Raises ValueError when there are none."""
        from judge_client import __version__

        provenance: Provenance | None = next((one.provenance for one in self._scored), None)
        if provenance is None:
            raise ValueError("no judgement gave a score, so there is nothing to accept")
        sources: dict[str, Any] = self.sources[0]
        return Baseline(
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), client_version=__version__,
            **sources, prompt_sha256=prompt_digest(self.rubric), rubric=self.rubric.name,
            rubric_sha256=self.rubric.digest, gold=gold_name, gold_sha256=gold_digest(self.gold),
            sampling=dict(provenance.sampling), rounds=len(self.rounds), scores=self.by_item)


async def judge_rounds(client: AsyncJudgeClient, gold: Sequence[GoldItem], rounds: int, *, window: int = WINDOW,
                       progress: Callable[[int], None] | None = None) -> Judged:
    """Return the verdicts of the client's judge on every item, `rounds` times.

    The first round is what anybody asks. In the others the code of the marker lines is another one (fence_of_round):
    what then changes in a score is owed to nothing in the texts. `progress` is told after each verdict how many there
    are. Failures are verdicts, as everywhere in this package.
    """
    from judge_client.batch.crew import Crew

    def ask(judge: AsyncJudgeClient, work: tuple[int, int]) -> Awaitable[Verdict]:
        item = gold[work[1]]
        return judge.judge(item.original_prompt, item.model_response, fence=fence_of_round(item, work[0]))

    def gone(_work: tuple[int, int]) -> Verdict:
        return Verdict(Status.ERROR, reason=Reason.SERVER_UNREACHABLE,
                       message=f"not asked: the server has been gone for more than {PATIENCE_SECONDS:g} s")

    crew = Crew(client, ask, window=window, patience_seconds=PATIENCE_SECONDS, gone=gone)
    found: dict[tuple[int, int], Verdict] = {}
    # Round after round: were an item asked twice at once, the server might answer both from one computation.
    works = [(number, place) for number in range(rounds) for place in range(len(gold))]
    async with contextlib.aclosing(crew.run(works)) as answers:
        async for work, verdict in answers:
            found[work] = verdict
            if progress is not None:
                progress(len(found))
    return Judged(gold, client.rubric, [[found[number, place] for place in range(len(gold))]
                                        for number in range(rounds)])


def fence_of_round(item: GoldItem, number: int) -> str | None:
    """Return the code of the marker lines in a round, from 0; None for the first, which is the client's own.

    It follows from the item, so that a later calibration asks the same and is compared without this noise.
    """
    if number == 0:
        return None
    return fence_of(item.original_prompt, item.model_response, salt=f"round {number}")
