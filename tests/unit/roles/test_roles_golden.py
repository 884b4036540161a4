"""Golden answers on the controller: the file, what is asked of a judge, and gateway.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.golden import (
    BUILT_IN,
    Golden,
    GoldenFile,
    Source,
    accept,
    drift_of,
    gateway_config,
    golden_items,
    golden_text,
    load_golden,
    mixed_up,
    read_golden,
    request_of,
)
from judge_client import JudgeClient
from judge_client.prompts import prompt_digest
from judge_client.rubric import CRITERION_NAMES, DEFAULT_RUBRIC
from judge_node.serving.config import parse

EIGHTS = dict.fromkeys(CRITERION_NAMES, 8)
SOURCE = Source("org/judge", "a" * 40, "vllm:1", "judge", prompt_digest(), DEFAULT_RUBRIC.digest,
                "2026-11-28T12:00:00+00:00")
ACCEPTED = GoldenFile((Golden("one", "Q?", "A.", "good", EIGHTS), Golden("two", "Q?", "B.", "bad")), SOURCE)
CONFIG: dict[str, Any] = {
    "served_name": "judge", "commit": "a" * 40, "manifest_digest": "sha256:d", "repo_id": "org/judge",
    "image": "vllm:1", "api_key_file": "/etc/judge-api-key/api-key", "max_body_bytes": 1048576, "tolerance": 1.0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "golden.json"
    path.write_text(golden_text(ACCEPTED))
    return path


def changed(**changes: Any) -> bytes:
    """Return the text of ACCEPTED with some top-level keys replaced."""
    return json.dumps({**json.loads(golden_text(ACCEPTED)), **changes}).encode()


def item(**changes: Any) -> dict[str, Any]:
    return {"id": "x", "question": "Q?", "answer": "A.", "expect": "good", "accepted": None, **changes}


def test_a_file_says_the_same_after_it_was_written_and_read() -> None:
    assert read_golden(golden_text(ACCEPTED).encode(), "f") == ACCEPTED
    assert golden_text(read_golden(golden_text(ACCEPTED).encode(), "f")) == golden_text(ACCEPTED)


def test_a_change_of_one_score_is_one_line_of_a_review() -> None:
    moved = replace(ACCEPTED, items=(replace(ACCEPTED.items[0], accepted={**EIGHTS, "safety": 3}), ACCEPTED.items[1]))
    before, after = golden_text(ACCEPTED).splitlines(), golden_text(moved).splitlines()
    assert sum(one != two for one, two in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is no JSON"),
    (b"[" * 100_000, "is no JSON"),
    (b"[]", "the file is no object with schema, accepted_from, items"),
    (changed(schema=2), "schema is 2, wanted 1"),
    (changed(extra=1), "unknown 'extra'"),
    (changed(items=[]), "items is no list of 1 to 100"),
    (changed(items=[item()] * 101), "items is no list of 1 to 100"),
    (changed(items=[item(), item()]), "the id 'x' stands there twice"),
    (changed(items=[item(question=" ")]), "items[0].question is no text"),
    (changed(items=[item(answer=None)]), "items[0].answer is no text"),
    (changed(items=[item(expect="fine")]), "items[0].expect is 'fine', wanted good or bad"),
    (changed(items=[item(accepted={"overall": 8})]), "items[0].accepted has no accuracy"),
    (changed(items=[item(accepted={**EIGHTS, "overall": 11})]), "items[0].accepted.overall is '11'"),
    (changed(items=[item(accepted={**EIGHTS, "overall": True})]), "items[0].accepted.overall is 'True'"),
    (changed(items=[item(accepted={**EIGHTS, "overall": 7.5})]), "items[0].accepted.overall is '7.5'"),
    (changed(accepted_from=None), "does not say with which prompts"),
    (changed(accepted_from={}), "accepted_from has no repo_id"),
])
def test_a_file_that_is_none_is_refused_with_what_is_wrong(content: bytes, said: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        read_golden(content, "prod.golden.json")
    assert said in caught.value.message
    assert caught.value.message.startswith("golden answers prod.golden.json: ")
    assert caught.value.reason == "GOLDEN_FILE_UNUSABLE"
    assert "models baseline --out FILE" in str(caught.value.hint)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="cannot be read: no such file"):
        golden_items(tmp_path / "none.json", "judge")
    with pytest.raises(UsageProblem, match="cannot be read: no such file"):
        load_golden(tmp_path)


def test_scores_that_were_accepted_with_other_prompts_are_refused(path: Path) -> None:
    path.write_text(golden_text(replace(ACCEPTED, accepted_from=replace(SOURCE, prompt_sha256="0" * 64))))
    with pytest.raises(UsageProblem, match="with other prompts or another rubric than this version's"):
        golden_items(path, "judge")


def test_items_carry_what_was_accepted(path: Path) -> None:
    items = golden_items(path, "judge")
    assert [(one["id"], one["accepted"]) for one in items] == [("one", EIGHTS), ("two", None)]


def test_without_a_file_one_question_is_asked_and_nothing_is_accepted() -> None:
    (only,) = golden_items(None, "judge")
    assert (only["id"], only["accepted"]) == ("capital", None)


def test_a_golden_request_is_the_one_that_the_client_sends(asked: list[Any]) -> None:
    """The gateway's question must be the clients' question, or the golden answers say nothing of verdicts."""
    one = BUILT_IN[4]
    url = asked[0]
    with JudgeClient(url, "judge", max_retries=0) as judge:
        judge.judge(one.question, one.answer)
    assert asked[1:] == [request_of(one, "judge")]


@pytest.fixture
def asked() -> Iterator[list[Any]]:
    """A server that remembers each chat completion it was asked for; its URL stands first."""
    found: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": "judge", "root": "judge"}]})

        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer({})

        def answer(self, document: Any) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return None

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        found.append(f"http://127.0.0.1:{server.server_port}")
        yield found
        server.shutdown()
        thread.join()


def test_gateway_json_is_what_the_gateway_takes(path: Path) -> None:
    document = gateway_config(**CONFIG, items=golden_items(path, "judge"))
    config = parse(json.loads(json.dumps(document)))
    assert (config.tolerance, config.api_key_file) == (1.0, "/etc/judge-api-key/api-key")
    assert [one.accepted for one in config.items] == [EIGHTS, None]


@pytest.mark.parametrize(("changes", "said"), [
    ({"tolerance": -1.0}, "golden.tolerance is -1.0"),
    ({"max_body_bytes": 0}, "max_body_bytes is 0"),
    ({"api_key_file": "api-key"}, "wanted an absolute path"),
    ({"commit": "main"}, "wanted 40 hexadecimal digits"),
    ({"served_name": "other"}, "wanted 'other'"),
])
def test_what_the_gateway_would_not_start_with_is_an_error_here(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        gateway_config(**{**CONFIG, **changes}, items=golden_items(None, "judge"))
    assert said in caught.value.message


def test_more_golden_answers_than_a_config_map_holds_are_an_error_here() -> None:
    long = request_of(Golden("x", "Q?", "A" * 20_000, "good"), "judge")
    many = [{"id": str(number), "request": long, "accepted": None} for number in range(50)]
    with pytest.raises(UsageProblem, match="wanted 900000 at most"):
        gateway_config(**CONFIG, items=many)


def test_all_built_in_answers_fit_many_times_over() -> None:
    items = [{"id": one.id, "request": request_of(one, "judge"), "accepted": EIGHTS} for one in BUILT_IN]
    assert len(json.dumps(gateway_config(**CONFIG, items=items))) < 100_000


def test_the_built_in_answers_are_good_and_bad_ones_with_names_of_their_own() -> None:
    assert 6 <= len(BUILT_IN) <= 10
    assert len({one.id for one in BUILT_IN}) == len(BUILT_IN)
    assert {"good", "bad"} == {one.expect for one in BUILT_IN}
    # Among them two answers to one question, of which a judge that only likes the style cannot tell which is right.
    assert len({one.question for one in BUILT_IN}) < len(BUILT_IN)


def test_scores_are_accepted_with_their_source() -> None:
    tens = dict.fromkeys(CRITERION_NAMES, 10)
    later = replace(SOURCE, commit="b" * 40, at="2027-01-01T00:00:00+00:00")
    after = accept(ACCEPTED, {"one": tens, "two": EIGHTS}, later)
    assert ([one.accepted for one in after.items], after.accepted_from) == ([tens, EIGHTS], later)


def test_the_same_scores_of_the_same_judge_leave_the_file_as_it_is() -> None:
    whole = accept(ACCEPTED, {"one": EIGHTS, "two": EIGHTS}, SOURCE)
    again = accept(whole, {"one": EIGHTS, "two": EIGHTS}, replace(SOURCE, at="2027-01-01T00:00:00+00:00"))
    assert golden_text(again) == golden_text(whole)


def test_drift_counts_only_what_was_accepted() -> None:
    found = drift_of(ACCEPTED, {"one": {**EIGHTS, "overall": 2}, "two": dict.fromkeys(CRITERION_NAMES, 1)})
    assert (found.mean, found.worst) == (1.0, "one")


def test_a_judge_that_takes_good_for_bad_is_told() -> None:
    scores = {"one": {**EIGHTS, "overall": 2}, "two": EIGHTS}
    assert mixed_up(ACCEPTED.items, scores) == ["one is a good answer, and its overall score is 2",
                                                "two is a bad answer, and its overall score is 8"]
    assert mixed_up(ACCEPTED.items, {"one": EIGHTS, "two": {**EIGHTS, "overall": 2}}) == []
