"""A batch from file to file: in order, whole, going on where it was cut, and failing for what it should fail for."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes_batch import COMMIT, DOWN, TRUNCATED, FakeJudge, assert_whole, read_lines, scored, write_items
from judge_client.batch import CANARIES, BatchStopped, Progress, Summary, load_summary, run_batch, window
from judge_client.errors import InputProblem
from judge_client.exchange import Answer, Failure
from judge_client.verdict import Verdict

BUSY = Answer(500, "busy")


class Place:
    """A folder with items and the output that is wanted of them."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out = folder / "items.jsonl", folder / "out.jsonl"
        self.journal, self.summary = folder / "out.jsonl.journal", folder / "out.jsonl.summary.json"

    def items(self, count: int, **more: Any) -> list[str]:
        return write_items(self.source, count, **more)

    def run(self, judge: FakeJudge, *, rubric: Any = None, **options: Any) -> Summary:
        settings = {} if rubric is None else {"rubric": rubric}
        return asyncio.run(run_batch(judge.client(**settings), self.source, self.out, **options))

    def cut(self, judge: FakeJudge, answers: int, **options: Any) -> None:
        """Run until the judge has given so many answers, then end it as Ctrl-C does."""
        judge.answers_left = answers

        async def go() -> None:
            batch = asyncio.create_task(run_batch(judge.client(), self.source, self.out, **options))
            while not batch.done() and not (judge.answers_left is not None and judge.answers_left < 0):
                await asyncio.sleep(0.001)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not batch.done()
            batch.cancel()
            await asyncio.gather(batch, return_exceptions=True)

        asyncio.run(go())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_every_item_is_in_the_output_in_order(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "_NEVER_LATE", 60.0)  # a moment in which this machine stands still is no sign of load
    responses = place.items(300, source="exam")
    judge = FakeJudge(seconds=0.001)
    summary = place.run(judge, window=16)
    assert_whole(place.out, responses)
    assert read_lines(place.out)[7]["extra"] == {"source": "exam"}
    assert set(judge.items_asked.values()) == {1}
    assert judge.most == 16
    assert (summary.ok, summary.total, summary.scored, summary.coverage, summary.resumed) == (True, 300, 300, 1.0, 0)
    assert (summary.requests, summary.window, summary.window_low, summary.model) == (304, 16, 16, "judge")
    assert not place.journal.exists()


def test_the_summary_is_beside_the_output_and_says_where_the_scores_came_from(place: Place) -> None:
    place.items(3)
    summary = place.run(FakeJudge(plan=lambda *_: scored(8, commit=COMMIT)), canaries=())
    document = json.loads(place.summary.read_text())
    assert document == json.loads(json.dumps(summary.to_dict()))
    assert (document["schema"], document["kind"], document["ok"], document["reason"]) == (1, "judgements", True, None)
    assert document["provenance"]["model_commit"] == COMMIT
    assert load_summary(place.out) == summary


def test_answers_that_come_in_any_order_are_written_in_that_of_the_items(place: Place) -> None:
    responses = place.items(60)
    late = responses[0]

    class Uneven(FakeJudge):
        async def send(self, request: Any) -> Answer:
            answer = await super().send(request)
            if request.body and late in request.body["messages"][-1]["content"]:
                await asyncio.sleep(0.2)
            return answer

    judge = Uneven()
    place.run(judge, window=4)
    assert_whole(place.out, responses)


def test_a_verdict_of_the_output_reads_back(place: Place) -> None:
    place.items(1)
    place.run(FakeJudge())
    verdict = Verdict.from_dict(read_lines(place.out)[0]["verdict"])
    assert verdict.score == read_lines(place.out)[0]["verdict"]["score"]


def test_without_texts_only_ids_and_verdicts_are_written(place: Place) -> None:
    place.items(2)
    place.run(FakeJudge(), texts=False)
    assert [set(line) for line in read_lines(place.out)] == [{"id", "index", "extra", "verdict"}] * 2


def test_half_a_surrogate_pair_is_written_as_json_says_it(place: Place) -> None:
    place.source.write_text('{"id": "q0", "prompt": "p", "response": "\\ud83d"}\n')
    place.run(FakeJudge())
    assert read_lines(place.out)[0]["model_response"] == "\ud83d"


