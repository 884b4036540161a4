"""A batch from file to file: asked, kept in the journal, written in order, summed up.

What may happen to it: the same command goes on after a kill, Ctrl-C, a full disk or a server that stayed away. Items
that ended as `error` are then asked again, because the judge never saw them; those that are `unscored` only on request
(`retry_failed`), because the judge answered, and would most likely do so again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from judge_client.async_client import AsyncJudgeClient
from judge_client.batch.breaker import PATIENCE_SECONDS
from judge_client.batch.canaries import CANARIES, Canary, Sighting, are_ok, drift, sightings
from judge_client.batch.crew import Crew, ServerGone
from judge_client.batch.items import Item, PairItem, read_items
from judge_client.batch.journal import Journal, journal_path
from judge_client.batch.output import Output
from judge_client.batch.problems import BatchStopped, unwritable
from judge_client.batch.progress import Pace, Progress
from judge_client.batch.summary import Kind, Summary, load_summary, save_summary, summary_path
from judge_client.batch.survey import Survey, check_unchanged, survey
from judge_client.errors import InputProblem
from judge_client.exchange import Failure
from judge_client.judging import ServedModel
from judge_client.pair_prompts import pair_prompt_digest
from judge_client.pairs import Comparison
from judge_client.prompts import prompt_digest
from judge_client.verdict import Reason, Status, Verdict
from judge_client.votes import check_votes

WINDOW: Final = 32
FLOOR: Final = 0.95
CANARY_EVERY: Final = 1000
_TELL_SECONDS: Final = 0.25
# What all later items would end with, too: so many in a row stop a batch.
_HOPELESS: Final = frozenset({Reason.SERVER_DENIED, Reason.WRONG_MODEL_SERVED})
_HOPELESS_IN_A_ROW: Final = 3
# The same for any other failure of the server: fewer may be the faults of single items.
_LEAST_IN_A_ROW: Final = 32
_GO_ON: Final = "the same command again: it goes on"


@dataclass(frozen=True, slots=True)
class _Work:
    """An item with its index, or a canary with the number of items before it."""

    index: int
    what: Item | PairItem | Canary


async def run_batch(
    client: AsyncJudgeClient,
    input_path: Path | str,
    out_path: Path | str,
    *,
    pairs: bool = False,
    votes: int = 1,
    window: int = WINDOW,
    floor: float = FLOOR,
    canaries: Sequence[Canary] = CANARIES,
    canary_every: int = CANARY_EVERY,
    texts: bool = True,
    retry_failed: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Judge the items of a file (see items.py) into the JSONL file `out_path`, and return how it went.

    With `pairs` two responses each are compared. Up to `window` requests are in flight. `canaries` are asked at the
    start, every `canary_every` items and at the end. Fewer than the share `floor` scored, or canaries that drift, make
    a summary that is not ok; no verdict is changed for them. Without `texts` the judged texts are left out of the
    output. `retry_failed` asks the items without a score again, also of an output that is complete. A server that is
    gone is waited for, `patience_seconds` at most. `progress` is called a few times a second.

    An output that is complete, and of this very batch, is left alone: its summary is returned, held against `floor`.

    Raises InputProblem for what must be changed first (ITEMS_UNUSABLE, OUTPUT_EXISTS, JOURNAL_MISMATCH,
    OUTPUT_IN_USE), BatchStopped when it could not go on (what it has is kept), and ValueError for options out of range.
    """
    if pairs and votes != 1:
        raise ValueError("votes are for single responses: both orders of a pair are its two votes")
    check_votes(votes)
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is {floor!r}, wanted a share from 0 to 1")
    if type(canary_every) is not int or canary_every < 1:
        raise ValueError(f"canary_every is {canary_every!r}, wanted a whole number, 1 or more")
    source, out = Path(input_path), Path(out_path)
    found = await survey(source, pairs)
    judging = client.judging
    binding = {
        "kind": "comparisons" if pairs else "judgements", "input_sha256": found.sha256, "items": found.total,
        "prompt_sha256": pair_prompt_digest(judging.rubric) if pairs else prompt_digest(judging.rubric),
        "rubric_sha256": judging.rubric.digest, "votes": votes, "texts": texts, **judging.settings}
    done = _complete(out, binding, judging.model, retry_failed)
    if done is not None:
        return _held_against(floor, done, out)
    served = await _served(client)
    # A model is its commit, where that is known: names are given to other ones, too.
    binding |= {"model": served.name, "model_version": served.commit or served.root}
    batch = _Batch(client, source, out, found, binding, served, floor=floor, canaries=tuple(canaries),
                   canary_every=canary_every, progress=progress)
    try:
        batch.open(retry_failed)
        return await batch.run(window, patience_seconds)
    finally:
        batch.close()


