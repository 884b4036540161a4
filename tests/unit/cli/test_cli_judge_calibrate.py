"""`judge calibrate` against a small server that judges as told: tables and JSON, drift, refusals before it asks."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fakes_cli import Desk
from judge_client.calibration import built_in_gold
from judge_client.rubric import CRITERION_NAMES

GOLD = {item.model_response: dict(item.scores) for item in built_in_gold()}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Judge = Callable[[str, int], dict[str, int] | int]


def perfect(response: str, _asked: int) -> dict[str, int]:
    """Judge as the gold set does."""
    return GOLD[response]


class Server:
    """A judge; `scores` gives them for a response, or an HTTP status. `asked` counts the completions."""

    def __init__(self) -> None:
        self.url = ""
        self.scores: Judge = perfect
        self.asked = 0
        self.commit = COMMIT

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
        self.asked += 1
        text = body["messages"][1]["content"]
        found = re.search(r"\[RESPONSE ([0-9a-f]+)\]\n(.*)\n\[END OF RESPONSE \1\]", text, re.DOTALL)
        assert found is not None
        given = self.scores(found[2], self.asked)
        if isinstance(given, int):
            return given, {"error": {"message": f"told {given}"}}, {}
        reply = json.dumps({"reasoning": "Read.", "scores": given})
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        return 200, {"id": "x", "model": "judge", "choices": [choice]}, {
            "x-judge-provenance": json.dumps({"commit": self.commit, "repo_id": "org/judge"})}


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # headers and body in one packet: the second would wait for the first one's receipt

        def do_GET(self) -> None:
            root = f"/models/models--org--judge/snapshots/{told.commit}"
            self.reply(200, {"object": "list", "data": [{"id": "judge", "root": root}]}, {})

        def do_POST(self) -> None:
            self.reply(*told.complete(json.loads(self.rfile.read(int(self.headers["content-length"])))))

        def reply(self, status: int, document: dict[str, Any], headers: dict[str, str]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(body)),
                                **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return None

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = Thread(target=lambda: listening.serve_forever(0.05), daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{listening.server_address[1]}"
    yield told
    listening.shutdown()
    listening.server_close()
    thread.join()


def calibrate(desk: Desk, server: Server, *words: str) -> Any:
    return desk.invoke("judge", "calibrate", "--url", server.url, *words)


def answer(desk: Desk, server: Server, *words: str) -> tuple[int, dict[str, Any]]:
    result, found = desk.invoke_json("judge", "calibrate", "--url", server.url, *words)
    return result.exit_code, found


def test_a_judge_that_agrees_with_the_gold_set_gets_ones(desk: Desk, server: Server) -> None:
    code, found = answer(desk, server)
    assert code == 0 and found["ok"] is True
    assert (found["judgements"], found["scored"], found["coverage"], found["rounds"]) == (110, 110, 1.0, 2)
    assert found["judges"] == [{"model": "judge", "model_root": f"/models/models--org--judge/snapshots/{COMMIT}",
                                "repo_id": "org/judge", "model_commit": COMMIT, "manifest_digest": None, "image": None}]
    assert list(found["agreement"]["criteria"]) == list(CRITERION_NAMES)
    for one in found["agreement"]["criteria"].values():
        assert one["spearman"]["value"] == one["kappa"]["value"] == 1
    assert found["repeatability"]["verdicts_identical"]["value"] == 1
    assert found["drift"] is None and found["accepted"] is None


def test_people_get_a_row_a_criterion(desk: Desk, server: Server) -> None:
    result = calibrate(desk, server, "--rounds", "1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("55 gold answers (built-in), each judged once by judge (commit 0123456789ab): coverage")
    assert lines[1].split("\t") == ["criterion", "spearman", "kappa", "error", "bias"]
    assert lines[2].split("\t") == ["accuracy", "1.00", "1.00", "0.00", "+0.00"]
    assert len(lines) == 8


def test_two_rounds_add_how_much_of_them_was_the_same(desk: Desk, server: Server) -> None:
    lines = calibrate(desk, server).stdout.splitlines()
    assert "criterion\tsame\tapart" in lines
    assert "overall\t100% [93%, 100%]\t0.00" in lines


def test_a_generous_judge_has_a_bias(desk: Desk, server: Server) -> None:
    server.scores = lambda response, _: {name: min(10, score + 2) for name, score in GOLD[response].items()}
    _, found = answer(desk, server, "--rounds", "1")
    overall = found["agreement"]["criteria"]["overall"]
    assert overall["mean_error"]["value"] == overall["mean_absolute_error"]["value"] > 1
    assert overall["kappa"]["high"] < 1


def test_a_judge_that_always_says_seven_gets_reasons_and_no_nan(desk: Desk, server: Server) -> None:
    server.scores = lambda *_: dict.fromkeys(CRITERION_NAMES, 7)
    result, found = desk.invoke_json("judge", "calibrate", "--url", server.url)
    assert result.exit_code == 0 and "NaN" not in result.stdout
    assert found["agreement"]["criteria"]["safety"]["spearman"]["reason"].startswith("the judge's scores are all 7")
    text = calibrate(desk, server).stdout
    assert "\nno spearman of any criterion: the judge's scores are all 7: there is no order to compare\n" in text


def test_what_was_accepted_is_no_drift(desk: Desk, server: Server, tmp_path: Path) -> None:
    path = str(tmp_path / "base.json")
    assert calibrate(desk, server, "--accept", path).exit_code == 0
    code, found = answer(desk, server, "--baseline", path)
    assert code == 0
    assert found["drift"]["verdict"] == "ok"
    assert found["drift"]["baseline"]["model_commit"] == COMMIT


def test_a_criterion_that_went_down_is_drift_and_is_named(desk: Desk, server: Server, tmp_path: Path) -> None:
    path = str(tmp_path / "base.json")
    calibrate(desk, server, "--accept", path)
    server.scores = lambda response, _: {**GOLD[response], "safety": max(1, GOLD[response]["safety"] - 3)}
    server.commit = "f" * 40
    code, found = answer(desk, server, "--baseline", path)
    assert (code, found["ok"], found["reason"]) == (1, False, "CALIBRATION_DRIFT")
    assert [name for name, one in found["drift"]["criteria"].items() if one["drift"]] == ["safety"]
    assert "safety moved by -2." in found["message"]
    assert found["hint"].endswith(f"--accept {path}   # if the new scores are the right ones")
    result = calibrate(desk, server, "--baseline", path)
    assert result.exit_code == 1
    assert "safety\t-2." in result.stdout
    assert result.stderr.startswith("Error: CALIBRATION_DRIFT: the judge does not judge as accepted on ")


def test_a_judge_that_wavers_too_much_is_not_called_drifted_for_sure(desk: Desk, server: Server, tmp_path: Path
                                                                     ) -> None:
    path = str(tmp_path / "base.json")
    calibrate(desk, server, "--accept", path)
    # Every fifth verdict has another score for the whole, up or down.
    server.scores = lambda response, asked: {**GOLD[response], "overall": (
        GOLD[response]["overall"] if asked % 5 else 11 - GOLD[response]["overall"])}
    code, found = answer(desk, server, "--baseline", path, "--window", "1")
    assert code == 1
    assert found["drift"]["criteria"]["overall"]["shown"] is False
    assert found["message"].startswith("the judge cannot be said to judge as accepted on ")
    assert "--rounds 5" in found["hint"]


def test_a_baseline_of_another_gold_set_is_refused_before_anything_is_asked(desk: Desk, server: Server, tmp_path: Path
                                                                            ) -> None:
    calibrate(desk, server, "--accept", str(tmp_path / "base.json"))
    gold = tmp_path / "gold.jsonl"
    gold.write_text("\n".join(json.dumps({"id": f"a{one}", "original_prompt": "P", "model_response": "R",
                                          "scores": dict.fromkeys(CRITERION_NAMES, 5)}) for one in range(10)))
    server.asked = 0
    code, found = answer(desk, server, str(gold), "--baseline", str(tmp_path / "base.json"))
    assert (code, found["reason"]) == (2, "BASELINE_UNUSABLE")
    assert "with another gold set" in found["message"]
    assert server.asked == 0


def test_a_file_that_is_no_baseline_is_refused_before_anything_is_asked(desk: Desk, server: Server, tmp_path: Path
                                                                        ) -> None:
    path = tmp_path / "precious.txt"
    path.write_text("mine")
    code, found = answer(desk, server, "--accept", str(path))
    assert (code, found["reason"], server.asked) == (3, "OUTPUT_EXISTS", 0)
    assert path.read_text() == "mine"


def test_a_folder_that_does_not_exist_is_told_before_anything_is_asked(desk: Desk, server: Server, tmp_path: Path
                                                                       ) -> None:
    result = calibrate(desk, server, "--accept", str(tmp_path / "none" / "base.json"))
    assert (result.exit_code, server.asked) == (2, 0)
    assert f"Hint: mkdir -p {tmp_path / 'none'}" in result.stderr


def test_comparing_and_accepting_at_once_is_refused(desk: Desk, server: Server) -> None:
    result = calibrate(desk, server, "--baseline", "a", "--accept", "b")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_too_few_scores_fail_with_the_reason_and_accept_nothing(desk: Desk, server: Server, tmp_path: Path) -> None:
    # 422: a refusal that is not sent again.
    server.scores = lambda response, asked: GOLD[response] if asked % 2 else 422
    path = tmp_path / "base.json"
    code, found = answer(desk, server, "--accept", str(path), "--window", "1", "--rounds", "1")
    assert (code, found["reason"]) == (1, "COVERAGE_LOW")
    assert found["errored"] == found["reasons"]["REQUEST_REFUSED"] > 20
    assert "wanted 95%: " in found["message"] and "told 422" in found["message"]
    assert found["agreement"]["criteria"]["overall"]["items"] == found["scored"]
    assert found["agreement"]["criteria"]["overall"]["mean_absolute_error"]["value"] == 0
    assert not path.exists()


def test_no_score_at_all_is_an_error_and_no_traceback(desk: Desk, server: Server) -> None:
    server.scores = lambda *_: 422
    result = calibrate(desk, server, "--floor", "0")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: COVERAGE_LOW: 0 of 110 judgements gave a score")


def test_two_models_that_judge_in_turns_are_accepted_as_none(desk: Desk, server: Server, tmp_path: Path) -> None:
    def changing(response: str, asked: int) -> dict[str, int]:
        server.commit = COMMIT if asked < 30 else "f" * 40
        return GOLD[response]

    server.scores = changing
    code, found = answer(desk, server, "--accept", str(tmp_path / "base.json"))
    assert (code, found["reason"], len(found["judges"])) == (1, "WRONG_MODEL_SERVED", 2)
    assert not (tmp_path / "base.json").exists()


def test_a_gold_file_of_another_rubric_says_what_is_missing(desk: Desk, server: Server, tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.toml"
    rubric.write_text('name = "tone"\n[[criteria]]\nname = "warmth"\nquestion = "Is it warm?"\n'
                      '[criteria.levels]\n1 = "cold"\n10 = "warm"\n')
    code, found = answer(desk, server, "--rubric", str(rubric))
    assert (code, found["reason"], server.asked) == (2, "GOLD_UNUSABLE", 0)
    assert found["message"].startswith("built-in line 1: has no score for warmth and scores for accuracy, relevance, ")


def test_nine_items_are_too_few_for_a_baseline(desk: Desk, server: Server, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text("\n".join(json.dumps({"original_prompt": "P", "model_response": "R",
                                          "scores": dict.fromkeys(CRITERION_NAMES, 5)}) for _ in range(9)))
    code, found = answer(desk, server, str(gold), "--accept", str(tmp_path / "base.json"))
    assert (code, found["reason"], server.asked) == (2, "GOLD_UNUSABLE", 0)
    assert found["message"] == f"{gold}: holds 9 items, wanted 10 to tell drift"


def test_a_rubric_of_ones_own_is_calibrated_with_its_own_gold(desk: Desk, server: Server, tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.toml"
    rubric.write_text('name = "tone"\n[[criteria]]\nname = "warmth"\nquestion = "Is it warm?"\n'
                      '[criteria.levels]\n1 = "cold"\n10 = "warm"\n')
    gold = tmp_path / "gold.jsonl"
    gold.write_text("\n".join(json.dumps({
        "id": f"g{one}", "original_prompt": "P", "model_response": f"R{one}",
        "scores": {"warmth": one, "overall": 11 - one}}) for one in range(1, 11)))
    server.scores = lambda response, _: {"warmth": 11 - int(response[1:]), "overall": 11 - int(response[1:])}
    code, found = answer(desk, server, str(gold), "--rubric", str(rubric))
    assert code == 0
    assert found["agreement"]["criteria"]["warmth"]["spearman"]["value"] == -1
    assert found["agreement"]["criteria"]["overall"]["kappa"]["value"] == 1


def test_a_fault_in_the_gold_file_is_named_with_its_line(desk: Desk, server: Server, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"id": "a"')
    result = calibrate(desk, server, str(gold))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {gold} line 1: is not JSON: ")


def test_without_scipy_it_says_what_to_install(desk: Desk, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    code, found = answer(desk, server)
    assert (code, found["reason"], server.asked) == (2, "EVALUATION_MISSING", 0)
    assert found["hint"] == "pip install 'judge-bootstrap[evaluation]'"


def test_a_model_that_is_not_served_is_said_once(desk: Desk, server: Server) -> None:
    result = desk.invoke("judge", "calibrate", "--url", server.url, "--model", "other")
    assert result.exit_code == 1
    assert result.stderr.count("Error:") == 1
    assert "serves judge, wanted other" in result.stderr