def test_votes_are_asked_for_each_item_and_not_for_canaries(place: Place) -> None:
    place.items(4)
    judge = FakeJudge()
    summary = place.run(judge, votes=3)
    assert set(judge.items_asked.values()) == {3}
    assert summary.requests == 4 * 3 + 4
    assert [len(line["verdict"]["votes"]) for line in read_lines(place.out)] == [3] * 4


def test_pairs_are_compared_in_both_orders(place: Place) -> None:
    place.source.write_text('{"prompt": "p", "response_a": "Answer b", "response_b": "Answer a"}\n')
    summary = place.run(FakeJudge(), pairs=True)
    line = read_lines(place.out)[0]
    assert (summary.kind, summary.scored, line["response_a"]) == ("comparisons", 1, "Answer b")
    assert (line["comparison"]["winner"], line["comparison"]["consistent"]) == ("a", True)


# --- going on ----------------------------------------------------------------------------------------------------


def test_a_batch_that_was_cut_goes_on_without_a_lost_or_doubled_item(place: Place) -> None:
    responses = place.items(200)
    first, second = FakeJudge(), FakeJudge()
    place.cut(first, 50, window=8)
    assert place.journal.exists()
    kept = len(read_lines(place.out))
    assert 40 <= kept <= 50
    summary = place.run(second)
    assert_whole(place.out, responses)
    assert summary.resumed >= kept
    assert second.items_asked.total() == 200 - summary.resumed
    assert not place.journal.exists()


def test_requests_that_are_in_flight_are_dropped_when_a_batch_is_cut(place: Place) -> None:
    place.items(100)
    judge = FakeJudge()
    place.cut(judge, 10, window=4)
    assert judge.running == 0


