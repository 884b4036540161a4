"""`judge-bootstrap models` over hosts with real ssh: a model comes, is listed, updated on all or on none, goes back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from run_drills import MODEL_BYTES, REPOSITORY, Drill, drill
from ssh_hosts import Host, can_run
from weights import HEAD_BYTES, weights

pytestmark = [pytest.mark.root, pytest.mark.skipif(not can_run(), reason="needs root, sshd and unshare")]

# These hosts belong to no cluster.
UPDATE, ROLLBACK = ("update", "--nodes-only"), ("rollback", "--nodes-only")
Answer = tuple[int, dict[str, Any]]


def new_weights(made: Drill) -> None:
    model = made.hosts.root.parent / "models" / REPOSITORY / "model.safetensors"
    model.write_bytes(weights(os.urandom(MODEL_BYTES - HEAD_BYTES)))


def ref(host: Host) -> str:
    """Return the commit that the branch means on a host."""
    folder = f"{host.store}/hub/models--{REPOSITORY.replace('/', '--')}"
    return host.in_namespace("cat", f"{folder}/refs/main").strip()


def models_of(answer: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {name: host["facts"]["models"] for name, host in answer["hosts"].items()}


@dataclass
class Story:
    """What a row of commands answered on two hosts, each by its name here, and what the refs were after it."""

    answers: dict[str, Answer] = field(default_factory=dict)
    refs: dict[str, list[str]] = field(default_factory=dict)

    def tell(self, made: Drill, name: str, *words: str) -> None:
        self.answers[name] = made.run("models", *words)
        self.refs[name] = []
        for host in made.hosts.hosts:
            with contextlib.suppress(Exception):
                self.refs[name].append(ref(host))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    told = Story()
    with drill(tmp_path_factory.mktemp("fleet"), 2) as made:
        assert made.run("run", "model_cache")[0] == 0
        told.tell(made, "list", "list")
        told.tell(made, "list one", "list", "--limit", "node-2")
        told.tell(made, "verify", "verify", "--deep")
        told.tell(made, "update of nothing", *UPDATE)
        new_weights(made)
        told.tell(made, "check update", *UPDATE, "--check")
        # The second host cannot be written to: nobody may be switched.
        made.hosts.hosts[1].in_namespace("mount", "-o", "remount,ro", str(made.hosts.hosts[1].store))
        told.tell(made, "failed update", *UPDATE)
        made.hosts.hosts[1].in_namespace("mount", "-o", "remount,rw", str(made.hosts.hosts[1].store))
        told.tell(made, "update", *UPDATE)
        told.tell(made, "list after update", "list")
        told.tell(made, "check rollback", *ROLLBACK, "--check")
        told.tell(made, "rollback", *ROLLBACK)
        # Not the whole commit: these hosts share /proc with this machine, where a command line that names a commit is
        # one that uses it.
        newer = f"{REPOSITORY}@{told.refs['update'][0][:12]}"
        told.tell(made, "pin", "pin", newer, "--why", "audit")
        told.tell(made, "check prune", "prune", "--max-size", "1", "--check")
        told.tell(made, "rm pinned", "rm", newer)
        told.tell(made, "unpin", "unpin", newer)
        told.tell(made, "rm", "rm", newer)
        told.tell(made, "rm again", "rm", newer)
        told.tell(made, "list at the end", "list")
        told.tell(made, "nobody", "list", "--limit", "node-9")
        yield told


def test_list_names_the_model_on_every_host(story: Story) -> None:
    code, answer = story.answers["list"]
    assert (code, answer["command"], answer["changed"]) == (0, "models list", 0)
    found = models_of(answer)
    assert sorted(found) == ["node-1", "node-2"]
    for models in found.values():
        (model,) = models
        assert (model["repo_id"], model["commit"], model["complete"], model["revisions"]) == (
            REPOSITORY, story.refs["list"][0], True, ["main"])


def test_limit_asks_only_those_hosts(story: Story) -> None:
    code, answer = story.answers["list one"]
    assert (code, list(answer["hosts"])) == (0, ["node-2"])


def test_a_limit_that_matches_no_host_is_refused(story: Story) -> None:
    code, answer = story.answers["nobody"]
    assert (code, answer["reason"]) == (3, "HOST_UNKNOWN")


def test_verify_holds_on_every_host(story: Story) -> None:
    code, answer = story.answers["verify"]
    assert (code, {host["state"] for host in answer["hosts"].values()}) == (0, {"complete"}), answer


def test_an_update_with_nothing_new_changes_nothing(story: Story) -> None:
    code, answer = story.answers["update of nothing"]
    assert (code, answer["changed"]) == (0, 0), answer


def test_the_check_of_an_update_says_what_would_be_fetched_and_switches_nothing(story: Story) -> None:
    code, answer = story.answers["check update"]
    assert (code, answer["check"], answer["changed"]) == (0, True, 2), answer
    assert story.refs["check update"] == story.refs["list"]
    assert answer["next"] == ["judge-bootstrap --env drill models update --nodes-only        do it"]


def test_a_host_that_cannot_stage_keeps_all_hosts_from_being_switched(story: Story) -> None:
    code, answer = story.answers["failed update"]
    assert code == 1
    assert story.refs["failed update"] == story.refs["list"]
    failed, other = answer["hosts"]["node-2"], answer["hosts"]["node-1"]
    assert (failed["ok"], failed["reason"]) == (False, "DISK_FAILED"), failed
    assert (other["ok"], other["reason"], other["message"]) == (
        False, "MODEL_STALE", "has the new files and was not switched, because of node-2")


def test_the_next_update_switches_all_hosts(story: Story) -> None:
    code, answer = story.answers["update"]
    assert code == 0, answer
    (before,), (after,) = set(story.refs["list"]), set(story.refs["update"])
    assert before != after
    assert {host["facts"]["previous"] for host in answer["hosts"].values()} == {before}


def test_an_update_names_what_comes_next(story: Story) -> None:
    assert story.answers["update"][1]["next"][0].startswith("judge-bootstrap --env drill run vllm_k8s")


def test_the_old_model_stays_beside_the_new_one(story: Story) -> None:
    for models in models_of(story.answers["list after update"][1]).values():
        assert {model["commit"]: (model["revisions"], model["previous_of"]) for model in models} == {
            story.refs["update"][0]: (["main"], []), story.refs["list"][0]: ([], ["main"])}


def test_the_check_of_a_rollback_switches_nothing(story: Story) -> None:
    code, answer = story.answers["check rollback"]
    assert (code, answer["changed"]) == (0, 2)
    assert story.refs["check rollback"] == story.refs["update"]


def test_a_rollback_switches_all_hosts_back(story: Story) -> None:
    code, answer = story.answers["rollback"]
    assert (code, answer["changed"]) == (0, 2), answer
    assert story.refs["rollback"] == story.refs["list"]
    assert "set model.revision" in answer["next"][0]


def test_a_pinned_model_is_not_removed(story: Story) -> None:
    assert story.answers["pin"][0] == 0, story.answers["pin"]
    code, answer = story.answers["rm pinned"]
    assert code != 0
    assert all("pinned" in host["message"] for host in answer["hosts"].values()), answer["hosts"]["node-1"]


def test_a_prune_that_only_looks_removes_nothing(story: Story) -> None:
    assert story.answers["check prune"][1]["check"] is True
    assert story.answers["rm"][0] == 0, story.answers["rm"][1]["hosts"]["node-1"]


def test_a_second_rm_finds_nothing_and_does_not_fail(story: Story) -> None:
    code, answer = story.answers["rm again"]
    assert (code, answer["changed"]) == (0, 0), answer


def test_rm_removes_the_model_from_every_host(story: Story) -> None:
    for models in models_of(story.answers["list at the end"][1]).values():
        assert [model["commit"] for model in models] == [story.refs["list"][0]]


def test_a_run_with_a_lock_file_asks_no_hub_what_the_revision_means(tmp_path: Path) -> None:
    with drill(tmp_path, 1) as made:
        code, locked = made.run("models", "lock", "--out", str(made.hosts.inventory / "drill.model.json"))
        assert code == 0, locked
        # A later commit: the branch has moved, and the lock file still says what it meant.
        new_weights(made)
        # Beside the environment's folder, as a relative name is meant.
        code, answer = made.run("run", "model_cache", "--check", "-e", "model_cache_lock_file=drill.model.json")
        assert code == 0, answer
        assert [request.path for request in made.hub.requests] == []
        assert locked["commit"][:12] in str(answer["changes"]) + str(answer["hosts"])
