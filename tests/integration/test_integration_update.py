"""A model update in the lab: it moves the pods, goes back by itself when golden answers drift, and by hand.

Each start of vLLM takes half a minute here, so one story of four commands is told, and looked at from several sides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from integration.local_site import Answer, Cli, on_node
from judge_bootstrap.core.golden import BUILT_IN, Golden, GoldenFile, Source, golden_text
from judge_client.prompts import prompt_digest
from judge_client.rubric import CRITERION_NAMES, DEFAULT_RUBRIC
from judge_lab import site
from judge_lab.layout import Layout, lab_dir

NAMESPACE, SERVICE = "llm-judge", "judge-inference-service"
MODEL = "judge-lab/tiny-judge"
# The branch: the lab's AppConfig names a commit, and a commit does not move.
BRANCH = ("-e", "model.revision=main")
pytestmark = pytest.mark.lab


def drifting() -> str:
    """Return golden answers that no judge can keep to: the same answer is accepted as worst and as best."""
    items = tuple(Golden(f"capital-{score}", BUILT_IN[0].question, BUILT_IN[0].answer, BUILT_IN[0].expect,
                         dict.fromkeys(CRITERION_NAMES, score)) for score in (1, 10))
    source = Source(MODEL, "0" * 40, None, None, prompt_digest(), DEFAULT_RUBRIC.digest, "2026-01-01T00:00:00Z")
    return golden_text(GoldenFile(items, source))


def cluster(path: str, **query: Any) -> Any:
    """Return what the API server answers, asked by its own client."""
    from kubernetes import client, config

    config.load_kube_config(site.environment()["KUBECONFIG"])
    with client.ApiClient() as api:
        return json.loads(api.call_api(path, "GET", query_params=list(query.items()), auth_settings=["BearerToken"],
                                       _preload_content=False).data)


@dataclass(frozen=True)
class Moment:
    """How a command ended, and what cluster and nodes looked like after it."""

    answer: Answer
    deployment: dict[str, Any]
    # (commit, ready, uid) of each pod that is not going.
    pods: list[tuple[str, bool, str]]
    branches: list[str]
    loader: dict[str, str]
    labels: list[set[str]]


def look(answer: Answer) -> Moment:
    pods = cluster(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector="app.kubernetes.io/name=judge-inference")
    models = cluster(f"/api/v1/namespaces/{NAMESPACE}-loader/configmaps/judge-loader-models")["data"]
    prefix = "judge-bootstrap.io/model-"
    return Moment(
        answer, cluster(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{SERVICE}"),
        [(pod["metadata"]["annotations"]["judge-bootstrap.io/model-commit"],
          any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"]),
          pod["metadata"]["uid"]) for pod in pods["items"]
         # What is left of a node that was killed is a record, and no pod.
         if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] in ("Pending", "Running")],
        # A node that was only ever given a commit has no branch.
        [on_node(node["address"], f"cat /mnt/nvme/hub/models--{MODEL.replace('/', '--')}/refs/main || true").strip()
         for node in site.status()["nodes"].values()],
        {name: json.loads(text)["commit"] for name, text in models.items()},
        [{name.removeprefix(prefix) for name, value in node["metadata"]["labels"].items()
          if name.startswith(prefix) and value == "ready"} for node in cluster("/api/v1/nodes")["items"]
         if node["metadata"]["labels"].get("role") == "ai-gpu"])


@dataclass
class Story:
    """What happened, by its name here; `commits` in the order in which the Hub's branch had them."""

    moments: dict[str, Moment] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("update")
    cli, told = Cli(folder / "state"), Story()
    golden = folder / "drifting.json"
    golden.write_text(drifting(), encoding="utf-8")
    first = cli()
    assert first.code == 0, first.stderr
    told.moments["site"] = look(first)
    told.commits.append(told.moments["site"].pods[0][0])
    # An update gives the new files to the nodes that have the old ones; another module may have left one still at work.
    give_up = time.monotonic() + 600
    while not all(told.commits[0] in labels for labels in look(first).labels):
        assert time.monotonic() < give_up, "a node has not got the model"
        time.sleep(1)
    readme: Path = Layout(lab_dir()).hub / MODEL / "README.md"
    text = readme.read_text(encoding="utf-8")
    try:
        for name, words in (
            ("update", ("update", "--canary", "50%", "--bake", "2s")),
            ("drift", ("update", "-e", f"vllm_k8s_golden_file={golden}")),
            ("rollback", ("rollback",)),
        ):
            if name != "rollback":
                readme.write_text(text + f"\nRelease {name}.\n", encoding="utf-8")
            told.moments[name] = look(cli("models", *words, *BRANCH))
        # The Hub has the first commit only as long as its files are the first ones.
        readme.write_text(text, encoding="utf-8")
        told.moments["run"] = look(cli("run", "vllm_k8s"))
        yield told
    finally:
        readme.write_text(text, encoding="utf-8")


