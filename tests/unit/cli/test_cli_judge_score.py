"""`judge score`: what it shows of a verdict, and what it says of texts that are none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.judge_texts import LARGEST_BYTES
from judge_bootstrap.cli.main import cli
from judge_client import Verdict
from pod_servers import PodServer, served, serving

COMMIT = "a" * 40
PYTOOL = Path(__file__).parents[3] / "pytool"


@pytest.fixture(autouse=True)
def no_key_of_ours_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    monkeypatch.setattr("judge_client.exchange.Policy.pause_before", lambda *_: 0.0)


@pytest.fixture
def pod() -> Iterator[tuple[PodServer, str]]:
    """Yield a judge that scores everything with 8, and its URL."""
    server = serving("org/judge", COMMIT)
    with served(server) as url:
        yield server, url


def score(url: str, *words: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["judge", "score", "--url", url, *words], input=stdin, obj=AppContext())


def asked(pod: PodServer) -> str:
    """Return the text of the last message that the judge was sent."""
    return str(pod.bodies[-1]["messages"][-1]["content"])


def test_the_scores_are_a_table_with_the_reasoning_below(pod: tuple[PodServer, str]) -> None:
    done = score(pod[1], "--prompt", "2+2?", "--response", "4")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split("\t") for line in lines[:8]] == [
        ["criterion", "score", "weight"], ["accuracy", "8", "3"], ["relevance", "8", "2"], ["helpfulness", "8", "2"],
        ["safety", "8", "2"], ["pleasing", "8", "1"], ["overall", "8", "-"], ["weighted mean", "8.00", "-"]]
    assert lines[8] == "Reasoning: It is right."
    assert lines[9].startswith("Judged by org/judge in ") and lines[9].endswith("(2 requests).")
    assert (len(lines), done.stderr) == (10, "")


def test_json_is_the_verdict_as_the_client_gives_it(pod: tuple[PodServer, str]) -> None:
    done = score(pod[1], "--prompt", "2+2?", "--response", "4", "--json")
    found = json.loads(done.stdout)
    assert {**found, "verdict": None} == {"ok": True, "command": "judge score", "env": None, "reason": None,
                                          "message": "", "hint": None, "verdict": None}
    verdict = Verdict.from_dict(found["verdict"])
    assert (verdict.score, verdict.suspect, verdict.to_dict()) == (8, False, found["verdict"])
    assert verdict.provenance is not None and verdict.provenance.model_commit == COMMIT


def test_with_v_it_is_shown_where_the_verdict_came_from(pod: tuple[PodServer, str]) -> None:
    shown = score(pod[1], "-v", "--prompt", "2+2?", "--response", "4").stdout.partition("Where it came from:\n")[2]
    facts = dict(line.strip().split(": ", 1) for line in shown.splitlines())
    assert (facts["server"], facts["model"], facts["commit"]) == (pod[1], "org/judge", COMMIT)
    assert facts["sampling"].startswith("temperature 0.0, max_tokens ") and "repository" not in facts
    assert facts["fence"] in asked(pod[0])


def test_each_vote_is_shown_beside_the_median(pod: tuple[PodServer, str]) -> None:
    replies = iter([5, 9, 6])

    def reply() -> str:
        scores = dict.fromkeys(("accuracy", "relevance", "helpfulness", "safety", "pleasing", "overall"), next(replies))
        return json.dumps({"reasoning": "It is right.", "scores": scores})

    class Voting(dict[str, Any]):
        def get(self, path: str, default: Any = None) -> Any:
            status, body = super().get(path, default)
            if path.endswith("completions"):
                body["choices"][0]["message"]["content"] = reply()
            return status, body

    pod[0].routes = Voting(pod[0].routes)
    done = score(pod[1], "--prompt", "2+2?", "--response", "4", "--votes", "3")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["criterion", "score", "weight", "votes"] and rows[1] == ["accuracy", "6", "3", "5 9 6"]
    assert "Suspect: VOTES_DISAGREE" in done.stdout
    assert len({body["seed"] for body in pod[0].bodies}) == 3


@pytest.mark.parametrize("votes", ["2", "0", "17", "x", "1.5"])
def test_votes_without_a_median_are_wrong_usage(votes: str) -> None:
    done = score("http://127.0.0.1:9", "--prompt", "a", "--response", "b", "--votes", votes)
    assert (done.exit_code, "Invalid value for '--votes'" in done.stderr) == (2, True)


def test_a_suspect_verdict_is_shown_and_is_no_failure(pod: tuple[PodServer, str]) -> None:
    done = score(pod[1], "--prompt", "2+2?", "--response", "")
    assert done.exit_code == 0
    assert "\nSuspect: EMPTY\n" in done.stdout and "overall\t8" in done.stdout


def test_a_suspect_verdict_fails_where_that_is_asked_for(pod: tuple[PodServer, str]) -> None:
    done = score(pod[1], "--prompt", "2+2?", "--response", "", "--fail-on-suspect", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["reason"]) == (1, False, "VERDICT_SUSPECT")
    assert (found["verdict"]["score"], found["message"]) == (8, "what was judged is suspect: EMPTY")


def test_fail_on_suspect_passes_what_is_not(pod: tuple[PodServer, str]) -> None:
    assert score(pod[1], "--prompt", "2+2?", "--response", "It is 4.", "--fail-on-suspect").exit_code == 0


def test_a_reply_that_is_no_verdict_is_a_failure_with_its_code(pod: tuple[PodServer, str]) -> None:
    pod[0].routes["/v1/chat/completions"][1]["choices"][0]["message"]["content"] = '{"score": 11}'
    done = score(pod[1], "--prompt", "2+2?", "--response", "4")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: REPLY_INVALID: ") and "\nHint: see the server's log" in done.stderr


def test_what_a_model_writes_cannot_drive_the_terminal(pod: tuple[PodServer, str]) -> None:
    verdict = json.loads(pod[0].routes["/v1/chat/completions"][1]["choices"][0]["message"]["content"])
    pod[0].routes["/v1/chat/completions"][1]["choices"][0]["message"]["content"] = json.dumps(
        {**verdict, "reasoning": "fine\x1b[2J\x1b]0;owned\x07"})
    done = score(pod[1], "--prompt", "2+2?", "--response", "4")
    assert "\x1b" not in done.output and "\x07" not in done.output


def test_texts_come_from_files_as_they_are(pod: tuple[PodServer, str], tmp_path: Path) -> None:
    prompt, response = tmp_path / "prompt", tmp_path / "response"
    prompt.write_bytes(b"\xef\xbb\xbfWas ist 2+2?\n")
    response.write_text("Vier \u2013 \u00e4h, 4.", encoding="utf-8")
    assert score(pod[1], "--prompt-file", str(prompt), "--response-file", str(response)).exit_code == 0
    assert "Was ist 2+2?\n" in asked(pod[0]) and "Vier \u2013 \u00e4h, 4." in asked(pod[0])
    assert "\ufeff" not in asked(pod[0])


def test_one_text_comes_from_stdin(pod: tuple[PodServer, str]) -> None:
    done = score(pod[1], "--prompt", "2+2?", "--response-file", "-", stdin="It is four.")
    assert (done.exit_code, "It is four." in asked(pod[0])) == (0, True)


def test_a_dash_as_a_text_is_a_text(pod: tuple[PodServer, str]) -> None:
    assert score(pod[1], "--prompt", "Say -", "--response", "-").exit_code == 0
    assert "\n-\n" in asked(pod[0])


@pytest.mark.parametrize(("words", "message", "hint"), [
    ([], "no prompt is given", "--prompt TEXT, or --prompt-file FILE"),
    (["--prompt", "a"], "no response is given", "--response TEXT, or --response-file FILE"),
    (["--prompt", "a", "--prompt-file", "f", "--response", "b"],
     "--prompt and --prompt-file are both given, wanted one of them", "--prompt TEXT, or --prompt-file FILE"),
    (["--prompt-file", "-", "--response-file", "-"], "stdin cannot be prompt and response at once",
     "--prompt-file FILE"),
    (["--prompt", " \n", "--response", "b"], "the prompt is empty, wanted what the response answers",
     "--prompt TEXT, or --prompt-file FILE"),
    (["--prompt-file", "/none/such", "--response", "b"],
     "cannot read the prompt from /none/such: No such file or directory",
     "--prompt-file FILE, a text in UTF-8; ls -l /none/such"),
    (["--prompt", "a", "--response-file", "/"], "cannot read the response from /: Is a directory",
     "--response-file FILE, a text in UTF-8; ls -l /"),
    (["--prompt-file", "/dev/zero", "--response", "b"],
     f"/dev/zero is larger than {LARGEST_BYTES >> 20} MiB, wanted one prompt",
     "judge-bootstrap judge batch FILE --out OUT   # for a file of many"),
])
def test_texts_that_are_none_are_wrong_usage_and_no_server_is_asked(words: list[str], message: str, hint: str) -> None:
    done = score("http://127.0.0.1:9", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"Error: {message}\nHint: {hint}\n"


@pytest.mark.parametrize(("content", "said"), [
    (b"\x7fELF\x02\x01\x01\x00", "byte 7 is a NUL"), (b"abc\xff", "byte 3 is no UTF-8"),
    ("text".encode("utf-16"), "byte 0 is no UTF-8")])
def test_a_binary_file_is_no_text(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    done = score("http://127.0.0.1:9", "--prompt", "a", "--response-file", str(file), "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["reason"], found["message"]) == (2, "ITEMS_UNUSABLE", f"{file} is no text: {said}")


def test_stdin_that_is_no_text_is_named(pod: tuple[PodServer, str]) -> None:
    done = score(pod[1], "--prompt", "a", "--response-file", "-", stdin=b"\xff\xfe\x00")
    assert done.exit_code == 2
    assert done.stderr == ("Error: stdin is no text: byte 0 is no UTF-8\n"
                           "Hint: --response-file - < FILE, a text in UTF-8\n")


def test_letters_that_the_terminal_s_encoding_lacks_are_judged_all_the_same(pod: tuple[PodServer, str]) -> None:
    # What Python makes of an argument that is not UTF-8.
    assert score(pod[1], "--prompt", "a", "--response", "caf\udce9").exit_code == 0


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_ctrl_c_ends_it_at_once_with_130(pod: tuple[PodServer, str], flags: list[str]) -> None:
    pod[0].slow_seconds = 120.0
    command = [sys.executable, "-m", "judge_bootstrap", "judge", "score", "--url", pod[1], "--prompt", "a",
               "--response", "b", *flags]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(PYTOOL)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 120
    while not pod[0].asked and time.monotonic() < until:
        time.sleep(0.02)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=100)
    assert time.monotonic() - started < 60
    assert process.returncode == 130
    assert "Traceback" not in stderr
    if flags:
        assert json.loads(stdout)["reason"] == "INTERRUPTED"
    else:
        assert (stdout, stderr.strip()) == ("", "Error: interrupted\nHint: run the same command again")
