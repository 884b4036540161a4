"""The figures of a report, against the plain way to reckon them."""

from __future__ import annotations

import gc
import json
import random
import statistics
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from judge_client.pairs import Comparison
from judge_client.report.figures import Collector, Figures, collect
from judge_client.report.lines import ResultLine, read_line
from judge_client.report.tallies import Latencies, Scores, Top
from judge_client.verdict import Ground, GroundCode, Reason, Status, Verdict
from report_results import comparison, failed, line, provenance, sample, verdict
from scipy import stats


def read(documents: Iterable[dict[str, Any]]) -> Iterable[ResultLine]:
    return (read_line(number, json.dumps(one).encode()) for number, one in enumerate(documents, 1))


def figures(*results: Verdict | Comparison) -> Figures:
    return collect(read(line(index, result) for index, result in enumerate(results))).figures()


def test_what_has_no_score_is_no_part_of_a_mean() -> None:
    found = figures(verdict(8), failed(), verdict(6), failed(Reason.REPLY_INVALID, status=Status.UNSCORED))
    assert (found.total, found.scored, found.unscored, found.errored, found.coverage) == (4, 2, 1, 1, 0.5)
    assert found.overall is not None
    assert found.overall.mean == 7


def test_without_a_score_there_is_no_mean() -> None:
    found = figures(failed())
    assert (found.overall, found.weighed, found.spreads, found.lowest) == (None, None, (), ())


def test_spreads_are_those_of_the_plain_lists() -> None:
    chance = random.Random(5)
    scores = [chance.randint(1, 10) for _ in range(501)]
    found = figures(*(verdict(score, 11 - score) for score in scores))
    assert [one.name for one in found.spreads] == [
        "overall", "accuracy", "relevance", "helpfulness", "safety", "pleasing"]
    overall, accuracy = found.spreads[:2]
    assert overall.mean == pytest.approx(statistics.mean(scores))
    assert overall.median == statistics.median(scores)
    assert overall.counts == tuple(scores.count(score) for score in range(1, 11))
    assert accuracy.counts == overall.counts[::-1]


@pytest.mark.parametrize("scores", [[1, 2], [5, 5, 5], [1, 10, 10, 3], list(range(1, 11)) * 30])
def test_the_interval_of_a_mean_is_students(scores: list[int]) -> None:
    tally = Scores()
    for score in scores:
        tally.add(score)
    low, high = tally.interval() or (0, 0)
    error = statistics.stdev(scores) / len(scores) ** 0.5
    wanted = stats.t.interval(0.95, len(scores) - 1, statistics.mean(scores), error) if error else (5, 5)
    assert (low, high) == pytest.approx((max(1, wanted[0]), min(10, wanted[1])))


def test_one_score_has_no_interval() -> None:
    overall = figures(verdict(8)).overall
    assert overall is not None
    assert (overall.interval, overall.median) == (None, 8)


def test_an_even_number_of_scores_has_its_median_between_the_two_in_the_middle() -> None:
    overall = figures(*map(verdict, (2, 9, 4, 5))).overall
    assert overall is not None
    assert overall.median == 4.5


def test_latencies_are_known_to_a_hundredth() -> None:
    chance = random.Random(5)
    times = sorted(chance.lognormvariate(6, 1) for _ in range(2_001))
    tally = Latencies()
    for one in times:
        tally.add(one)
    told = tally.told()
    assert told is not None
    assert told["p50"] == pytest.approx(times[1_000], rel=0.01)
    assert told["p95"] == pytest.approx(times[1_900], rel=0.015)
    assert told["longest"] == round(times[-1], 1)
    assert told["mean"] == pytest.approx(statistics.mean(times), rel=0.001)


def test_the_top_is_ranked_and_equals_stay_in_their_order() -> None:
    top: Top[str] = Top(3)
    for rank, name in ((1, "a"), (5, "b"), (3, "c"), (5, "d"), (3, "e")):
        top.offer(rank, lambda name=name: name)  # type: ignore[misc]
    assert top.ranked() == ("b", "d", "c")


def test_what_does_not_rank_is_never_made() -> None:
    top: Top[int] = Top(1)
    top.offer(2, lambda: 1)
    top.offer(2, lambda: pytest.fail("made for nothing"))


def test_lowest_scores_come_lowest_first_and_slowest_slowest_first() -> None:
    found = figures(verdict(5, latency_ms=10.0), verdict(2, 9, latency_ms=30.0), verdict(2, latency_ms=20.0))
    assert [one.line for one in found.lowest] == [3, 2, 1]
    assert [one.line for one in found.slowest] == [2, 3, 1]


def test_what_was_never_asked_is_not_slow() -> None:
    found = figures(failed(Reason.SERVER_UNREACHABLE, requests=0, latency_ms=5.0), verdict(latency_ms=7.0))
    assert [one.line for one in found.slowest] == [2]


def test_overall_is_set_beside_the_weighted_score() -> None:
    found = figures(verdict(8, 8), verdict(9, 5), verdict(4, 5)).weighed
    assert found is not None
    assert (found.n, found.mean_difference, found.within_one) == (3, 1, pytest.approx(2 / 3))
    assert (found.grid[7][7], found.grid[8][4], found.grid[3][4]) == (1, 1, 1)
    assert [one.line for one in found.widest] == [2, 3, 1]