def commits_of(moment: Moment) -> set[str]:
    return {commit for commit, _, _ in moment.pods}


def test_an_update_moves_every_pod_to_the_new_commit(story: Story) -> None:
    moment = story.moments["update"]
    assert moment.answer.code == 0, moment.answer.stderr
    (commit,) = commits_of(moment)
    assert commit not in commits_of(story.moments["site"])
    assert all(ready for _, ready, _ in moment.pods)


def test_an_update_points_the_branch_of_every_node_at_what_is_served(story: Story) -> None:
    moment = story.moments["update"]
    assert set(moment.branches) == commits_of(moment)


def test_an_update_says_what_each_new_replica_said_of_itself(story: Story) -> None:
    moment = story.moments["update"]
    roll = moment.answer.json["roll"]
    assert (roll["outcome"], roll["canary"], {roll["to"]}) == ("rolled", 1, commits_of(moment))
    assert [(line["asked"], line["ready"], line["commit"]) for line in roll["replicas"]] == [(True, True, roll["to"])]
    assert roll["replicas"][0]["golden_items"] > 0


def test_every_node_had_both_commits_when_the_pods_moved(story: Story) -> None:
    old, new = commits_of(story.moments["site"]), commits_of(story.moments["update"])
    assert all(old | new <= labels for labels in story.moments["update"].labels)


def test_an_update_leaves_nothing_paused_and_no_mark(story: Story) -> None:
    deployment = story.moments["update"].deployment
    assert "paused" not in deployment["spec"]
    assert "judge-bootstrap.io/update" not in deployment["metadata"]["annotations"]
    assert "next.json" not in story.moments["update"].loader


def test_an_update_whose_golden_answers_drift_fails_with_that_reason(story: Story) -> None:
    answer = story.moments["drift"].answer
    assert (answer.code, answer.json["reason"]) == (1, "GOLDEN_DRIFT"), answer.stderr
    (before,) = commits_of(story.moments["update"])
    message = next(host["message"] for host in answer.json["hosts"].values())
    assert f"rolled back, {before[:12]} serves on all 1 replicas" in message
    assert "4.50 points from what was accepted" in message


def test_the_old_commit_serves_again_with_the_golden_answers_that_it_had(story: Story) -> None:
    before, after = story.moments["update"], story.moments["drift"]
    assert commits_of(after) == commits_of(before)
    assert all(ready for _, ready, _ in after.pods)
    assert after.deployment["spec"]["template"] == before.deployment["spec"]["template"]


def test_the_nodes_branch_did_not_move_to_what_was_not_taken(story: Story) -> None:
    assert story.moments["drift"].branches == story.moments["update"].branches


def test_the_loader_wants_what_is_served_and_keeps_what_was_before(story: Story) -> None:
    (old,), (new,) = commits_of(story.moments["site"]), commits_of(story.moments["update"])
    assert story.moments["drift"].loader == {"wanted.json": new, "previous.json": old}
    assert story.moments["rollback"].loader == {"wanted.json": old, "previous.json": new}


def test_a_rollback_brings_the_pods_and_the_branch_back(story: Story) -> None:
    moment = story.moments["rollback"]
    assert moment.answer.code == 0, moment.answer.stderr
    assert commits_of(moment) == commits_of(story.moments["site"]) == set(moment.branches)
    assert all(ready for _, ready, _ in moment.pods)
    assert moment.answer.json["roll"]["outcome"] == "rolled"


def test_a_run_after_a_rollback_moves_no_pod(story: Story) -> None:
    before, after = story.moments["rollback"], story.moments["run"]
    assert after.answer.code == 0, after.answer.stderr
    assert after.pods == before.pods
    assert not [change for change in after.answer.json["changes"] if "Deployment/" in change["diff"]]
