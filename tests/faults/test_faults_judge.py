"""The drills of the judge's client can fail: each fault of the proxy arrives, and each wrong output is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_client import JudgeClient, Provenance, Reason, Status, Verdict
from judge_client.rubric import CRITERION_NAMES
from judge_drills import batches, faults, texts
from judge_drills.processes import Running
from judge_drills.standin import reasoning_of, scores_of, standing_in

REASONS = {
    "429": Reason.SERVER_RATE_LIMITED, "429_retry_after": Reason.SERVER_RATE_LIMITED, "500": Reason.SERVER_FAILED,
    "503": Reason.SERVER_FAILED, "timeout": Reason.SERVER_TIMEOUT, "reset_before": Reason.SERVER_UNREACHABLE,
    "reset_within": Reason.SERVER_UNREACHABLE, "truncated_json": Reason.RESPONSE_INVALID,
    "truncated_body": Reason.SERVER_UNREACHABLE, "slow": None, "empty": Reason.RESPONSE_INVALID,
    "login_page": Reason.RESPONSE_INVALID, "invalid_reply": Reason.REPLY_INVALID, "cut_reply": Reason.REPLY_TRUNCATED,
}  # fmt: skip


@pytest.fixture(scope="module")
def proxy() -> Iterator[Running]:
    with standing_in() as server, faults.faulty(server.url) as running:
        yield running


@pytest.mark.parametrize("kind", faults.KINDS)
def test_each_fault_arrives_as_its_reason_and_the_next_try_is_answered(proxy: Running, kind: str) -> None:
    # Only where no answer comes is it waited for to the end; a machine with other work must not make it two faults.
    options: dict[str, Any] = {"timeout_seconds": 3.0 if kind == "timeout" else 60.0, "max_retries": 0, "max_reasks": 0}
    with JudgeClient(proxy.url, **options) as judge:
        faults.plan(proxy, 1.0, kinds=[kind], slow_seconds=0.1)
        verdict = judge.judge("prompt", "response")
        assert verdict.reason is REASONS[kind], verdict
        assert faults.counted(proxy)["struck"] == {kind: 1}
        faults.plan(proxy, 0.0)
        after = judge.judge("prompt", "response")
        assert (after.status, dict(after.categories)) == (
            Status.SCORED, scores_of(CRITERION_NAMES, "prompt", "response"))


# --- the oracle -------------------------------------------------------------------------------------------------------


def output_of(asked: batches.Asked) -> list[dict[str, Any]]:
    """Return the lines of a good output."""
    provenance = Provenance("now", "1", "http://x", "a", "r", "b", {})
    lines = []
    for index, (name, prompt, response) in enumerate(asked.items):
        scores = scores_of(CRITERION_NAMES, prompt, response)
        verdict = Verdict(Status.SCORED, scores["overall"], 5.0, scores, reasoning_of(prompt, response),
                          provenance=provenance)
        lines.append({"id": name, "index": index, "original_prompt": prompt, "model_response": response,
                      "extra": {"system": f"system of {name}"}, "verdict": verdict.to_dict()})
    return lines


def found_in(folder: Path, change: Callable[[list[dict[str, Any]]], object] = lambda lines: None,
             **counts: int) -> batches.Found:
    """Return what the oracle finds in an output that was changed."""
    asked = batches.write_items(folder / "items.jsonl", texts.unseen(6, 1), 1)
    lines = output_of(asked)
    change(lines)
    (folder / "out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return batches.check(asked, folder / "out.jsonl", {"total": 6, "scored": 6, "unscored": 0, "errored": 0, **counts})


def test_a_good_output_is_good(tmp_path: Path) -> None:
    found = found_in(tmp_path)
    assert [found.lost, found.doubled, found.untyped, found.misplaced, found.miscounted] == [[]] * 5


def test_a_lost_a_doubled_and_a_foreign_line_are_found(tmp_path: Path) -> None:
    assert len(found_in(tmp_path, lambda lines: lines.pop(2), scored=5).lost) == 1
    assert len(found_in(tmp_path, lambda lines: lines.append(lines[0]), scored=7).doubled) == 1
    assert found_in(tmp_path, lambda lines: lines[1].update(id="nobody")).misplaced


def test_lines_in_another_order_are_found(tmp_path: Path) -> None:
    assert found_in(tmp_path, lambda lines: lines.reverse()).misplaced


def test_the_verdict_of_another_item_is_found(tmp_path: Path) -> None:
    def swap(lines: list[dict[str, Any]]) -> None:
        lines[0]["verdict"], lines[1]["verdict"] = lines[1]["verdict"], lines[0]["verdict"]

    assert len(found_in(tmp_path, swap).misplaced) == 2


@pytest.mark.parametrize("change", [
    {"status": "error", "score": None, "weighted_score": None, "categories": {}},  # no reason
    {"status": "error", "reason": "SERVER_FAILED", "message": "x"},  # an error with scores
    {"categories": {"overall": 5}},
    {"categories": dict.fromkeys(CRITERION_NAMES, 11)},
    {"status": "fine"},
])
def test_a_verdict_that_is_neither_valid_nor_typed_is_found(tmp_path: Path, change: dict[str, Any]) -> None:
    assert len(found_in(tmp_path, lambda lines: lines[3]["verdict"].update(change)).untyped) == 1


def test_a_summary_that_counts_wrongly_is_found(tmp_path: Path) -> None:
    assert found_in(tmp_path, scored=5, errored=1).miscounted == ["scored is 5, wanted 6", "errored is 1, wanted 0"]
