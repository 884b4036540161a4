"""`models` over the hosts: what is handed to the runner, and how its answers are shown."""

from __future__ import annotations

from typing import Any

import pytest
from fakes_cli import OK, Desk, failed, ok, stats
from judge_bootstrap.adapters.runner import Ended
from judge_bootstrap.cli.fleet import model_rows

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL: dict[str, Any] = {
    "repo_id": "org/name", "commit": COMMIT, "state": "complete", "size_on_disk": 5 << 30, "revisions": ["main"],
    "previous_of": [], "quick_at": 1000.0, "deep_at": None, "in_use_by": [], "kept": "current: main"}


def verdict(command: str, *models: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Return what judge-node answers."""
    return {"ok": True, "command": command, "changed": False, "state": "complete", "reason": None, "repair": None,
            "message": "first line\nsecond line", "facts": {"models": list(models), **facts}}


@pytest.fixture
def fleet(desk: Desk) -> Desk:
    (desk.content / "playbooks" / "models.yml").write_text("[]\n")
    return desk


def given(desk: Desk) -> dict[str, Any]:
    """Return the variables that the last run got."""
    return dict(desk.runner.calls[-1].extra_vars)


@pytest.mark.parametrize(("words", "verb", "options"), [
    (["list"], "list", {}),
    (["verify"], "verify", {}),
    (["verify", "--deep", "--limit-rate", "50M"], "verify", {"deep": True, "limit_rate": "50M"}),
    (["prune", "--keep-free", "20%"], "prune", {"keep_free": "20%"}),
    (["pin", "org/name", "--why", "an audit"], "pin", {"model": "org/name", "why": "an audit"}),
    (["unpin", "org/name@0123456"], "unpin", {"model": "org/name@0123456"}),
    (["update"], "update", {}),
    (["rollback"], "rollback", {}),
    (["rollback", "org/name", "--revision", "next"], "rollback", {"model": "org/name", "revision": "next"}),
    (["rm", "org/name", "--current"], "rm", {"model": "org/name", "current": True}),
])
def test_every_verb_reaches_the_nodes_with_its_options(
    fleet: Desk, words: list[str], verb: str, options: dict[str, Any]
) -> None:
    result = fleet.invoke("--env", "prod", "models", *words)
    assert result.exit_code == 0, result.output
    assert [path.stem for path in fleet.runner.calls[0].playbooks] == ["models"]
    assert given(fleet) == {"models_verb": verb, "models_options": options}


def test_hosts_and_variables_are_those_of_a_run(fleet: Desk) -> None:
    fleet.invoke("--env", "prod", "models", "list", "--limit", "node-1", "-e", "model_cache_dir=/mnt/x", "--forks", "3")
    request = fleet.runner.calls[0]
    assert (request.limit, request.forks, request.check) == ("node-1", 3, False)
    assert fleet.asked_settings == [("model_cache_dir=/mnt/x",)]


@pytest.mark.parametrize("words", [["prune", "--keep-free", "1G"], ["pin", "a/b"], ["unpin", "a/b"], ["update"],
                                   ["rollback"], ["rm", "a/b"]])
def test_every_verb_that_changes_something_can_be_checked(fleet: Desk, words: list[str]) -> None:
    fleet.invoke("--env", "prod", "models", *words, "--check")
    assert fleet.runner.calls[0].check is True


@pytest.mark.parametrize("words", [["prune"], ["prune", "--keep-free", "1G", "--max-size", "2G"]])
def test_prune_wants_one_goal(fleet: Desk, words: list[str]) -> None:
    result = fleet.invoke("--env", "prod", "models", *words)
    assert result.exit_code == 2
    assert "of --max-size, --keep-free and --unused-for, wanted one" in result.stderr
    assert fleet.runner.calls == []


def test_the_playbook_of_these_commands_is_none_of_run(fleet: Desk) -> None:
    result = fleet.invoke("--env", "prod", "run", "models")
    assert result.exit_code == 2
    assert "unknown playbook 'models'" in result.stderr


def test_list_is_a_table_of_hosts_and_models(fleet: Desk) -> None:
    other = {**MODEL, "repo_id": "org/other", "in_use_by": [{"pid": 1}], "kept": "in use: vllm"}
    fleet.runner.events = [ok("node-1", judge=verdict("cache list", MODEL, other)),
                           ok("node-2", judge=verdict("cache list")), stats(node_1=OK, node_2=OK)]
    result = fleet.invoke("--env", "prod", "models", "list")
    rows = [line.split("\t") for line in result.stdout.splitlines() if "\t" in line]
    assert rows[0] == ["host", "model", "commit", "state", "size", "revision", "checked", "in use", "kept"]
    assert rows[1][:6] == ["node-1", "org/name", "0123456789ab", "complete", "5.0 GiB", "main"]
    assert rows[2][7:] == ["by 1", "in use"]
    assert rows[3][:2] == ["node-2", "(none)"]
    assert "second line" not in result.stdout


def test_the_row_says_when_and_how_the_model_was_checked_last() -> None:
    checked = {**MODEL, "quick_at": 1000.0, "deep_at": 400.0}
    (row,) = model_rows({"node-1": verdict("cache list", checked)}, 1120.0)
    assert row[6] == "2 min ago, quick"
    (row,) = model_rows({"node-1": verdict("cache list", {**MODEL, "quick_at": None})}, 1120.0)
    assert row[6] == "never"


def test_a_node_that_cannot_tell_who_uses_a_model_does_not_say_that_nobody_does() -> None:
    (row,) = model_rows({"node-1": verdict("cache list", {**MODEL, "in_use_by": None})}, 1120.0)
    assert row[7] == "?"


def test_json_has_for_each_host_what_its_node_found(fleet: Desk) -> None:
    fleet.runner.events = [ok("node-1", judge=verdict("cache list", MODEL)), ok("node-2"), stats(node_1=OK, node_2=OK)]
    result, answer = fleet.invoke_json("--env", "prod", "models", "list")
    assert (result.exit_code, answer["command"]) == (0, "models list")
    assert answer["hosts"]["node-1"]["facts"]["models"] == [MODEL]
    assert answer["hosts"]["node-2"]["facts"] == {}


def test_a_host_that_did_not_report_fails_the_command(fleet: Desk) -> None:
    fleet.runner.events = [ok("node-1", judge=verdict("cache list")), stats(node_1=OK)]
    result, answer = fleet.invoke_json("--env", "prod", "models", "list")
    assert (result.exit_code, answer["hosts"]["node-2"]["reason"]) == (1, "NODE_SILENT")
    assert answer["hosts"]["node-2"]["repair"] == "judge-bootstrap --env prod models list --limit node-2"


def test_a_check_names_the_command_that_does_it(fleet: Desk) -> None:
    fleet.runner.events = [ok("node-1", changed=True), ok("node-2"), stats(node_1=OK, node_2=OK)]
    words = ["models", "pin", "a/b", "--why", "an audit", "--check", "--limit", "x"]
    _, answer = fleet.invoke_json("--env", "prod", *words)
    assert answer["next"] == ["judge-bootstrap --env prod models pin a/b --why 'an audit' --limit x        do it"]


def test_a_check_of_another_revision_names_the_command_for_that_revision(fleet: Desk) -> None:
    fleet.runner.events = [ok("node-1", changed=True), ok("node-2"), stats(node_1=OK, node_2=OK)]
    _, answer = fleet.invoke_json("--env", "prod", "models", "update", "--check", "-e", "model.revision=main")
    assert answer["next"] == ["judge-bootstrap --env prod models update -e model.revision=main        do it"]


def update(fleet: Desk, revision: str) -> dict[str, Any]:
    """Return the answer of an update that brought the files to node-1 and failed on node-2."""
    staged = verdict("cache start", revision=revision, commit=COMMIT)
    fleet.runner.events = [ok("node-1", judge=staged), failed("node-2", msg="no space"),
                           stats(node_1=OK, node_2={"failures": 1})]
    fleet.runner.ended = Ended(2)
    result, answer = fleet.invoke_json("--env", "prod", "models", "update")
    assert result.exit_code == 1
    return answer


def test_a_host_that_was_not_switched_because_of_another_does_not_hold(fleet: Desk) -> None:
    host = update(fleet, "main")["hosts"]["node-1"]
    assert (host["ok"], host["reason"]) == (False, "MODEL_STALE")
    assert host["message"] == "has the new files and was not switched, because of node-2"
    assert host["repair"] == "judge-bootstrap --env prod models update"


def test_the_repair_of_an_update_is_never_an_update_of_one_host(fleet: Desk) -> None:
    assert update(fleet, "main")["hosts"]["node-2"]["repair"] == "judge-bootstrap --env prod models update"


def test_a_host_whose_revision_is_a_commit_has_nothing_to_be_switched(fleet: Desk) -> None:
    assert update(fleet, COMMIT)["hosts"]["node-1"]["ok"] is True
