"""`models baseline`: what it asks, what it writes, and when it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_desks import shipped_variables
from fakes_cli import Desk
from judge_bootstrap.cli.baseline import choose_pod
from judge_bootstrap.core.golden import BUILT_IN, GoldenFile, golden_text, load_golden
from pod_servers import SCORES, PodServer, served, serving

COMMIT = "c" * 40
KEY = "the-key"
PROVENANCE = {"repo_id": "org/judge", "commit": COMMIT, "manifest_digest": "d", "served_name": "org/judge",
              "image": "vllm:1@sha256:cc"}


@pytest.fixture
def judge() -> PodServer:
    pod = serving("org/judge", COMMIT, key=KEY)
    pod.routes["/judge/provenance"] = (200, PROVENANCE)
    return pod


@pytest.fixture
def asking(desk: Desk, judge: PodServer, tmp_path: Path) -> Iterator[Desk]:
    """Return the CLI with settings that name a judge."""
    key_file = tmp_path / "api-key"
    key_file.write_text(KEY + "\n")
    with served(judge) as url:
        desk.role_variables = shipped_variables(vllm_k8s_endpoint_url=url, vllm_k8s_endpoint_key_file=str(key_file),
                                                model_cache_dir="/mnt/nvme/hub")
        yield desk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two of the built-in answers, of which nothing is accepted yet."""
    path = tmp_path / "golden.json"
    path.write_text(golden_text(GoldenFile(BUILT_IN[:2])))
    return path


def says(judge: PodServer, **scores: int) -> None:
    """Have the judge give other scores from now on."""
    content = json.dumps({"reasoning": "So it is.", "scores": {**SCORES, **scores}})
    status, completion = judge.routes["/v1/chat/completions"]
    choice = {**completion["choices"][0], "message": {"role": "assistant", "content": content}}
    judge.routes["/v1/chat/completions"] = (status, {**completion, "choices": [choice]})


def run(desk: Desk, *words: str) -> tuple[int, dict[str, Any]]:
    result, answer = desk.invoke_json("--env", "prod", "models", "baseline", *words)
    return result.exit_code, answer


def test_it_writes_the_built_in_answers_with_the_judge_s_scores(asking: Desk, judge: PodServer, tmp_path: Path) -> None:
    code, answer = run(asking, "--out", str(tmp_path / "new" / "golden.json"))
    assert (code, answer["ok"], answer["changed"], answer["drift"]) == (0, True, True, None)
    written = load_golden(tmp_path / "new" / "golden.json")
    assert [item.id for item in written.items] == [item.id for item in BUILT_IN]
    assert all(item.accepted == SCORES for item in written.items)
    source = written.accepted_from
    assert source is not None
    assert (source.repo_id, source.commit, source.image, source.served_name) == (
        "org/judge", COMMIT, "vllm:1@sha256:cc", "org/judge")
    assert len(judge.bodies) == len(BUILT_IN)
    assert {(body["temperature"], body["seed"]) for body in judge.bodies} == {(0.0, 0)}


def test_the_same_scores_again_change_nothing(asking: Desk, path: Path) -> None:
    run(asking, "--out", str(path))
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    code, answer = run(asking, "--out", str(path))
    assert (code, answer["changed"], answer["drift"]) == (0, False, 0.0)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_check_writes_nothing_and_fails_when_a_pod_would_not_become_ready(asking: Desk, judge: PodServer, path: Path
                                                                          ) -> None:
    run(asking, "--out", str(path))
    before = path.read_bytes()
    says(judge, overall=1, accuracy=2)
    code, answer = run(asking, "--out", str(path), "--check")
    assert (code, answer["ok"], answer["reason"], round(answer["drift"], 3)) == (1, False, "GOLDEN_DRIFT", 2.167)
    assert path.read_bytes() == before
    result = asking.invoke("--env", "prod", "models", "baseline", "--out", str(path), "--check")
    assert "  capital: accuracy 8 -> 2, relevance 8" in result.stdout
    assert "Error: GOLDEN_DRIFT: the scores are 2.17 points from those accepted, on average" in result.stderr
    assert f"Hint: judge-bootstrap --env prod models baseline --out {path}" in result.stderr


def test_check_within_tolerance_is_well(asking: Desk, judge: PodServer, path: Path) -> None:
    run(asking, "--out", str(path))
    says(judge, overall=7)
    code, answer = run(asking, "--out", str(path), "--check")
    assert (code, answer["ok"], answer["changed"], answer["reason"]) == (0, True, True, None)
    asking.role_variables["vllm_k8s_golden_tolerance"] = "0.1"  # a text, as -e gives it
    assert run(asking, "--out", str(path), "--check")[0] == 1


def test_check_before_there_is_a_file_writes_none(asking: Desk, tmp_path: Path) -> None:
    code, answer = run(asking, "--out", str(tmp_path / "golden.json"), "--check")
    assert (code, answer["changed"]) == (0, True)
    assert not (tmp_path / "golden.json").exists()


