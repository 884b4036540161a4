"""`judge compare`: one pair by options, or a file of pairs with the options of a batch; never half of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import cli
from judge_client import Comparison
from pod_servers import PodServer, served, serving

COMMIT = "a" * 40
PAIR = ("--prompt", "2+2?", "--response-a", "It is right.", "--response-b", "It is wrong.")


class Comparing(PodServer):
    """A judge that always prefers the response with `better` in it; None: always the one that it reads first."""

    better: str | None = "right"

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, Any]:
        status, body = super().answer(method, path, authorization)
        if path.endswith("/completions") and status == 200:
            text = str(self.bodies[-1]["messages"][-1]["content"])
            first = text.partition("[FIRST RESPONSE")[2].partition("[SECOND RESPONSE")[0]
            winner = "first" if self.better is None or self.better in first else "second"
            body["choices"][0]["message"]["content"] = json.dumps({"reasoning": f"The {winner} one.", "winner": winner})
        return status, body


@pytest.fixture(autouse=True)
def no_key_of_ours_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    monkeypatch.setattr("judge_client.exchange.Policy.pause_before", lambda *_: 0.0)


@pytest.fixture
def pod() -> Iterator[tuple[Comparing, str]]:
    """Yield a judge that compares, and its URL."""
    server = Comparing(serving("org/judge", COMMIT).routes)
    with served(server) as url:
        yield server, url


def compare(url: str, *words: str) -> Result:
    return CliRunner().invoke(cli, ["judge", "compare", "--url", url, *words], obj=AppContext())


def test_the_winner_is_shown_with_both_reasonings(pod: tuple[Comparing, str]) -> None:
    done = compare(pod[1], *PAIR)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [
        "Winner: response A", "Response A read first: response A. The first one.",
        "Response B read first: response A. The second one."]


def test_orders_that_do_not_agree_are_a_tie_and_said_so(pod: tuple[Comparing, str]) -> None:
    pod[0].better = None
    done = compare(pod[1], *PAIR)
    assert done.stdout.splitlines()[0] == "Winner: a tie, for the two orders do not agree"


def test_json_is_the_comparison_as_the_client_gives_it(pod: tuple[Comparing, str]) -> None:
    found = json.loads(compare(pod[1], *PAIR, "--json").stdout)
    assert (found["ok"], found["command"], found["reason"]) == (True, "judge compare", None)
    comparison = Comparison.from_dict(found["comparison"])
    assert (comparison.winner, comparison.consistent, comparison.to_dict()) == ("a", True, found["comparison"])


def test_with_v_it_is_shown_where_the_comparison_came_from(pod: tuple[Comparing, str]) -> None:
    assert f"\n  commit: {COMMIT}\n" in compare(pod[1], *PAIR, "-v").stdout


def test_a_suspect_answer_is_named_and_fails_only_where_that_is_asked_for(pod: tuple[Comparing, str]) -> None:
    words = ("--prompt", "2+2?", "--response-a", "It is right.", "--response-b", "")
    shown = compare(pod[1], *words)
    assert (shown.exit_code, "\nSuspect: response B: EMPTY\n" in shown.stdout) == (0, True)
    failed = compare(pod[1], *words, "--fail-on-suspect")
    assert failed.exit_code == 1
    assert "Error: VERDICT_SUSPECT: what was judged is suspect: response B: EMPTY" in failed.stderr


def test_a_reply_that_names_no_winner_is_a_failure_with_its_code(pod: tuple[Comparing, str]) -> None:
    pod[0].routes["/v1/models"] = (200, {"data": []})
    done = compare(pod[1], *PAIR, "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["reason"]) == (1, False, "WRONG_MODEL_SERVED")
    assert found["comparison"]["winner"] is None


def test_texts_come_from_files(pod: tuple[Comparing, str], tmp_path: Path) -> None:
    for name in ("prompt", "a", "b"):
        (tmp_path / name).write_text(f"the text of {name}")
    files = [word for option, name in (("--prompt-file", "prompt"), ("--response-a-file", "a"),
                                       ("--response-b-file", "b")) for word in (option, str(tmp_path / name))]
    assert compare(pod[1], *files).exit_code == 0
    sent = str(pod[0].bodies[0]["messages"][-1]["content"])
    assert sent.index("the text of prompt") < sent.index("the text of a") < sent.index("the text of b")


@pytest.mark.parametrize(("words", "message"), [
    ([], "no prompt is given"),
    (["--prompt", "a", "--response-a", "b"], "no response-b is given"),
    ([*PAIR, "--out", "x"], "only a file of pairs takes --out"),
    ([*PAIR, "--window", "3", "--no-texts"], "only a file of pairs takes --window and --no-texts"),
    (["pairs.jsonl", "--prompt", "a", "--fail-on-suspect"], "only a single pair takes --prompt and --fail-on-suspect"),
    (["pairs.jsonl", "--response-a-file", "a"], "only a single pair takes --response-a-file"),
])
def test_options_that_would_be_lost_are_wrong_usage(words: list[str], message: str) -> None:
    done = compare("http://127.0.0.1:9", *words)
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, f"Error: {message}")


def test_a_file_of_pairs_is_compared_in_its_order(pod: tuple[Comparing, str], tmp_path: Path) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": str(number), "prompt": "2+2?", "response_a": "right" if number % 2 else "wrong",
              "response_b": "wrong" if number % 2 else "right"} for number in range(6)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = compare(pod[1], str(pairs), "--out", str(out), "--no-canaries", "--window", "1", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["command"] == "judge compare"
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["comparison"]["winner"]) for line in found] == [
        (str(number), "a" if number % 2 else "b") for number in range(6)]


def test_a_file_of_pairs_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    done = compare("http://127.0.0.1:9", str(tmp_path / "none.jsonl"), "--json")
    assert (done.exit_code, json.loads(done.stdout)["reason"]) == (2, "ITEMS_UNUSABLE")
