"""Environments: which there are, and what is wrong with one that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judge_bootstrap.adapters import config
from judge_bootstrap.core.environment import AppConfigRef, Environment, parse
from judge_bootstrap.core.errors import UsageProblem

ROOT = Path(__file__).parents[3]
FILE = "inventory/x/group_vars/all.yml"
GOOD: dict[str, Any] = {"production": True, "provider": "aws", "region": "eu-central-1", "expected_hosts": 3,
                        "appconfig": {"application": "a", "environment": "b", "profile": "c"}}


@pytest.mark.parametrize("name", ["prod", "staging", "local"])
def test_our_own_environments_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = config.load_environment(name)
    assert (found.name, found.inventory_dir) == (name, ROOT / "inventory" / name)
    assert found.production is (name == "prod")
    assert found.provider == ("lab" if name == "local" else "aws")


def test_everything_that_is_said_is_kept() -> None:
    assert parse("x", Path("d"), {"judge_environment": GOOD}, file=FILE) == Environment(
        name="x", inventory_dir=Path("d"), production=True, provider="aws", region="eu-central-1", expected_hosts=3,
        appconfig=AppConfigRef(application="a", environment="b", profile="c"))


@pytest.mark.parametrize(("change", "message"), [
    ({"production": "yes"}, 'judge_environment.production is "yes" (a text), wanted: true ('),
    ({"production": None}, "judge_environment.production is null (null), wanted: true ("),
    ({"provider": "gcp"}, 'judge_environment.provider is "gcp" (a text), wanted: aws or lab'),
    ({"region": "moon"}, 'judge_environment.region is "moon" (a text), wanted: an AWS region such as us-east-1'),
    ({"expected_hosts": 0}, "judge_environment.expected_hosts is 0 (a whole number), wanted: a whole number of hosts "
                            "from 1, or null"),
    ({"expected_hosts": "3"}, 'judge_environment.expected_hosts is "3" (a text), wanted: a whole number of hosts'),
    ({"expected_host": 3}, "unknown key judge_environment.expected_host (a whole number), wanted: one of production, "
                           "provider, region, expected_hosts, appconfig; did you mean expected_hosts?"),
    ({"name": "y"}, "unknown key judge_environment.name (a text), wanted: one of production,"),
    ({"appconfig": "a/b/c"}, 'judge_environment.appconfig is "a/b/c" (a text), wanted: an object with application,'),
    ({"appconfig": {"application": "a", "environment": "b"}},
     "judge_environment.appconfig.profile is missing, wanted: name or id of the configuration profile"),
    ({"appconfig": {**GOOD["appconfig"], "profil": "x"}},
     "unknown key judge_environment.appconfig.profil (a text), wanted: one of application, environment, profile; did "
     "you mean profile?"),
    ({"appconfig": {**GOOD["appconfig"], "profile": "{{ x }}"}},
     'judge_environment.appconfig.profile is "{{ x }}" (a text), wanted: name or id of the configuration profile'),
    ({"\ud800": 2}, "judge_environment has a key that is no proper text, wanted: one of production,"),
    ({1: 2}, "unknown key judge_environment.1 (a whole number), wanted: one of production,"),
])
def test_a_wrong_entry_is_named_with_what_is_wanted(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        parse("x", Path("d"), {"judge_environment": {**GOOD, **change}}, file=FILE)
    assert caught.value.message.startswith(message)
    assert caught.value.message.endswith(f"(in {FILE})")


@pytest.mark.parametrize(("variables", "message"), [
    ({}, f"{FILE} has no judge_environment, wanted: an object with production, provider, region, expected_hosts, app"),
    ({"judge_environment": "prod"}, f"judge_environment in {FILE} is a text, wanted: an object with production,"),
])
def test_an_environment_that_says_nothing_is_refused(variables: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        parse("x", Path("d"), variables, file=FILE)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(("name", "message"), [
    ("pord", 'unknown environment "pord", known: local, prod, staging; did you mean prod?'),
    ("../prod", 'unknown environment "../prod", known: local, prod, staging'),
    ("", 'unknown environment "", known: local, prod, staging'),
    ("a\nb", 'unknown environment "a\\nb", known: local, prod, staging'),
])
def test_an_unknown_environment_lists_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        config.load_environment(name, ROOT / "inventory")
    assert caught.value.message.startswith(message)


def make(folder: Path, text: str) -> Path:
    variables = folder / "own" / "group_vars"
    variables.mkdir(parents=True)
    (variables / "all.yml").write_text(text)
    return folder


def test_a_users_own_inventory_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_INVENTORY", str(make(tmp_path, "judge_environment: {production: false, "
                                                                       "region: us-east-1}")))
    assert config.known_environments() == ["own"]
    assert config.load_environment("own").appconfig is None


def test_a_users_own_environment_that_is_not_whole_is_refused_and_not_replaced_by_the_programs(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inventory/prod").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageProblem, match="inventory/prod/group_vars/all.yml is not there"):
        config.load_environment("prod")


def test_an_inventory_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_INVENTORY", str(tmp_path / "nope"))
    with pytest.raises(UsageProblem, match="nope' is not there"):
        config.known_environments()


@pytest.mark.parametrize("text", ["a: [", "- a", "a: 1\na: 2", "a: !!int x"])
def test_a_group_vars_file_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        config.load_environment("own", make(tmp_path, text))
    assert "own/group_vars/all.yml: " in caught.value.message


def test_a_file_encrypted_as_a_whole_is_left_to_ansible(tmp_path: Path) -> None:
    inside = make(tmp_path, "") / "own" / "group_vars" / "all"
    inside.mkdir()
    (inside / "main.yml").write_text("judge_environment: {production: false, region: us-east-1}")
    (inside / "secret.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    assert config.load_environment("own", tmp_path).region == "us-east-1"


def test_a_file_that_ansible_passes_over_for_a_folder_is_named_with_where_it_belongs(tmp_path: Path) -> None:
    make(tmp_path, "judge_environment: {production: false, region: us-east-1}")
    (tmp_path / "own" / "group_vars" / "all").mkdir()
    (tmp_path / "own" / "group_vars" / "all" / "vllm.yml").write_text("vllm_k8s_port: 8001\n")
    with pytest.raises(UsageProblem, match="all.yml is not read: Ansible takes group_vars/all, which") as caught:
        config.load_environment("own", tmp_path)
    assert (caught.value.hint or "").endswith("own/group_vars/all/main.yml")