def _complete(out: Path, binding: Mapping[str, Any], model: str | None, retry_failed: bool) -> Summary | None:
    """Return the summary of an output that is complete and this batch's; None if there is something to do.

    Raises InputProblem for an output that is there and not provably ours.
    """
    with suppress(OSError):
        if journal_path(out).stat().st_size:
            return None
    try:
        if not out.exists() or (out.is_file() and not out.stat().st_size):
            return None
        if not out.is_file():
            raise InputProblem(f"{out} is no regular file, wanted a name for one", reason="OUTPUT_EXISTS",
                               hint="give another --out")
    except OSError as error:
        raise unwritable(out, error) from None
    summary = load_summary(out)
    if summary is None or not summary.output_sha256:
        raise _exists(out, "and nothing says that a batch wrote it")
    other = [name for name in binding if summary.batch.get(name) != binding[name]]
    if model is not None and summary.batch.get("model") != model:
        other.append("model")
    if other:
        raise _exists(out, f"of a batch with another {_words(other)}")
    try:
        with out.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unwritable(out, error) from None
    if digest != summary.output_sha256:
        raise _exists(out, "and was changed since a batch wrote it")
    return None if retry_failed and summary.failed else summary


def _held_against(floor: float, done: Summary, out: Path) -> Summary:
    """Return the summary of a complete output by the floor that is asked for now, and keep it."""
    if floor == done.floor:
        return done
    reason, message = _outcome(done.scored, done.total, floor, done.canaries)
    summary = replace(done, floor=floor, reason=reason, message=message)
    _save(summary, out)
    return summary


def _outcome(scored: int, total: int, floor: float, seen: Sequence[Sighting]) -> tuple[str | None, str]:
    """Return the code of what fails a batch (None: nothing does), and how it went in a sentence."""
    message = f"{scored} of {total} items are scored"
    if scored / total < floor:
        return "COVERAGE_LOW", f"{message} ({scored / total:.1%}), wanted at least {floor:.1%}"
    return (None, message) if are_ok(seen) else ("CANARY_DRIFT", drift(seen))


def _save(summary: Summary, out: Path) -> None:
    try:
        save_summary(summary, out)
    except OSError as error:
        raise unwritable(summary_path(out), error) from None


def _exists(out: Path, how: str) -> InputProblem:
    return InputProblem(f"{out} is there already, {how}: it is not overwritten", reason="OUTPUT_EXISTS",
                        hint="give another --out, or move it away")


def _words(names: Sequence[str]) -> str:
    return ", ".join(name.removesuffix("_sha256").replace("_", " ") for name in names)


async def _served(client: AsyncJudgeClient) -> ServedModel:
    """Return the model that judges. Raises BatchStopped: nothing could be asked of it."""
    try:
        return await client.hold(client.judging.served_model())
    except Failure as failure:
        raise BatchStopped(failure.message, reason=failure.reason) from None


