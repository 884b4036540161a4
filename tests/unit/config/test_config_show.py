"""`config show`: every value with its source, for people, pipes and programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from judge_bootstrap.cli.main import cli
from judge_bootstrap.core.schema import FIELDS

ALL = """
judge_environment: {production: false, region: us-east-1}
vllm_k8s_namespace: from-inventory
nvme_device: "{{ lookup('env', 'DISK') }}"
"""


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `config show` for an environment of the test's own, which asks no AppConfig."""
    variables = tmp_path / "inventory" / "own" / "group_vars"
    variables.mkdir(parents=True)
    (variables / "all.yml").write_text(ALL)
    for name in [name for name in os.environ if name.startswith("JUDGE_BOOTSTRAP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JUDGE_BOOTSTRAP_INVENTORY", str(tmp_path / "inventory"))
    monkeypatch.setenv("JUDGE_BOOTSTRAP_STATE", str(tmp_path / "state"))

    def run(*words: str, **environ: str) -> Result:
        return CliRunner().invoke(cli, ["--env", "own", "config", "show", *words], env=environ)
    return run


def test_json_has_every_setting_with_value_source_age_and_version(show: Any) -> None:
    done = show("--json", "-e", "vllm.port=9000", JUDGE_BOOTSTRAP_MODEL__ID="a/b")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["ok"], answer["command"], answer["env"]) == (0, True, "config show", "own")
    assert answer["settings"].keys() == FIELDS.keys()
    assert answer["settings"]["vllm.port"] == {"value": 9000, "source": "flag: -e vllm.port", "layer": "flag",
                                               "age_seconds": None, "version": None}
    assert answer["settings"]["model.id"]["source"] == "env: JUDGE_BOOTSTRAP_MODEL__ID"
    assert answer["settings"]["kubernetes.namespace"]["layer"] == "inventory"
    assert answer["settings"]["storage.nvme_device"]["value"] == "(templated, not shown)"
    assert answer["appconfig"] == {"status": "absent", "version": None, "age_seconds": None}
    assert answer["warnings"] == []


def test_a_pipe_gets_one_line_a_setting_with_tabs_between(show: Any) -> None:
    lines = show().stdout.splitlines()
    assert [line.split("\t")[0] for line in lines[:-1]] == list(FIELDS)
    assert "vllm.port\t8000\t\tdefault: roles/vllm_k8s/defaults/main.yml" in lines
    assert lines[-1] == "AppConfig: none configured for own; that layer is absent."


def test_a_wrong_value_is_one_line_and_a_hint_and_exit_code_2(show: Any) -> None:
    done = show("-e", "vllm.port=none")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        'Error: -e vllm.port: judge_inference.vllm.port is "none" (a text), wanted: a port number from 1 to 65535',
        "Hint: correct -e vllm.port; see docs/variables.md"]


def test_a_wrong_value_is_one_object_with_json(show: Any) -> None:
    done = show("--json", JUDGE_BOOTSTRAP_MODLE__ID="a/b")
    answer = json.loads(done.stdout)
    assert done.exit_code == 2
    assert answer["message"] == ("unknown environment variable JUDGE_BOOTSTRAP_MODLE__ID; did you mean "
                                 "JUDGE_BOOTSTRAP_MODEL__ID?")
    assert answer["ok"] is False


def test_a_warning_goes_to_stderr_and_into_the_json(show: Any) -> None:
    done = show("--json", "-e", "vllm_k8s_replica=2")
    assert "vllm_k8s_replica is no variable of our roles" in json.loads(done.stdout)["warnings"][0]
    assert done.stderr.startswith("Warning: -e vllm_k8s_replica")
    assert json.loads(done.stdout)["passed_on"] == ["vllm_k8s_replica"]