def test_new_scores_are_accepted_when_a_person_says_so(asking: Desk, judge: PodServer, path: Path) -> None:
    run(asking, "--out", str(path))
    says(judge, overall=1)
    code, answer = run(asking, "--out", str(path))
    assert (code, answer["changed"], round(answer["drift"], 3)) == (0, True, 1.167)
    assert all((item.accepted or {})["overall"] == 1 for item in load_golden(path).items)


def test_questions_that_people_added_are_asked_and_kept(asking: Desk, path: Path) -> None:
    own = {"id": "own", "question": "2 + 2?", "answer": "5", "expect": "bad", "accepted": None}
    path.write_text(json.dumps({"schema": 1, "accepted_from": None, "items": [own]}))
    run(asking, "--out", str(path))
    (item,) = load_golden(path).items
    assert (item.question, item.answer, item.accepted) == ("2 + 2?", "5", SCORES)


def test_a_judge_that_likes_bad_answers_is_warned_of(asking: Desk, path: Path) -> None:
    result = asking.invoke("--env", "prod", "models", "baseline", "--out", str(path))
    assert "Warning: capital-wrong is a bad answer, and its overall score is 8" in result.stderr
    assert "capital is a good answer" not in result.stderr
    assert f"Next: read it, commit it, and set vllm_k8s_golden_file: {path}" in result.stdout


def test_the_settings_name_the_file_beside_the_environment(asking: Desk) -> None:
    asking.role_variables["vllm_k8s_golden_file"] = "prod.golden.json"
    _, answer = run(asking)
    assert answer["file"] == str(asking.content / "inventory" / "prod.golden.json")
    assert Path(answer["file"]).is_file()


def test_without_any_file_it_says_how_to_name_one(asking: Desk) -> None:
    code, answer = run(asking)
    assert (code, answer["message"]) == (2, "nothing says where the golden answers belong")
    assert "--out" in answer["hint"]


def test_half_a_baseline_is_not_written(asking: Desk, judge: PodServer, tmp_path: Path) -> None:
    judge.routes["/v1/chat/completions"] = (501, {"error": {"message": "CUDA out of memory"}})
    code, answer = run(asking, "--out", str(tmp_path / "golden.json"))
    assert (code, answer["reason"]) == (1, "VERDICT_INVALID")
    assert "gave no verdict on golden answer capital" in answer["message"]
    assert "CUDA out of memory" in answer["message"]
    assert not (tmp_path / "golden.json").exists()


def test_a_key_that_the_judge_does_not_take_is_told_and_not_shown(asking: Desk, judge: PodServer, path: Path) -> None:
    judge.key = "another"
    result = asking.invoke("--env", "prod", "--json", "models", "baseline", "--out", str(path))
    assert (result.exit_code, json.loads(result.stdout)["reason"]) == (1, "API_KEY_WRONG")
    assert KEY not in result.output


def test_a_file_that_is_none_is_not_overwritten(asking: Desk, path: Path) -> None:
    path.write_text("{}")
    code, answer = run(asking, "--out", str(path))
    assert (code, answer["reason"]) == (2, "GOLDEN_FILE_UNUSABLE")
    assert path.read_text() == "{}"


def test_scores_of_other_prompts_are_compared_with_a_warning(asking: Desk, path: Path) -> None:
    run(asking, "--out", str(path))
    old = json.loads(path.read_text())
    old["accepted_from"]["prompt_sha256"] = "0" * 64
    path.write_text(json.dumps(old))
    result = asking.invoke("--env", "prod", "models", "baseline", "--out", str(path))
    assert "with other prompts or another rubric than this version's, so its scores and" in result.stderr
    assert json.loads(path.read_text())["accepted_from"]["prompt_sha256"] != "0" * 64


def test_without_a_gateway_the_file_says_what_the_client_knows(asking: Desk, judge: PodServer, path: Path) -> None:
    del judge.routes["/judge/provenance"]
    _, answer = run(asking, "--out", str(path))
    assert (answer["repo_id"], answer["commit"], answer["image"], answer["served_name"]) == (
        None, COMMIT, None, "org/judge")


def pod(name: str, *, ready: bool = False, started: bool = True, going: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, **({"deletionTimestamp": "2026-11-28T12:00:00Z"} if going else {})}
    server = {"name": "vllm", "ready": ready, "started": started}
    return {"metadata": metadata, "status": {"containerStatuses": [server]}}


@pytest.mark.parametrize(("pods", "wanted"), [
    ([], (None, False)),
    ([pod("b", ready=True), pod("a"), pod("c", ready=True)], ("b", True)),
    ([pod("b"), pod("a")], ("a", False)),  # drifted: asked all the same, or its model could never be accepted
    ([pod("a", started=False)], (None, False)),
    ([pod("a", ready=True, going=True), pod("b")], ("b", False)),
    ([{"metadata": {"name": "a"}}], (None, False)),
])
def test_the_pod_that_is_asked(pods: list[dict[str, Any]], wanted: tuple[str | None, bool]) -> None:
    assert choose_pod(pods) == wanted
