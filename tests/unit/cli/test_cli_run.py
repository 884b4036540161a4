"""`judge-bootstrap`, `run` and `plan`: what is handed to the runner, and what is made of its events."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from fakes_cli import OK, Desk, FakeLab, failed, ok, stats
from judge_bootstrap.adapters import lock
from judge_bootstrap.adapters.runner import Ended, Event
from judge_bootstrap.core.syncs import SYNC_TASKS
from judge_lab import LabError


def names(desk: Desk) -> list[str]:
    return [path.stem for path in desk.runner.calls[0].playbooks]


def test_without_a_command_the_whole_site_runs(desk: Desk) -> None:
    result = desk.invoke("--env", "prod")
    assert result.exit_code == 0, result.output
    assert names(desk) == ["site"]
    assert desk.runner.calls[0].inventory == desk.content / "inventory" / "prod"


def test_run_takes_playbooks_in_the_order_given(desk: Desk) -> None:
    desk.invoke("--env", "prod", "run", "model_cache", "nvme")
    assert names(desk) == ["model_cache", "nvme"]


def test_every_option_reaches_the_runner(desk: Desk) -> None:
    desk.settings.variables = {"nvme_fstype": "ext4"}
    (desk.content / "playbooks" / "nvme.yml").write_text("- {hosts: all, tags: [a, b], tasks: [{meta: x, tags: c}]}")
    result = desk.invoke("--env", "prod", "run", "nvme", "--limit", "node-1", "--tags", "a,b", "--skip-tags", "c",
                         "--check", "--diff", "--forks", "5", "-e", "nvme_fstype=ext4", "-vvv")
    assert result.exit_code == 0, result.output
    request = desk.runner.calls[0]
    assert (request.limit, request.tags, request.skip_tags, request.check, request.diff, request.forks) == (
        "node-1", "a,b", "c", True, True, 5)
    assert request.verbosity == 2
    assert request.extra_vars == {"nvme_fstype": "ext4"}
    assert desk.asked_settings == [("nvme_fstype=ext4",)]


def test_plan_checks_and_diffs_the_whole_site(desk: Desk) -> None:
    desk.invoke("--env", "prod", "plan", "--limit", "node-1")
    request = desk.runner.calls[0]
    assert (names(desk), request.check, request.diff, request.limit) == (["site"], True, True, "node-1")


def test_an_unknown_playbook_lists_the_known_ones_and_the_nearest(desk: Desk) -> None:
    result = desk.invoke("--env", "prod", "run", "nvm")
    assert result.exit_code == 2
    assert "unknown playbook 'nvm' (known: model_cache, nvme, preflight, site, verify, vllm_k8s)" in result.stderr
    assert "Hint: did you mean 'nvme'?" in result.stderr
    assert desk.runner.calls == []


@pytest.mark.parametrize(
    "given", ["hf_token=abc", "vllm_api_key=abc", '{"registry_password": "abc"}', "a=1 hf_token=abc"]
)
def test_a_secret_in_extra_vars_is_refused_and_not_repeated(desk: Desk, given: str) -> None:
    result = desk.invoke("--env", "prod", "run", "model_cache", "-e", given)
    assert result.exit_code == 2
    assert "would put a secret on the command line" in result.stderr
    assert "model_cache_token_file=/path" in result.stderr
    assert "abc" not in result.output
    assert desk.runner.calls == []


def test_a_secret_in_a_file_of_extra_vars_is_refused(desk: Desk) -> None:
    desk.settings.passed_on = {"registry": {"password": "abc"}}
    result = desk.invoke("--env", "prod", "run", "model_cache", "-e", "@vars.yml")
    assert result.exit_code == 2
    assert "-e password=... would put a secret" in result.stderr
    assert desk.runner.calls == []


@pytest.mark.parametrize(
    "given", ["model_cache_token_file=/run/token", "vllm_k8s_hf_secret_name=hf", "tokenizer=x", "max_tokens=5"]
)
def test_a_name_that_only_refers_to_a_secret_passes(desk: Desk, given: str) -> None:
    assert desk.invoke("--env", "prod", "run", "model_cache", "-e", given).exit_code == 0


def test_a_good_run_answers_in_json_per_host(desk: Desk) -> None:
    verdict = {"ok": True, "changed": True, "state": "ours", "reason": None, "message": "mounted", "repair": None}
    desk.runner.events = [ok("node-1", changed=True, judge=verdict), ok("node-2"),
                          stats(node_1={"ok": 1, "changed": 1}, node_2=OK)]
    result, answer = desk.invoke_json("--env", "prod", "run", "nvme")
    assert result.exit_code == 0
    assert (answer["ok"], answer["command"], answer["env"], answer["playbooks"]) == (True, "run", "prod", ["nvme"])
    assert answer["run_id"] == desk.runner.calls[0].run_id
    assert answer["changed"] == 1
    assert answer["hosts"]["node-1"] == {
        "ok": True,
        "changed": True,
        "state": "ours",
        "reason": None,
        "message": "mounted",
        "repair": None,
        "tasks": {"ok": 1, "changed": 1},
    }
    assert answer["hosts"]["node-2"]["changed"] is False


def test_a_host_that_no_task_reported_from_fails_the_run_though_rc_is_0(desk: Desk) -> None:
    desk.runner.events = [ok("node-1"), stats(node_1=OK)]
    result, answer = desk.invoke_json("--env", "prod")
    assert result.exit_code == 1
    assert answer["ok"] is False and answer["message"] == "1 of 2 hosts failed"
    assert answer["hosts"]["node-2"]["reason"] == "NODE_SILENT"
    assert answer["hosts"]["node-2"]["repair"] == "judge-bootstrap --env prod --limit node-2"


def test_a_run_without_any_recap_is_never_green(desk: Desk) -> None:
    desk.runner.events = []
    result, answer = desk.invoke_json("--env", "prod")
    assert result.exit_code == 1
    assert answer["ok"] is False


def test_an_unreachable_host_gets_a_reason_and_its_repair_command(desk: Desk) -> None:
    desk.runner.events = [
        Event(
            "runner_on_unreachable", host="node-1", role="nvme", result={"msg": "Failed to connect: timed out\nmore"}
        ),
        ok("node-2"),
        stats(node_1={"dark": 1}, node_2=OK),
    ]
    desk.runner.ended = Ended(4)
    result, answer = desk.invoke_json("--env", "prod")
    assert result.exit_code == 1
    host = answer["hosts"]["node-1"]
    assert host["reason"] == "NODE_UNREACHABLE"
    assert host["message"] == "not reachable: Failed to connect: timed out"
    assert host["repair"] == ("judge-bootstrap --env prod run nvme --limit node-1   "
                              "# once ssh to it works: is it running, security group, key, known_hosts")
    assert answer["hosts"]["node-2"]["ok"] is True


def test_a_failed_host_carries_the_node_programs_own_reason_and_repair(desk: Desk) -> None:
    verdict = {
        "ok": False,
        "changed": False,
        "state": "blank",
        "reason": "ARRAY_FAILED",
        "message": "mdadm",
        "repair": "dmesg",
    }
    desk.runner.events = [failed("node-1", msg="ARRAY_FAILED: mdadm", judge=verdict), ok("node-2"),
                          stats(node_1={"failures": 1}, node_2=OK)]
    desk.runner.ended = Ended(2)
    result = desk.invoke("--env", "prod", "run", "nvme")
    assert result.exit_code == 1
    assert "Error: node-1: ARRAY_FAILED: mdadm\nHint: dmesg\n" in result.stderr
    assert "1 of 2 hosts hold" in result.stdout


def test_a_disk_with_data_alone_is_a_refusal_and_not_a_failure(desk: Desk) -> None:
    verdict = {
        "ok": False,
        "state": "foreign",
        "reason": "DISK_FOREIGN_DATA",
        "message": "has xfs",
        "repair": "wipefs -n",
    }
    desk.runner.events = [failed("node-1", judge=verdict), ok("node-2"), stats(node_1={"failures": 1}, node_2=OK)]
    desk.runner.ended = Ended(2)
    assert desk.invoke("--env", "prod", "run", "nvme").exit_code == 3
    desk.runner.events = [failed("node-1", judge=verdict), failed("node-2", msg="boom"),
                          stats(node_1={"failures": 1}, node_2={"failures": 1})]
    assert desk.invoke("--env", "prod", "run", "nvme").exit_code == 1


def test_a_check_that_does_not_hold_is_a_failure_and_names_the_repair_from_here(desk: Desk) -> None:
    verdict = {
        "ok": False,
        "command": "disks status",
        "state": "absent",
        "reason": "MOUNT_MISSING",
        "message": "/mnt/nvme is not mounted",
        "repair": "judge-node disks ensure --mount-path /mnt/nvme",
    }
    desk.runner.events = [failed("node-1", judge=verdict), ok("node-2"), stats(node_1={"failures": 1}, node_2=OK)]
    desk.runner.ended = Ended(2)
    result = desk.invoke("--env", "prod", "run", "verify")
    assert result.exit_code == 1
    assert "Hint: judge-bootstrap --env prod run nvme --limit node-1\n" in result.stderr


def test_a_repair_command_without_its_environment_gets_it(desk: Desk) -> None:
    pending = failed("node-1", "Ask every pod", reason="POD_PENDING", repair="judge-bootstrap run vllm_k8s", msg="none")
    desk.runner.events = [pending, ok("node-2"), stats(node_1={"failures": 1}, node_2=OK)]
    desk.runner.ended = Ended(2)
    assert "Hint: judge-bootstrap --env prod run vllm_k8s\n" in desk.invoke("--env", "prod", "run", "verify").stderr


def test_a_failure_that_was_ignored_or_rescued_does_not_fail_the_host(desk: Desk) -> None:
    desk.runner.events = [failed("node-1", ignored=True, msg="no matter"), failed("node-2", msg="rescued"),
                          stats(node_1={"ok": 1, "ignored": 1}, node_2={"ok": 1, "rescued": 1})]
    assert desk.invoke("--env", "prod").exit_code == 0


def test_ansible_that_never_reached_a_host_is_quoted(desk: Desk) -> None:
    desk.runner.events = []
    desk.runner.ended = Ended(4, complaints=("[WARNING]: something", "ERROR! the playbook is not YAML\nin line 3"))
    result = desk.invoke("--env", "prod")
    assert result.exit_code == 1
    assert ("Error: ansible-playbook ended with 4 before any host reported: ERROR! the playbook is not YAML\n"
            "Hint: the same command with -vv shows all that Ansible said\n") in result.stderr


def test_an_interrupted_run_ends_with_130_and_says_how_to_go_on(desk: Desk) -> None:
    desk.runner.events = [ok("node-1")]
    desk.runner.ended = Ended(None, interrupted=True)
    result, answer = desk.invoke_json("--env", "prod")
    assert result.exit_code == 130
    assert (answer["ok"], answer["interrupted"], answer["reason"]) == (False, True, "INTERRUPTED")
    assert answer["hint"] == "run the same command again: it does only what is left"


def test_censored_output_says_that_it_is_hidden(desk: Desk) -> None:
    desk.runner.events = [failed("node-1", task="Write the token", censored="the output has been hidden"), ok("node-2"),
                          stats(node_1={"failures": 1}, node_2=OK)]
    _, answer = desk.invoke_json("--env", "prod")
    assert answer["hosts"]["node-1"]["message"] == (
        "Write the token: failed; its output is hidden because it may hold secrets (no_log)")


def test_plan_lists_each_hosts_changes_with_their_diff(desk: Desk) -> None:
    diff = {"before": "blank\n", "after": "format as xfs\nmount at /mnt/nvme\n"}
    desk.runner.events = [ok("node-1", "Prepare the instance store", changed=True, diff=diff), ok("node-2"),
                          stats(node_1={"ok": 1, "changed": 1}, node_2=OK)]
    result = desk.invoke("--env", "prod", "plan")
    assert result.exit_code == 0
    assert "node-1:\n  would change: Prepare the instance store\n" in result.stdout
    assert "      -blank\n      +format as xfs\n      +mount at /mnt/nvme\n" in result.stdout
    _, answer = desk.invoke_json("--env", "prod", "plan")
    assert [(change["host"], change["task"]) for change in answer["changes"]] == [
        ("node-1", "Prepare the instance store")
    ]


def test_a_plan_without_changes_says_so(desk: Desk) -> None:
    assert "Nothing would change.\n" in desk.invoke("--env", "prod", "plan").stdout


def test_in_check_mode_a_host_whose_tasks_were_all_skipped_has_reported(desk: Desk) -> None:
    desk.runner.events = [stats(node_1={"skipped": 1}, node_2={"skipped": 1})]
    assert desk.invoke("--env", "prod", "plan", "verify").exit_code == 0
    assert desk.invoke("--env", "prod", "run", "verify").exit_code == 1


def test_a_good_run_ends_with_how_to_watch_reach_and_test_the_judge(desk: Desk) -> None:
    output = desk.invoke("--env", "prod").stdout
    assert "judge-bootstrap --env prod health" in output
    assert "judge-bootstrap --env prod logs -f" in output
    assert "KEY=$(kubectl -n llm-judge get secret judge-api-key -o jsonpath='{.data.api-key}' | base64 -d)" in output
    assert "port-forward service/judge-inference-service 8000:8000" in output
    assert "judge-bootstrap --env prod run verify" in output


def test_log_level_error_makes_a_good_run_silent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    result = desk.invoke("--env", "prod")
    assert (result.exit_code, result.output) == (0, "")


def test_without_a_terminal_progress_is_one_line_a_change_on_stderr(desk: Desk) -> None:
    desk.runner.events = [
        Event("playbook_on_play_start", play="Prepare the disk"),
        ok("node-1", "Mount it", changed=True),
        ok("node-2", "Mount it"),
        stats(node_1=OK, node_2=OK),
    ]
    stderr = desk.invoke("--env", "prod").stderr
    assert stderr == "== Prepare the disk\nnode-1: changed: Mount it\n"


def test_warnings_of_the_settings_are_shown(desk: Desk) -> None:
    desk.settings.warnings = ("AppConfig is down: using version 3, 2 h old",)
    assert "Warning: AppConfig is down: using version 3, 2 h old\n" in desk.invoke("--env", "prod").stderr


def test_no_colour_codes_are_printed_with_no_color(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[3" in desk.invoke("--env", "prod").stdout
    assert "\x1b[3" not in desk.invoke("--env", "prod", "--no-color").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in desk.invoke("--env", "prod").stdout


def test_the_log_file_is_private_and_clean(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-token-0123456789")
    monkeypatch.setenv("LOG_FILE", str(tmp_path / "run.log"))
    desk.runner.events = [failed("node-1", msg="denied for canary-token-0123456789"), ok("node-2"),
                          stats(node_1={"failures": 1}, node_2=OK)]
    desk.invoke("--env", "prod", "run", "nvme")
    text = (tmp_path / "run.log").read_text()
    assert "node-1 failed Look denied for ***" in text
    assert "run nvme" in text
    assert (tmp_path / "run.log").stat().st_mode & 0o777 == 0o600


def test_a_log_file_that_cannot_be_written_is_a_usage_error(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_FILE", "/nowhere/run.log")
    result = desk.invoke("--env", "prod")
    assert result.exit_code == 2
    assert "LOG_FILE '/nowhere/run.log' cannot be written: No such file or directory" in result.stderr


def test_a_lab_environment_is_brought_up_and_its_variables_are_taken(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    monkeypatch.setenv("KUBECONFIG", "")
    desk.provider = "lab"
    result = desk.invoke("--env", "local")
    assert result.exit_code == 0, result.output
    assert desk.lab.asked == [("up", 2)]
    assert os.environ["AWS_ENDPOINT_URL"] == "http://10.77.0.1:5000"
    assert "Stand-ins in this environment:\n  - AWS: moto\n  - GPU: a device plugin\n" in result.stderr
    assert 'eval "$(judge-bootstrap lab env)"' in result.stdout


def test_a_lab_that_does_not_come_up_is_one_line_and_a_hint(desk: Desk) -> None:
    desk.provider = "lab"
    desk.lab = FakeLab(broken=LabError("the lab needs root", hint="sudo make local"))
    result = desk.invoke("--env", "local")
    assert result.exit_code == 1
    assert result.stderr == "Error: the lab needs root\nHint: sudo make local\n"
    assert desk.runner.calls == []


def test_a_held_environment_is_refused_and_names_who_holds_it(desk: Desk, tmp_path: Path) -> None:
    holder = lock.Holder(4711, "ops-1", "ann", "run-1", "judge-bootstrap site", "2026-11-24T10:00:00+00:00")
    with lock.held(tmp_path / "state" / "prod" / "lock", "prod", holder):
        result, answer = desk.invoke_json("--env", "prod")
    assert result.exit_code == 3
    assert answer["reason"] == "LOCKED"
    assert answer["message"].startswith("environment 'prod' is held by `judge-bootstrap site` of ann@ops-1 "
                                        "(pid 4711, run run-1) since 2026-11-24T10:00:00+00:00, ")
    assert desk.runner.calls == []
    assert desk.invoke("--env", "prod").exit_code == 0


def test_the_lock_of_a_run_that_was_killed_is_taken_over_with_a_warning(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "state" / "prod" / "lock"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"pid": 4711, "host": "ops-1", "user": "ann", "run_id": "run-1",
                                "command": "judge-bootstrap site", "started": "2026-11-24T10:00:00+00:00"}))
    result = desk.invoke("--env", "prod")
    assert result.exit_code == 0
    assert ("Warning: `judge-bootstrap site` (run run-1, pid 4711, started 2026-11-24T10:00:00+00:00) ended without "
            "finishing; this run goes on where it stopped\n") in result.stderr
    assert file.read_text() == ""


def test_a_run_in_one_environment_does_not_hold_another(desk: Desk, tmp_path: Path) -> None:
    with lock.held(tmp_path / "state" / "local" / "lock", "local", lock.new_holder("run-1", "x")):
        assert desk.invoke("--env", "prod").exit_code == 0


def test_playbook_names_complete() -> None:
    import click
    from judge_bootstrap.cli.run import complete_playbook, run
    ctx = click.Context(run)
    assert "nvme" in complete_playbook(ctx, run.params[0], "nv")


def test_a_task_that_runs_once_for_all_fails_every_host(desk: Desk) -> None:
    denied = failed("node-1", "Resolve the revision", role="model_cache", reason="SOURCE_DENIED", repair="set HF_TOKEN",
                    msg="SOURCE_DENIED: 401 for org/name (repair: set HF_TOKEN)")
    desk.runner.events = [ok("node-1"), ok("node-2"), denied, Event("playbook_on_no_hosts_remaining"),
                          stats(node_1={"ok": 1, "failures": 1}, node_2={"ok": 1})]
    desk.runner.ended = Ended(2)
    result, answer = desk.invoke_json("--env", "prod")
    assert result.exit_code == 1
    first, second = answer["hosts"]["node-1"], answer["hosts"]["node-2"]
    assert (first["reason"], first["message"], first["repair"]) == ("SOURCE_DENIED", "401 for org/name", "set HF_TOKEN")
    assert (second["ok"], second["reason"]) == (False, "SOURCE_DENIED")
    assert second["message"] == "401 for org/name (once for all hosts, from node-1)"


def test_bookkeeping_tasks_are_shown_only_with_v(desk: Desk) -> None:
    checked = Event("runner_on_ok", host="node-1", task="Validating arguments",
                    action="ansible.builtin.validate_argument_spec")
    desk.runner.events = [checked, ok("node-1"), ok("node-2"), stats(node_1=OK, node_2=OK)]
    assert "Validating" not in desk.invoke("--env", "prod").stderr
    assert "node-1: ok: Validating arguments\n" in desk.invoke("--env", "prod", "-v").stderr


def test_an_interrupted_run_does_not_call_hosts_silent(desk: Desk) -> None:
    desk.runner.events = [ok("node-1")]
    desk.runner.ended = Ended(None, interrupted=True)
    result, answer = desk.invoke_json("--env", "prod")
    assert answer["hosts"]["node-1"]["reason"] == "INTERRUPTED"
    assert result.stderr.count("Error:") == 1


SYNC = "/content/roles/model_cache/tasks/sync.yml:6"


def started(host: str, path: str = SYNC) -> Event:
    return Event("runner_on_start", host=host, path=path)


def answered(host: str, state: str, path: str = SYNC) -> Event:
    return Event("runner_on_ok", host=host, path=path, result={"judge": {"ok": True, "state": state}})


def interrupted_run(desk: Desk, *events: Event) -> None:
    desk.runner.events, desk.runner.ended = list(events), Ended(None, interrupted=True)


def test_an_interrupted_run_stops_the_syncs_that_it_started(desk: Desk) -> None:
    interrupted_run(desk, started("node-1"), answered("node-1", "running"), started("node-2"))
    desk.runner.later = [answered("node-1", "stopped", "stop.yml:4"), answered("node-2", "stopped", "stop.yml:4")]
    result, answer = desk.invoke_json("--env", "prod", "run", "model_cache", "--diff")
    run, stop = desk.runner.calls
    assert [path.name for path in stop.playbooks] == ["stop_sync.yml"]
    assert (stop.limit, stop.tags, stop.check, stop.diff) == ("node-1,node-2", None, False, False)
    assert (stop.inventory, stop.extra_vars, stop.limit_seconds) == (run.inventory, run.extra_vars, 30)
    assert (result.exit_code, answer["message"]) == (130, "interrupted; nothing is left running")
    assert "Warning: stopping the sync on 2 hosts (Ctrl-C again: leave it to end by itself)\n" in result.stderr


def test_a_sync_that_has_ended_is_not_stopped(desk: Desk) -> None:
    interrupted_run(desk, started("node-1"), answered("node-1", "running"), answered("node-1", "complete"),
                    started("node-2"), Event("runner_on_failed", host="node-2", path=SYNC, result={"msg": "no"}))
    desk.invoke("--env", "prod")
    assert len(desk.runner.calls) == 1


def test_another_task_of_an_interrupted_run_leaves_no_sync_to_stop(desk: Desk) -> None:
    interrupted_run(desk, started("node-1", "/content/roles/model_cache/tasks/verify.yml:6"))
    desk.invoke("--env", "prod")
    assert len(desk.runner.calls) == 1


def test_hosts_whose_sync_could_not_be_stopped_are_named(desk: Desk) -> None:
    interrupted_run(desk, started("node-1"), started("node-2"),
                    Event("runner_on_unreachable", host="node-2", path=SYNC))
    desk.runner.later = [answered("node-1", "stopped"), Event("runner_on_unreachable", host="node-2")]
    result, answer = desk.invoke_json("--env", "prod")
    assert answer["message"] == "interrupted; the sync on node-2 could not be stopped and ends by itself"
    assert "environment prod): the sync on node-2 could not be stopped and ends by itself." in result.stderr


def test_a_run_that_ends_by_itself_stops_no_sync(desk: Desk) -> None:
    desk.runner.events = [started("node-1"), answered("node-1", "running"), stats(node_1=OK, node_2=OK)]
    desk.invoke("--env", "prod")
    assert len(desk.runner.calls) == 1


def test_an_interrupted_plan_has_no_sync_to_stop(desk: Desk) -> None:
    interrupted_run(desk, started("node-1"))
    desk.invoke("--env", "prod", "plan")
    assert len(desk.runner.calls) == 1


def test_the_tasks_that_start_a_sync_are_where_the_run_looks_for_them() -> None:
    tasks = yaml.safe_load((Path(__file__).resolve().parents[3] / SYNC_TASKS.strip("/:")).read_text())
    assert [task["judge_node"]["command"] for task in tasks] == ["cache start", "cache follow"]


def test_the_whole_site_takes_the_options_of_a_run(desk: Desk) -> None:
    result = desk.invoke("--env", "prod", "--limit", "node-1", "--check", "-e", "vllm.port=9000")
    assert result.exit_code == 0, result.output
    request = desk.runner.calls[0]
    assert (request.limit, request.check) == ("node-1", True)
    assert desk.asked_settings == [("vllm.port=9000",)]


def test_an_option_of_a_run_before_its_command_is_refused_rather_than_lost(desk: Desk) -> None:
    result = desk.invoke("--env", "prod", "--limit", "node-1", "run", "nvme")
    assert result.exit_code == 2
    assert "Error: options of a run stand after its command, not before it" in result.stderr
    assert desk.runner.calls == []


@pytest.mark.parametrize("option", ["--tags", "--skip-tags"])
def test_an_unknown_tag_is_refused_with_the_known_ones_and_the_nearest(desk: Desk, option: str) -> None:
    playbooks = desk.content / "playbooks"
    (playbooks / "site.yml").write_text("- ansible.builtin.import_playbook: nvme.yml\n  tags: [disk]\n")
    (playbooks / "nvme.yml").write_text("- {hosts: all, tasks: [{block: [{meta: noop, tags: 'mount, format'}]}]}\n")
    result = desk.invoke("--env", "prod", "run", "site", option, "disk,mont")
    assert result.exit_code == 2
    assert 'Error: unknown tag "mont"; site has disk, format, mount; did you mean mount?' in result.stderr
    assert desk.runner.calls == []
    assert desk.invoke("--env", "prod", "run", "site", option, "disk,mount,never").exit_code == 0


def test_a_run_of_no_task_but_those_that_always_run_is_not_green(desk: Desk) -> None:
    desk.runner.events = [Event("runner_on_ok", host=name, action="ansible.builtin.validate_argument_spec")
                          for name in desk.hosts] + [stats(node_1={"ok": 1}, node_2={"ok": 1})]
    result, answer = desk.invoke_json("--env", "prod", "run", "nvme", "--skip-tags", "all")
    assert result.exit_code == 1
    assert answer["message"] == "no task ran: --tags and --skip-tags leave nothing to do"


def test_a_plan_that_failed_is_repaired_by_a_plan(desk: Desk) -> None:
    desk.runner.events = [failed("node-1", role="nvme", msg="no"), ok("node-2"),
                          stats(node_1={"failures": 1}, node_2=OK)]
    desk.runner.ended = Ended(2)
    _, answer = desk.invoke_json("--env", "prod", "plan")
    assert answer["hosts"]["node-1"]["repair"] == "judge-bootstrap --env prod plan nvme --limit node-1"


def test_a_log_file_that_is_a_device_keeps_its_mode(
        desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pipe = tmp_path / "device"  # a pipe stands for /dev/null here: making devices needs root
    os.mkfifo(pipe, 0o644)
    pipe.chmod(0o666)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setenv("LOG_FILE", str(pipe))
    try:
        assert desk.invoke("--env", "prod").exit_code == 0
        assert pipe.stat().st_mode & 0o777 == 0o666
    finally:
        os.close(reader)
