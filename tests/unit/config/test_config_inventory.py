"""The inventory: its hosts, and every way in which it is refused.

recorded_inventory.json holds what ansible-inventory (ansible-core 2.19.14, amazon.aws 10.1.2) said against moto, a
closed port, and a server that refuses as EC2 does; host variables are cut to three.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from judge_bootstrap.adapters import inventory
from judge_bootstrap.adapters.inventory import Answer
from judge_bootstrap.core.environment import Environment
from judge_bootstrap.core.errors import ExitCode, Refusal

HERE = Path(__file__).parent
RECORDED: Mapping[str, Mapping[str, object]] = json.loads((HERE / "recorded_inventory.json").read_text())
FILTERS = """plugin: amazon.aws.aws_ec2
filters:
  instance-state-name: [running]
  tag:Environment: local
"""
HOSTS = {"i-35d622dffb5c5e85d": "10.77.0.11", "i-931ae9d40e680fe7f": "10.77.0.13", "i-a9fa10814a30fe5df": "10.77.0.12"}


class FakeLister:
    """Gives recorded answers, the one for a limit where there is a limit, and remembers what it was asked."""

    def __init__(self, everything: str, limited: str | None = None) -> None:
        self.names = {None: everything, "limit": limited}
        self.limits: list[str | None] = []

    def __call__(self, environment: Environment, limit: str | None) -> Answer:
        self.limits.append(limit)
        return recorded(self.names["limit" if limit else None] or "")


def recorded(name: str) -> Answer:
    found = RECORDED[name]
    return Answer(int(str(found["returncode"])), str(found["stdout"]), str(found["stderr"]))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / "aws_ec2.yml").write_text(FILTERS)
    return Environment(name="local", inventory_dir=tmp_path, production=False, region="us-east-1")


def refused(environment: Environment, lister: FakeLister, limit: str | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        inventory.read(environment, limit, lister=lister)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert "\n" not in caught.value.message + str(caught.value.hint)
    return caught.value


def test_hosts_are_those_of_the_gpu_nodes_group_with_their_address(environment: Environment) -> None:
    found = inventory.read(environment, lister=FakeLister("lab")).hosts
    assert {name: host.address for name, host in found.items()} == HOSTS


def test_zero_hosts_are_refused_with_what_was_looked_for(environment: Environment) -> None:
    error = refused(environment, FakeLister("no_match"))
    assert error.message == ("the inventory of local has no host in group gpu_nodes (looked for region us-east-1, "
                             "instance-state-name=running, tag:Environment=local)")
    assert error.reason == "INVENTORY_EMPTY"
    assert "ansible-inventory" in str(error.hint)


def test_fewer_hosts_than_expected_are_refused_with_those_that_are_there(environment: Environment) -> None:
    error = refused(environment.model_copy(update={"expected_hosts": 4}), FakeLister("lab"))
    assert error.message.startswith("the inventory of local has 3 of 4 expected hosts: "
                                    "i-35d622dffb5c5e85d, i-931ae9d40e680fe7f, i-a9fa10814a30fe5df")
    assert error.reason == "INVENTORY_SHORT"


def test_as_many_hosts_as_expected_are_enough(environment: Environment) -> None:
    expecting = environment.model_copy(update={"expected_hosts": 3})
    assert len(inventory.read(expecting, lister=FakeLister("lab")).hosts) == 3


@pytest.mark.parametrize(("name", "message", "hint"), [
    ("no_credentials", "no valid AWS credentials (Failed to describe instances: Unable to locate credentials)",
     "aws sts get-caller-identity"),
    ("expired", "no valid AWS credentials (", "aws sts get-caller-identity"),
    ("denied", "AWS denies the look-up (", "ec2:DescribeInstances"),
    ("endpoint_down", "AWS cannot be reached (", "AWS_ENDPOINT_URL"),
    ("broken_yaml", "YAML parsing failed: While parsing a flow node did not find expected node content.", "--list"),
    ("unknown_plugin", "inventory config 'inventory/local/aws_ec2.yml' specifies unknown plugin 'amazon.aws.aws_ec3'",
     "make setup"),
    ("strict_failure", "Could not add host i-35d622dffb5c5e85d to group gpu_nodes: Error while evaluating conditional: "
                       "'aws_tagz' is undefined", "--list"),
])
def test_an_inventory_that_cannot_be_read_is_refused_with_the_real_error(
        environment: Environment, name: str, message: str, hint: str) -> None:
    error = refused(environment, FakeLister(name))
    assert error.message.startswith(f"the inventory of local cannot be read: {message}")
    assert hint in str(error.hint)
    assert error.reason == "INVENTORY_UNREADABLE"


@pytest.mark.parametrize("limited", ["unknown_limit", "half_known_limit"])
def test_a_limit_with_an_unknown_host_is_refused_naming_the_known_ones(environment: Environment, limited: str) -> None:
    error = refused(environment, FakeLister("lab", limited), "i-0abc")
    assert error.message == ('no host of local matches --limit "i-0abc", known: i-35d622dffb5c5e85d, '
                             "i-931ae9d40e680fe7f, i-a9fa10814a30fe5df")
    assert error.reason == "HOST_UNKNOWN"


def test_a_limit_over_an_inventory_that_cannot_be_read_says_that_instead(environment: Environment) -> None:
    error = refused(environment, FakeLister("no_credentials", "no_credentials"), "i-0abc")
    assert error.message.startswith("the inventory of local cannot be read: no valid AWS credentials")


def test_a_limit_over_an_empty_inventory_says_that_it_is_empty(environment: Environment) -> None:
    assert refused(environment, FakeLister("no_match", "unknown_limit"), "i-0abc").reason == "INVENTORY_EMPTY"


@pytest.mark.parametrize("limit", ["", " ", ",", ", ,", ":", "~", "~[", "!"])
def test_an_empty_limit_is_refused_because_ansible_takes_it_for_all_hosts(environment: Environment, limit: str) -> None:
    lister = FakeLister("lab", "lab")
    assert refused(environment, lister, limit).message.startswith("--limit is empty")
    assert lister.limits == []


def test_a_limit_asks_for_fewer_hosts_than_expected(environment: Environment) -> None:
    lister = FakeLister("no_match", "lab")
    found = inventory.read(environment.model_copy(update={"expected_hosts": 9}), "i-*", lister=lister)
    assert set(found.hosts) == set(HOSTS)
    assert lister.limits == ["i-*"]


@pytest.mark.parametrize("stdout", ["", "[]", "nonsense", '{"gpu_nodes": 3}', '{"gpu_nodes": {"hosts": [1]}}',
                                    '{"gpu_nodes": {"hosts": [[]]}}', '{"gpu_nodes": {"hosts": 5}}', "[" * 100_000,
                                    '{"_meta": 3, "gpu_nodes": {"hosts": ["a"]}}'])
def test_an_answer_that_is_no_inventory_is_refused(environment: Environment, stdout: str) -> None:
    with pytest.raises(Refusal, match="cannot be read"):
        inventory.parse(Answer(0, stdout, ""), environment)


@pytest.mark.parametrize("filters", ["", "[]", "filters: 3", "filters: [", "\0"])
def test_what_was_looked_for_needs_no_readable_filters(environment: Environment, filters: str) -> None:
    (environment.inventory_dir / "aws_ec2.yml").write_text(filters)
    assert inventory.looked_for(environment) == f"looked in {environment.inventory_dir}"
