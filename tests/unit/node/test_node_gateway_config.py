"""gateway.json: what is taken, and that nothing else is."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from judge_node.bundle import build_pyz
from judge_node.serving.config import ConfigError, parse
from judge_node.serving.golden import ReplyInvalid, drift, scores_of
from unit.node.gateway_app import COMMIT, completion, document, item


def test_a_good_one_is_taken_as_it_is() -> None:
    config = parse(document(api_key_file="/etc/judge-api-key/api-key"))
    assert (config.api_key_file, config.max_body_bytes, config.tolerance) == ("/etc/judge-api-key/api-key", 1000, 1.0)
    assert [one.id for one in config.items] == ["one"]
    assert config.provenance()["commit"] == COMMIT


@pytest.mark.parametrize("key", sorted(document()))
def test_every_key_is_wanted(key: str) -> None:
    """Above all api_key_file: a file without it must not be an open judge."""
    without = {name: value for name, value in document().items() if name != key}
    with pytest.raises(ConfigError, match=f"the configuration has no {key}, wanted exactly"):
        parse(without)


@pytest.mark.parametrize(("changes", "said"), [
    ({"api_key_fil": "/x"}, "unknown 'api_key_fil'"),
    ({"schema": 2}, "schema is 2, wanted 1"),
    ({"schema": True}, "schema is True, wanted 1"),
    ({"api_key_file": ""}, "api_key_file is ''"),
    ({"api_key_file": "relative"}, "wanted an absolute path, or null"),
    ({"api_key_file": False}, "api_key_file is False"),
    ({"commit": "main"}, "wanted 40 hexadecimal digits"),
    ({"commit": COMMIT + "\n"}, "wanted 40 hexadecimal digits"),
    ({"served_name": ""}, "served_name is '', wanted a text"),
    ({"manifest_digest": None}, "manifest_digest is None, wanted a text"),
    ({"max_body_bytes": 0}, "wanted a positive integer"),
    ({"max_body_bytes": "1000"}, "wanted a positive integer"),
    ({"max_body_bytes": True}, "wanted a positive integer"),
    ({"golden": None}, "golden is None, wanted an object with tolerance, items"),
    ({"golden": {"tolerance": 1}}, "golden has no items"),
    ({"golden": {"tolerance": -1, "items": [item()]}}, "wanted a number of at least 0"),
    ({"golden": {"tolerance": math.nan, "items": [item()]}}, "wanted a number of at least 0"),
    ({"golden": {"tolerance": math.inf, "items": [item()]}}, "wanted a number of at least 0"),
    ({"golden": {"tolerance": True, "items": [item()]}}, "wanted a number of at least 0"),
    ({"golden": {"tolerance": 1, "items": []}}, "wanted a list of at least one"),
    ({"golden": {"tolerance": 1, "items": [item(), item()]}}, "items[1].id is 'one', wanted a name that no other item"),
    ({"golden": {"tolerance": 1, "items": [{**item(), "id": 7}]}}, "items[0].id is 7"),
    ({"golden": {"tolerance": 1, "items": [{**item(), "request": {}}]}}, "wanted the body of a chat completion"),
    ({"golden": {"tolerance": 1, "items": [item("a", {})]}}, "wanted an integer for each criterion, or null"),
    ({"golden": {"tolerance": 1, "items": [{**item(), "accepted": {"overall": True}}]}}, "wanted an integer for each"),
    ({"golden": {"tolerance": 1, "items": [{**item(), "accepted": {"overall": 7.5}}]}}, "wanted an integer for each"),
    ({"served_name": "other"}, "items[0].request has model 'judge'"),
])
def test_what_is_wrong_is_said_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(document(**changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_streamed_golden_request_is_refused() -> None:
    streamed = item()
    streamed["request"]["stream"] = True
    with pytest.raises(ConfigError, match="no stream"):
        parse(document(golden={"tolerance": 1, "items": [streamed]}))


def test_drift_is_the_mean_over_items_and_criteria_alike() -> None:
    items = parse(document(golden={"tolerance": 1, "items": [
        item("one criterion", {"overall": 10}), item("two", {"overall": 5, "accuracy": 5}), item("none")]})).items
    scores = [{"overall": 1, "accuracy": 1}, {"overall": 5, "accuracy": 8}, {"overall": 1, "accuracy": 1}]
    found = drift(zip(items, scores, strict=True))
    assert (found.mean, found.worst) == (4.0, "one criterion")


def test_where_the_request_has_no_schema_any_scores_from_1_to_10_are_a_verdict() -> None:
    assert scores_of(completion({"scores": {"tone": 10}}), {"messages": []}) == {"tone": 10}
    for scores in ({"tone": 0}, {"tone": 11}, {}, {"tone": 5.0}):
        with pytest.raises(ReplyInvalid):
            scores_of(completion({"scores": scores}), {"messages": []})


def test_the_schema_s_own_bounds_hold() -> None:
    request = item()["request"]
    criteria = request["response_format"]["json_schema"]["schema"]["properties"]["scores"]["properties"]
    criteria["accuracy"]["maximum"] = 5
    with pytest.raises(ReplyInvalid, match="accuracy is 8, wanted an integer from 1 to 5"):
        scores_of(completion({"scores": {"accuracy": 8, "overall": 7}}), request)


def test_what_a_judge_says_is_shown_short_and_harmless() -> None:
    with pytest.raises(ReplyInvalid) as caught:
        scores_of(completion("\x1b[2J\u202e" + "x" * 5000), {"messages": []})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 150


def test_the_gateway_runs_from_the_zip_with_nothing_else_on_the_path(tmp_path: Path) -> None:
    program = tmp_path / "judge-node.pyz"
    program.write_bytes(build_pyz())
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps(document()))
    code = "import judge_node.serving.gateway as g; g.Gateway(None); print(g.__file__)"
    env = {"PYTHONPATH": str(program), "JUDGE_GATEWAY_CONFIG": str(path), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
                          env=env)
    assert done.stdout.startswith(f"{program}/judge_node/serving/gateway.py")