def test_an_output_that_lags_behind_its_journal_or_was_changed_is_made_good(place: Place) -> None:
    responses = place.items(100)
    place.cut(FakeJudge(), 30, window=8)
    text = place.out.read_bytes()
    place.out.write_bytes(text[: len(text) // 2].replace(b"Answer number 3.", b"Answer number 4."))
    place.run(FakeJudge())
    assert_whole(place.out, responses)


def test_an_output_that_was_removed_is_written_again_from_the_journal(place: Place) -> None:
    responses = place.items(100)
    place.cut(FakeJudge(), 30, window=8)
    place.out.unlink()
    judge = FakeJudge()
    place.run(judge)
    assert_whole(place.out, responses)
    assert 70 <= judge.items_asked.total() <= 74


def test_errors_are_asked_again_by_the_next_run_and_what_is_unscored_is_not(place: Place) -> None:
    responses = place.items(60)
    plans = {responses[2]: BUSY, responses[3]: TRUNCATED}
    place.cut(FakeJudge(lambda text, _: plans.get(text)), 30, window=4)
    judge = FakeJudge()
    summary = place.run(judge)
    assert (summary.scored, summary.unscored, summary.errored) == (59, 1, 0)
    assert judge.asked[responses[2]] == 1
    assert judge.asked[responses[3]] == 0
    assert [line["id"] for line in read_lines(place.out)] == [f"q{number}" for number in range(60)]


def test_on_request_all_without_a_score_are_asked_again(place: Place) -> None:
    responses = place.items(60)
    place.cut(FakeJudge(lambda text, _: TRUNCATED if text == responses[3] else None), 30, window=4)
    assert place.run(FakeJudge(), retry_failed=True).scored == 60
    assert_whole(place.out, responses)


def test_on_request_a_complete_output_is_mended(place: Place) -> None:
    responses = place.items(40)
    plans = {responses[2]: BUSY, responses[30]: TRUNCATED}
    assert place.run(FakeJudge(lambda text, _: plans.get(text))).scored == 38
    judge = FakeJudge()
    summary = place.run(judge, retry_failed=True)
    assert judge.items_asked == {responses[2]: 1, responses[30]: 1}
    assert (summary.scored, summary.resumed, summary.reasons) == (40, 38, {})
    assert_whole(place.out, responses)


def test_mending_an_output_does_not_forget_that_its_canaries_drifted(place: Place) -> None:
    responses = place.items(40)
    drifted = FakeJudge(lambda text, _: {CANARIES[1].model_response: scored(9), responses[2]: TRUNCATED}.get(text))
    before = place.run(drifted)
    assert before.reason == "CANARY_DRIFT"
    summary = place.run(FakeJudge(), retry_failed=True)
    assert summary.scored == 40
    assert (summary.reason, summary.canaries_ok) == ("CANARY_DRIFT", False)
    assert summary.message == before.message
    assert [one for one in summary.canaries if one.score == 9 and one.expect == "bad"]


def test_a_batch_that_is_complete_is_not_asked_again(place: Place) -> None:
    place.items(5)
    first = place.run(FakeJudge())
    before = place.out.read_bytes()
    down = FakeJudge(is_down=True)
    assert place.run(down) == first
    assert place.run(down, retry_failed=True) == first
    assert place.out.read_bytes() == before


def test_a_complete_output_is_held_against_the_floor_that_is_asked_for_now(place: Place) -> None:
    responses = place.items(20)
    assert place.run(FakeJudge(lambda text, _: TRUNCATED if text == responses[0] else None)).ok
    written = place.out.read_bytes()
    down = FakeJudge(is_down=True)
    strict = place.run(down, floor=0.99)
    assert (strict.ok, strict.reason, strict.floor) == (False, "COVERAGE_LOW", 0.99)
    assert strict.message == "19 of 20 items are scored (95.0%), wanted at least 99.0%"
    assert load_summary(place.out) == strict
    lenient = place.run(down, floor=0.5)
    assert (lenient.ok, lenient.message) == (True, "19 of 20 items are scored")
    assert place.out.read_bytes() == written


def test_an_empty_output_has_nothing_to_lose(place: Place) -> None:
    responses = place.items(3)
    place.out.touch()
    place.run(FakeJudge())
    assert_whole(place.out, responses)


# --- refused -------------------------------------------------------------------------------------------------------


def _refused(place: Place, judge: FakeJudge, **options: Any) -> InputProblem:
    before = {path: path.read_bytes() for path in place.source.parent.iterdir()}
    with pytest.raises(InputProblem) as caught:
        place.run(judge, **options)
    assert {path: path.read_bytes() for path in place.source.parent.iterdir()} == before
    assert judge.items_asked.total() == 0
    assert caught.value.hint
    return caught.value


def test_a_file_that_no_batch_wrote_is_not_overwritten(place: Place) -> None:
    place.items(3)
    place.out.write_text("mine")
    problem = _refused(place, FakeJudge())
    assert problem.reason == "OUTPUT_EXISTS"
    assert "nothing says that a batch wrote it" in problem.message


@pytest.mark.parametrize("text", [
    "mine", "mine\nand more\n", '{"id": "q0"}\n', '["verdict"]\n', "{}", '{"verdict": 3}\n'])
def test_a_file_put_in_the_place_of_an_output_is_not_overwritten(place: Place, text: str) -> None:
    place.items(100)
    place.cut(FakeJudge(), 30, window=8)
    place.out.write_text(text)
    problem = _refused(place, FakeJudge())
    assert problem.reason == "OUTPUT_EXISTS"
    assert "is not what the batch of" in problem.message
    place.out.unlink()
    assert place.run(FakeJudge()).ok


@pytest.mark.parametrize("left", [lambda line: line[:20], lambda line: b"\0" * 50, lambda line: b""])
def test_a_first_line_that_was_cut_as_it_was_written_is_made_good(place: Place, left: Callable[[bytes], bytes]) -> None:
    responses = place.items(100)
    place.cut(FakeJudge(), 30, window=8)
    place.out.write_bytes(left(place.out.read_bytes().splitlines()[0]))
    place.run(FakeJudge())
    assert_whole(place.out, responses)


@pytest.mark.parametrize("options", [{"votes": 3}, {"texts": False}])
def test_the_output_of_another_batch_is_not_overwritten(place: Place, options: dict[str, Any]) -> None:
    place.items(3)
    place.run(FakeJudge())
    problem = _refused(place, FakeJudge(), **options)
    assert problem.reason == "OUTPUT_EXISTS"
    assert f"of a batch with another {next(iter(options))}" in problem.message


def test_an_output_that_was_changed_is_not_overwritten(place: Place) -> None:
    place.items(3)
    place.run(FakeJudge())
    place.out.write_bytes(place.out.read_bytes() + b"{}\n")
    assert "was changed since a batch wrote it" in _refused(place, FakeJudge(), retry_failed=True).message


def test_a_journal_of_other_items_is_not_gone_on_with(place: Place) -> None:
    place.items(100)
    place.cut(FakeJudge(), 20, window=4)
    place.items(100, source="another")
    problem = _refused(place, FakeJudge())
    assert problem.reason == "JOURNAL_MISMATCH"
    assert "another input" in problem.message


def test_a_journal_of_more_items_is_left_as_it_is(place: Place) -> None:
    responses = place.items(100)
    place.cut(FakeJudge(), 20, window=4)
    place.items(3)
    assert "another input, items" in _refused(place, FakeJudge()).message
    place.items(100)
    judge = FakeJudge()
    assert place.run(judge).resumed == 18
    assert judge.items_asked.total() == 82
    assert_whole(place.out, responses)


def test_a_journal_of_another_model_is_not_gone_on_with(place: Place) -> None:
    place.items(100)
    place.cut(FakeJudge(), 20, window=4)
    assert "another model version" in _refused(place, FakeJudge(root="/models/other")).message


def test_a_journal_of_another_rubric_is_not_gone_on_with(place: Place) -> None:
    from dataclasses import replace

    from judge_client import DEFAULT_RUBRIC

    place.items(100)
    place.cut(FakeJudge(), 20, window=4)
    rubric = replace(DEFAULT_RUBRIC, criteria=DEFAULT_RUBRIC.criteria[1:])
    assert "another prompt, rubric" in _refused(place, FakeJudge(), rubric=rubric).message


def test_items_that_cannot_be_read_are_said_before_anything_is_asked(place: Place) -> None:
    place.items(3)
    place.source.write_text(place.source.read_text() + '{"prompt": "p"}\n')
    assert _refused(place, FakeJudge()).reason == "ITEMS_UNUSABLE"


@pytest.mark.parametrize("options", [
    {"votes": 2}, {"votes": 3, "pairs": True}, {"window": 0}, {"floor": 1.5}, {"floor": float("nan")},
    {"canary_every": 0}, {"patience_seconds": -1}])
def test_options_out_of_range_are_refused(place: Place, options: dict[str, Any]) -> None:
    place.items(1)
    if options.get("pairs"):
        place.source.write_text('{"prompt": "p", "response_a": "a", "response_b": "b"}\n')
    with pytest.raises(ValueError, match=r"votes|window|floor|canary_every|patience_seconds"):
        place.run(FakeJudge(), **options)


# --- what fails a batch --------------------------------------------------------------------------------------------


def test_less_than_the_floor_scored_fails_the_batch(place: Place) -> None:
    responses = place.items(20)
    judge = FakeJudge(lambda text, _: TRUNCATED if text in responses[:2] else None)
    summary = place.run(judge)
    assert (summary.ok, summary.reason, summary.coverage) == (False, "COVERAGE_LOW", 0.9)
    assert summary.message == "18 of 20 items are scored (90.0%), wanted at least 95.0%"
    assert summary.reasons == {"REPLY_TRUNCATED": 2}
    assert len(read_lines(place.out)) == 20


def test_exactly_the_floor_is_enough(place: Place) -> None:
    responses = place.items(20)
    assert place.run(FakeJudge(lambda text, _: TRUNCATED if text == responses[0] else None)).ok


def test_canaries_are_asked_at_the_start_after_every_so_many_items_and_at_the_end(place: Place) -> None:
    place.items(50)
    judge = FakeJudge()
    summary = place.run(judge, canary_every=20)
    assert [(one.name, one.score, one.ok, one.position) for one in summary.canaries] == [
        (name, score, True, position) for position in (0, 20, 40, 50)
        for name, score in (("known good", 9), ("known bad", 2))]
    assert summary.canaries_ok


@pytest.mark.parametrize(("canary", "late_score", "said"), [
    (0, 6, "the canary 'known good' got 6 after 40 items, wanted at least 7 and no more than 2 from the 9 it got"),
    (1, 5, "the canary 'known bad' got 5 after 40 items, wanted at most 4 and no more than 2 from the 2 it got first"),
])
def test_canaries_that_drift_fail_the_batch_and_change_no_verdict(
    place: Place, canary: int, late_score: int, said: str
) -> None:
    responses = place.items(40)
    text = CANARIES[canary].model_response
    summary = place.run(FakeJudge(lambda asked, before: scored(late_score) if asked == text and before else None))
    assert (summary.ok, summary.reason, summary.canaries_ok) == (False, "CANARY_DRIFT", False)
    assert said in summary.message
    assert_whole(place.out, responses)


def test_a_canary_that_moves_by_more_than_two_points_drifts_even_where_it_is_good(place: Place) -> None:
    place.items(5)
    text = CANARIES[0].model_response
    summary = place.run(FakeJudge(lambda asked, before: scored(7 if before else 10) if asked == text else None))
    assert summary.reason == "CANARY_DRIFT"


def test_a_canary_without_any_verdict_fails_the_batch(place: Place) -> None:
    place.items(5)
    summary = place.run(FakeJudge(lambda asked, _: TRUNCATED if asked == CANARIES[1].model_response else None))
    assert (summary.reason, summary.message) == ("CANARY_DRIFT", "no canary 'known bad' got a verdict")


def test_the_canaries_of_a_run_that_was_cut_count(place: Place) -> None:
    place.items(60)
    text = CANARIES[0].model_response
    place.cut(FakeJudge(lambda asked, _: scored(10) if asked == text else None), 20, window=4)
    summary = place.run(FakeJudge(lambda asked, _: scored(7) if asked == text else None))
    assert summary.reason == "CANARY_DRIFT"
    assert summary.canaries[0].score == 10


# --- trouble -------------------------------------------------------------------------------------------------------


def test_a_server_that_goes_away_is_waited_for_and_no_item_pays_for_it(place: Place) -> None:
    responses = place.items(100)
    judge = FakeJudge(seconds=0.005)
    seen: list[Progress] = []

    async def go() -> Summary:
        batch = asyncio.create_task(run_batch(judge.client(), place.source, place.out, window=8, progress=seen.append))
        while judge.items_asked.total() < 30:
            await asyncio.sleep(0.001)
        judge.is_down = True
        await asyncio.sleep(0.9)
        judge.is_down = False
        return await batch

    summary = asyncio.run(go())
    assert (summary.scored, summary.errored) == (100, 0)
    assert_whole(place.out, responses)
    assert any(one.gone_seconds is not None for one in seen)
    assert seen[-1].gone_seconds is None
    assert judge.probes < 10


def test_a_server_that_stays_away_stops_the_batch_which_goes_on_later(place: Place) -> None:
    responses = place.items(100)
    judge = FakeJudge(seconds=0.005)

    async def go() -> None:
        batch = asyncio.create_task(run_batch(judge.client(), place.source, place.out, window=8, patience_seconds=0.1))
        while judge.items_asked.total() < 30:
            await asyncio.sleep(0.001)
        judge.is_down = True
        await batch

    with pytest.raises(BatchStopped, match=r"has been gone for more than 0\.1 s; \d+ of 100 items are kept") as caught:
        asyncio.run(go())
    assert (caught.value.reason, caught.value.hint) == ("SERVER_UNREACHABLE", "the same command again: it goes on")
    judge.is_down = False
    summary = place.run(judge)
    assert summary.resumed > 0
    assert_whole(place.out, responses)


def test_an_item_that_kills_the_server_does_not_hold_the_batch_for_ever(place: Place) -> None:
    responses = place.items(40)

    class Fragile(FakeJudge):
        async def send(self, request: Any) -> Answer:
            if request.body and responses[5] in request.body["messages"][-1]["content"]:
                self.health = 503
                raise Failure(DOWN.reason, DOWN.message)
            if request.path == "/health" and self.health != 200:
                self.health = 200
                return Answer(503, "")
            return await super().send(request)

    summary = place.run(Fragile())
    assert (summary.scored, summary.reasons) == (39, {"SERVER_UNREACHABLE": 1})


def test_a_key_that_is_refused_stops_the_batch_soon(place: Place) -> None:
    place.items(500)
    judge = FakeJudge(lambda *_: Answer(401, '{"error": "no"}'))
    with pytest.raises(BatchStopped, match="3 answers in a row failed, the last with .*answered 401") as caught:
        place.run(judge, window=4)
    assert caught.value.reason == "SERVER_DENIED"
    assert judge.asked.total() < 20
    assert place.run(FakeJudge()).scored == 500


def test_a_server_that_fails_every_request_stops_the_batch(place: Place) -> None:
    place.items(500)
    judge = FakeJudge(lambda *_: BUSY)
    with pytest.raises(BatchStopped, match="32 answers in a row failed") as caught:
        place.run(judge, window=4)
    assert caught.value.reason == "SERVER_FAILED"
    assert place.run(FakeJudge()).scored == 500


def test_a_server_that_asks_for_a_longer_wait_than_a_call_has_is_not_asked_again_at_once(place: Place) -> None:
    place.items(500)
    judge = FakeJudge(lambda *_: Answer(429, "busy", {"retry-after": "600"}))
    with pytest.raises(BatchStopped) as caught:
        place.run(judge)
    assert caught.value.reason == "SERVER_RATE_LIMITED"
    assert set(judge.items_asked.values()) == {1}


def test_items_that_the_server_refuses_are_errors_of_their_own(place: Place) -> None:
    responses = place.items(50)
    summary = place.run(FakeJudge(lambda text, _: Answer(400, "too long") if text in responses else None))
    assert (summary.errored, summary.reasons) == (50, {"REQUEST_REFUSED": 50})


def test_a_server_that_refuses_everything_stops_the_batch(place: Place) -> None:
    place.items(500)
    with pytest.raises(BatchStopped, match="32 answers in a row failed, the last with .*no such field") as caught:
        place.run(FakeJudge(lambda *_: Answer(400, "no such field")), window=4)
    assert caught.value.reason == "REQUEST_REFUSED"
    assert place.run(FakeJudge()).scored == 500


def test_the_refused_rest_of_a_batch_that_goes_on_is_not_the_servers_fault(place: Place) -> None:
    responses = place.items(50)
    place.cut(FakeJudge(), 5, canaries=(), window=1)
    summary = place.run(FakeJudge(lambda *_: Answer(400, "too long")), canaries=(), floor=0.0)
    assert (summary.scored, summary.errored) == (5, len(responses) - 5)


def test_a_model_that_is_exchanged_in_between_stops_the_batch(place: Place) -> None:
    responses = place.items(60)
    judge = FakeJudge(lambda text, _: scored(5, commit="f" * 40) if text == responses[20] else scored(8, commit=COMMIT))
    with pytest.raises(BatchStopped, match="was given another model: f{40} answers") as caught:
        place.run(judge, window=2)
    assert caught.value.reason == "WRONG_MODEL_SERVED"


def test_no_answer_of_another_model_is_kept(place: Place) -> None:
    responses = place.items(40)
    alien = {responses[10]: scored(1, commit="f" * 40)}
    with pytest.raises(BatchStopped, match="was given another model"):
        place.run(FakeJudge(lambda text, _: alien.get(text)), window=4)
    place.run(FakeJudge())
    assert_whole(place.out, responses)
    assert {line["verdict"]["provenance"]["model_commit"] for line in read_lines(place.out)} == {COMMIT}


def test_a_server_that_cannot_be_asked_at_all_is_known_before_a_file_is_made(place: Place) -> None:
    place.items(3)
    with pytest.raises(BatchStopped) as caught:
        place.run(FakeJudge(is_down=True))
    assert caught.value.reason == "SERVER_UNREACHABLE"
    assert [path.name for path in place.source.parent.iterdir()] == ["items.jsonl"]


def test_a_server_that_bears_little_gets_little_and_loses_nothing(place: Place) -> None:
    responses = place.items(300)

    class Small(FakeJudge):
        async def send(self, request: Any) -> Answer:
            if request.method == "POST" and self.running >= 3:
                return Answer(429, "slow down")
            return await super().send(request)

    judge = Small(seconds=0.002)
    summary = place.run(judge, window=32)
    assert_whole(place.out, responses)
    assert summary.window_low < 8


def test_a_full_disk_stops_the_batch_and_loses_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from judge_client.batch import output

    responses = place.items(100)
    real, room = os.write, [20_000]

    def write(fd: int, data: Any) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(fd, bytes(data)[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(output.os, "write", write)
        with pytest.raises(BatchStopped, match="No space left on device") as caught:
            place.run(FakeJudge(), window=4)
    assert "df -h" in str(caught.value.hint)
    assert all(line["index"] == number for number, line in enumerate(read_lines(place.out)))
    summary = place.run(FakeJudge())
    assert summary.resumed > 0
    assert_whole(place.out, responses)


def test_progress_says_how_far_it_is_and_how_long_it_will_take(place: Place) -> None:
    place.items(300)
    seen: list[Progress] = []
    place.run(FakeJudge(seconds=0.05), window=8, progress=seen.append)
    assert seen[0].done == 0
    assert (seen[-1].done, seen[-1].total, seen[-1].scored) == (300, 300, 300)
    rated = [one for one in seen if one.rate and one.remaining_seconds is not None and one.done < 300]
    assert rated
    assert all(20 < one.rate < 170 for one in rated if one.rate)
    assert all(one.ceiling == 8 and one.in_flight <= 8 for one in seen)