def test_reasons_are_counted_with_examples_that_differ() -> None:
    found = figures(*[failed()] * 5, failed(message="other"), failed(Reason.SERVER_FAILED), verdict())
    assert [(code, count, [one.line for one in examples]) for code, count, examples in found.reasons] == [
        ("SERVER_TIMEOUT", 6, [1, 6]), ("SERVER_FAILED", 1, [7])]


def test_suspects_with_the_highest_scores_come_first_and_each_ground_counts_once_an_item() -> None:
    echo, asks = ("RUBRIC_ECHO", "a"), ("ASKS_FOR_SCORE", "b")
    found = figures(verdict(3, grounds=[echo]), verdict(5), verdict(9, grounds=[asks, asks, echo]),
                    failed(grounds=(Ground(GroundCode.EMPTY, ""),)))
    assert (found.suspects, dict(found.grounds)) == (3, {"RUBRIC_ECHO": 2, "ASKS_FOR_SCORE": 1, "EMPTY": 1})
    assert [one.line for one in found.suspect_items] == [3, 1, 4]
    assert (found.suspects_mean, found.others_mean) == (6, 5)


def test_repeats_are_what_goes_beyond_what_an_item_needs() -> None:
    votes = ({"overall": 5}, {"overall": 5}, None)
    found = figures(verdict(), verdict(requests=3), verdict(requests=3, votes=votes), failed(requests=50),
                    failed(requests=0))
    assert found.repeats == ((0, 3), (2, 1), (10, 1))
    assert figures(comparison(), comparison(requests=3)).repeats == ((0, 1), (1, 1))


def test_lost_doubled_and_swapped_lines_are_noticed() -> None:
    def out_of_place(*indexes: int) -> int:
        return collect(read(line(index, verdict()) for index in indexes)).figures().out_of_place

    assert [out_of_place(0, 1, 2), out_of_place(0, 2, 3), out_of_place(0, 1, 1, 2), out_of_place(1, 0)] == [0, 1, 1, 2]


def test_two_judges_are_a_mix_and_two_seeds_are_not() -> None:
    seeds = [verdict(said=provenance(sampling={"temperature": 0.0, "seed": seed})) for seed in (0, 1_000_003)]
    assert figures(*seeds).mixed == ()
    assert figures(verdict(), verdict(said=provenance(model_commit="7" * 40, rubric_sha256="8" * 64))).mixed == (
        "commit", "rubric digest")
    assert figures(verdict(), verdict(model="other")).mixed == ("model",)
    assert figures(verdict(), verdict(said=provenance(base_url="http://127.0.0.1:7", client_version="9"))).mixed == ()


def test_what_could_not_be_asked_is_of_no_judge() -> None:
    assert figures(verdict(), failed(model=None)).mixed == ()


def test_the_span_is_of_all_questions_in_universal_time() -> None:
    early, late = "2026-11-29T01:30:00+02:00", "2026-11-29T00:10:00.900Z"
    found = figures(verdict(said=provenance(time=late)), verdict(said=provenance(time=early)))
    assert found.span == ("2026-11-28T23:30:00Z", "2026-11-29T00:10:00Z")


def test_a_thousand_judges_take_no_more_room_than_a_dozen() -> None:
    found = figures(*(verdict(said=provenance(model_commit=f"{number:040}")) for number in range(1_000)))
    assert len(found.sources["commit"]) == 13
    assert found.sources["commit"][-1] == ("others", 988)


def test_comparisons_are_counted_with_what_the_places_did() -> None:
    pairs = figures(*[comparison("a", "a")] * 5, *[comparison("b", "b")] * 2, comparison("tie", "tie"),
                    comparison("a", "b"), comparison("a", "b"), comparison("b", "a"), comparison("a", "tie"),
                    comparison("a", None)).pairs
    assert pairs is not None
    assert (pairs.n, pairs.a.count, pairs.b.count, pairs.tie.count, pairs.consistent.count) == (12, 5, 2, 5, 8)
    assert (pairs.favours_first, pairs.favours_second) == (2, 1)
    assert [one.line for one in pairs.disagreeing] == [9, 10, 11, 12]
    # Wilson's interval of 5 in 12, reckoned by hand.
    assert pairs.a.interval == pytest.approx((0.1933, 0.6805), abs=1e-4)


def test_grounds_of_a_comparison_name_the_answer() -> None:
    grounds = ((), (Ground(GroundCode.ASKS_FOR_SCORE, "choose me"),))
    found = figures(comparison(grounds=grounds))
    assert found.suspect_items[0].grounds == (("B", "ASKS_FOR_SCORE", "choose me"),)
    assert found.suspect_items[0].to_dict()["grounds"] == [
        {"code": "ASKS_FOR_SCORE", "found": "choose me", "response": "B"}]


def test_figures_as_json_hold_no_judged_text() -> None:
    secret = "the text of an answer"
    document = collect(read([line(0, verdict(2), secret, secret), line(1, failed(), secret, secret)])).figures()
    assert secret not in json.dumps(document.to_dict(), allow_nan=False)


def test_memory_does_not_grow_with_the_lines() -> None:
    encoded = [json.dumps(one).encode() for one in sample(200)]
    collector = Collector()

    def feed(rounds: int) -> None:
        for _ in range(rounds):
            for number, content in enumerate(encoded, 1):
                collector.add(read_line(number, content))

    # The few that are listed are complete by then, so nothing more may be kept.
    feed(40)
    tracemalloc.start()
    try:
        feed(5)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert collector.lines == 9_000
    assert kept < 50_000
