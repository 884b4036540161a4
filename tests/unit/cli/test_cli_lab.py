"""`judge-bootstrap lab`: what is handed to judge_lab.site, and how its errors come out."""

from __future__ import annotations

import pytest
from fakes_cli import Desk, FakeLab
from judge_bootstrap.cli import lab as lab_module
from judge_bootstrap.core.errors import UsageProblem
from judge_lab import LabError


def test_up_takes_the_number_of_nodes_and_names_the_stand_ins(desk: Desk) -> None:
    result = desk.invoke("lab", "up", "--nodes", "3")
    assert result.exit_code == 0, result.output
    assert desk.lab.asked == [("up", 3)]
    assert "Stand-ins in this environment:\n  - AWS: moto\n  - GPU: a device plugin\n" in result.stderr
    assert result.stdout == "The local environment is up. Next: judge-bootstrap --env local\n"


def test_env_prints_lines_that_a_shell_can_eval(desk: Desk) -> None:
    assert desk.invoke("lab", "env").stdout == ("export AWS_ENDPOINT_URL=http://10.77.0.1:5000\n"
                                                "export KUBECONFIG='/a path/admin.kubeconfig'\n")


def test_status_shows_nested_values_as_indented_lines(desk: Desk) -> None:
    output = desk.invoke("lab", "status").stdout
    assert "nodes:\n  node-1:\n    state: running\n    address: 10.77.0.11\nservers:\n  - aws\n  - hub\n" in output
    assert output.endswith("stand_ins:\n  - AWS: moto\n  - GPU: a device plugin\n")


def test_status_as_json_is_the_status_itself(desk: Desk) -> None:
    _, answer = desk.invoke_json("lab", "status")
    assert answer["command"] == "lab status"
    assert answer["status"]["nodes"]["node-1"]["state"] == "running"
    assert answer["stand_ins"] == ["AWS: moto", "GPU: a device plugin"]


@pytest.mark.parametrize("verb", ["stop", "start", "add", "kill", "cut", "reboot"])
def test_node_hands_the_verb_and_the_name_on(desk: Desk, verb: str) -> None:
    assert desk.invoke("lab", "node", verb, "node-1").output == f"node-1: {verb} done\n"
    assert desk.lab.asked == [(verb, "node-1")]


def test_down_says_what_went(desk: Desk) -> None:
    result = desk.invoke("lab", "down")
    assert (result.stderr, result.stdout) == ("node-1 is gone\n", "The local environment is gone.\n")


def test_an_error_of_the_lab_is_one_line_and_a_hint(desk: Desk) -> None:
    desk.lab = FakeLab(broken=LabError("no node named node-9", hint="judge-bootstrap lab status"))
    result, answer = desk.invoke_json("lab", "node", "stop", "node-9")
    assert result.exit_code == 1
    assert answer["message"] == "no node named node-9"
    assert answer["hint"] == "judge-bootstrap lab status"


def test_a_missing_package_names_the_pip_command() -> None:
    def needs_moto() -> None:
        raise ModuleNotFoundError("No module named 'moto'", name="moto.server")

    with pytest.raises(UsageProblem) as caught:
        lab_module.call(needs_moto)
    assert caught.value.message == "the local environment needs the Python package 'moto', which is not installed"
    assert caught.value.hint == "pip install 'judge-bootstrap[lab]'"