class _Batch:
    """One run of a batch."""

    def __init__(self, client: AsyncJudgeClient, source: Path, out: Path, found: Survey, binding: Mapping[str, Any],
                 served: ServedModel, *, floor: float, canaries: tuple[Canary, ...], canary_every: int,
                 progress: Callable[[Progress], None] | None) -> None:
        self._client, self._source, self._out, self._found = client, source, out, found
        self._binding, self._served, self._floor = binding, served, floor
        self._canaries, self._canary_every, self._progress = canaries, canary_every, progress
        self._pairs = binding["kind"] == "comparisons"
        self._journal: Journal | None = None
        self._output: Output | None = None
        self._resumed = 0
        self._requests_before = 0
        self._started = time.monotonic()
        self._pace = Pace()
        self._errors_in_a_row = 0
        self._has_answered = False

    # --- begin and end -----------------------------------------------------------------------------------------

    def open(self, retry_failed: bool) -> None:
        """Open journal and output, and take over what an earlier run left."""
        path = journal_path(self._out)
        self._journal = journal = Journal.open(path, self._found.total)
        if not journal.binding:
            # Only now is nobody else at it.
            if self._out.exists() and self._out.stat().st_size:
                if _complete(self._out, self._binding, self._served.name, retry_failed):
                    raise _exists(self._out, "and complete")
                summary = load_summary(self._out)
                # Scores that were given while the judge drifted stay in the output, and so does the drift.
                seen = [one.to_dict() for one in summary.canaries] if summary else []
                journal.replace(self._binding, self._written(path), seen)
            else:
                journal.begin(self._binding)
            summary_path(self._out).unlink(missing_ok=True)
        elif other := [name for name in self._binding if journal.binding.get(name) != self._binding[name]]:
            journal.close()
            self._journal = None
            raise InputProblem(f"{path} is of a batch with another {_words(other)}", reason="JOURNAL_MISMATCH",
                               hint=f"give another --out, or begin anew: rm {path} {self._out}")
        journal.forget([Status.ERROR, Status.UNSCORED] if retry_failed else [Status.ERROR])
        self._resumed, self._requests_before = journal.done, journal.requests
        self._has_answered = journal.done > 0
        self._output = Output(self._out, journal)
        self._output.go_on()

    def _written(self, path: Path) -> Iterator[tuple[int, Status, str | None, bool, int, bytes]]:
        """Yield the lines of a complete output as records: its sha256 said that they are ours."""
        with self._out.open("rb") as file:
            for index, line in enumerate(file):
                document = json.loads(line)
                answer = document["comparison" if self._pairs else "verdict"]
                yield (index, Status(answer["status"]), answer["reason"], answer["suspect"], answer["requests"],
                       line.rstrip(b"\n"))

    def close(self) -> None:
        """Close the files; the journal stays unless the batch is whole, or never began."""
        if self._output is not None:
            self._output.close()
        if self._journal is not None:
            if self._journal.binding:
                self._journal.close()
            else:
                self._journal.remove()

    async def run(self, window: int, patience_seconds: float) -> Summary:
        """Ask for what is left, and return how the whole batch went."""
        assert self._journal is not None and self._output is not None
        crew: Crew[_Work, Verdict | Comparison] = Crew(self._client, self._ask, window=window,
                                                       patience_seconds=patience_seconds)
        stop_after = max(_LEAST_IN_A_ROW, window)
        telling = asyncio.create_task(self._tell_often(crew))
        try:
            self._output.catch_up()
            async with aclosing(crew.run(self._works())) as answers:
                async for work, answer in answers:
                    self._check_model(answer)
                    self._keep(work, answer)
                    self._check(answer, stop_after)
                    self._output.catch_up()
        except ServerGone:
            raise BatchStopped(
                f"{self._client.judging.root_url} has been gone for more than {patience_seconds:g} s; {self._kept()}",
                reason=Reason.SERVER_UNREACHABLE, hint=_GO_ON) from None
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        self._tell(crew)
        return self._end(crew, window)

    def _end(self, crew: Crew[_Work, Verdict | Comparison], window: int) -> Summary:
        assert self._journal is not None and self._output is not None
        journal, total = self._journal, self._found.total
        by_status = Counter[Status]()
        reasons = Counter[str]()
        for (status, reason), count in journal.tally.items():
            by_status[status] += count
            if reason is not None and count:
                reasons[reason] += count
        seen = sightings(journal.canaries)
        reason, message = _outcome(by_status[Status.SCORED], total, self._floor, seen)
        first = journal.first(Status.SCORED)
        answer = {} if first is None else json.loads(journal.line(first))["comparison" if self._pairs else "verdict"]
        kind: Kind = "comparisons" if self._pairs else "judgements"
        summary = Summary(
            kind=kind, total=total, scored=by_status[Status.SCORED], unscored=by_status[Status.UNSCORED],
            errored=by_status[Status.ERROR], floor=self._floor, suspects=journal.suspects, canaries=seen,
            canaries_ok=are_ok(seen), seconds=round(time.monotonic() - self._started, 3), resumed=self._resumed,
            reasons=dict(sorted(reasons.items())), reason=reason, message=message, model=self._served.name,
            provenance=answer.get("provenance"), requests=journal.requests - self._requests_before, window=window,
            window_low=crew.window.lowest, batch=self._binding, output_sha256=self._output.finish())
        _save(summary, self._out)
        journal.remove()
        self._journal = None
        return summary

    # --- between -----------------------------------------------------------------------------------------------

    async def _works(self) -> AsyncIterator[_Work]:
        assert self._journal is not None
        total = self._found.total
        for canary in self._canaries:
            yield _Work(0, canary)
        asked = 0
        for index, item in enumerate(read_items(self._source, self._pairs)):
            if not index % 256:
                await asyncio.sleep(0)  # many may be there already, and the requests in flight need their turn
            if index >= total:
                break
            if self._journal.has(index):
                continue
            if asked and not asked % self._canary_every:
                for canary in self._canaries:
                    yield _Work(index, canary)
            asked += 1
            yield _Work(index, item)
        check_unchanged(self._source, self._found)
        for canary in self._canaries:
            yield _Work(total, canary)

    async def _ask(self, client: AsyncJudgeClient, work: _Work) -> Verdict | Comparison:
        what = work.what
        if isinstance(what, PairItem):
            return await client.compare(what.original_prompt, what.response_a, what.response_b)
        votes = self._binding["votes"] if isinstance(what, Item) else 1
        return await client.judge(what.original_prompt, what.model_response, votes=votes)

    def _keep(self, work: _Work, answer: Verdict | Comparison) -> None:
        assert self._journal is not None
        what = work.what
        if isinstance(what, Canary):
            score = answer.score if isinstance(answer, Verdict) else None
            self._journal.append_canary(answer.status, answer.reason, answer.requests, Sighting(
                what.name, what.expect, score, None, work.index).to_dict())
            return
        self._journal.append(work.index, answer.status, answer.reason, answer.suspect, answer.requests,
                             _line(work.index, what, answer, self._binding["texts"]))

    def _check_model(self, answer: Verdict | Comparison) -> None:
        """Raise BatchStopped for an answer of another model than the one that the batch began with: none is kept."""
        provenance = answer.provenance
        if (self._served.commit and provenance is not None and provenance.model_commit
                and provenance.model_commit != self._served.commit):
            raise BatchStopped(
                f"the server was given another model: {provenance.model_commit} answers, the batch began with "
                f"{self._served.commit}; {self._kept()}", reason=Reason.WRONG_MODEL_SERVED,
                hint="begin anew with another --out")

    def _check(self, answer: Verdict | Comparison, stop_after: int) -> None:
        """Raise BatchStopped when all that is left would fail, too."""
        if answer.status is not Status.ERROR:
            self._has_answered = True
        # A refusal is the item's own fault, unless this server has never answered anything.
        if answer.status is not Status.ERROR or (answer.reason is Reason.REQUEST_REFUSED and self._has_answered):
            self._errors_in_a_row = 0
            return
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= (_HOPELESS_IN_A_ROW if answer.reason in _HOPELESS else stop_after):
            raise BatchStopped(f"{self._errors_in_a_row} answers in a row failed, the last with {answer.message}; "
                               f"{self._kept()}", reason=str(answer.reason), hint=_GO_ON)

    def _kept(self) -> str:
        assert self._journal is not None
        return f"{self._journal.done} of {self._found.total} items are kept"

    # --- progress ----------------------------------------------------------------------------------------------

    async def _tell_often(self, crew: Crew[_Work, Verdict | Comparison]) -> None:
        while True:
            self._tell(crew)
            await asyncio.sleep(_TELL_SECONDS)

    def _tell(self, crew: Crew[_Work, Verdict | Comparison]) -> None:
        assert self._journal is not None
        journal, total = self._journal, self._found.total
        rate = self._pace.rate(journal.done)
        if self._progress is None:
            return
        by_status = Counter[Status]()
        for (status, _), count in journal.tally.items():
            by_status[status] += count
        seen = sightings(journal.canaries)
        gone = crew.breaker.gone_since
        self._progress(Progress(
            done=journal.done, total=total, scored=by_status[Status.SCORED], unscored=by_status[Status.UNSCORED],
            errored=by_status[Status.ERROR], suspects=journal.suspects, resumed=self._resumed, rate=rate,
            remaining_seconds=(total - journal.done) / rate if rate else None, in_flight=crew.window.in_flight,
            limit=crew.window.limit, ceiling=crew.window.ceiling,
            gone_seconds=None if gone is None else time.monotonic() - gone,
            warning=drift(seen) if any(one.ok is False for one in seen) else None))


def _line(index: int, item: Item | PairItem, answer: Verdict | Comparison, texts: bool) -> bytes:
    """Return an item's line of the output, without its end."""
    document: dict[str, Any] = {"id": item.id, "index": index}
    if texts and isinstance(item, Item):
        document |= {"original_prompt": item.original_prompt, "model_response": item.model_response}
    elif texts and isinstance(item, PairItem):
        document |= {"original_prompt": item.original_prompt, "response_a": item.response_a,
                     "response_b": item.response_b}
    document |= {"extra": item.extra, "verdict" if isinstance(answer, Verdict) else "comparison": answer.to_dict()}
    try:
        return json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
        return json.dumps(document).encode()
