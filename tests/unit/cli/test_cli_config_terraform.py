"""`config terraform`: what it writes and where it does not, and what `config show` makes of it afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from judge_bootstrap.adapters import config
from judge_bootstrap.cli.main import cli
from judge_bootstrap.core.errors import UsageProblem

Run = Callable[..., Result]
FILTERS = {"instance-state-name": "running", "tag:Environment": "own", "tag:role": "ai-gpu"}
OUTPUT: dict[str, Any] = {
    "schema": 1, "region": "eu-central-1", "environment": "own", "cluster_name": "judge-own",
    "node_group": {"name": "judge-own-ai", "launch_template_id": "lt-0abc", "launch_template_version": 3,
                   "autoscaling_group_names": ["eks-1"]},
    "inventory_filters": FILTERS,
    "appconfig": None,
    "variables": {"nvme_owner": "judge", "model_cache_dir": "/mnt/nvme/models", "nvme_wait_seconds": 9}}
# YAML reads JSON.
AWS_EC2 = json.dumps({"plugin": "amazon.aws.aws_ec2", "regions": ["eu-central-1"], "filters": FILTERS})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of environment `own`, which says no region, and looks for Terraform's nodes."""
    for name in [name for name in os.environ if name.startswith("JUDGE_BOOTSTRAP_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_BOOTSTRAP_STATE", str(tmp_path / "state"))
    found = tmp_path / "inventory" / "own"
    (found / "group_vars").mkdir(parents=True)
    (found / "group_vars" / "all.yml").write_text("judge_environment: {production: false}\n")
    (found / "aws_ec2.yml").write_text(AWS_EC2)
    return found


@pytest.fixture
def run(folder: Path) -> Run:
    """Run `config terraform` with Terraform's output on stdin."""
    def call(*words: str, output: Any = OUTPUT, env: str = "own", stdin: bytes | None = None) -> Result:
        given = json.dumps({"judge_bootstrap": {"sensitive": False, "type": "dynamic", "value": output}}).encode()
        return CliRunner().invoke(cli, ["--env", env, "config", "terraform", *words],
                                  input=given if stdin is None else stdin)
    return call


def show(*words: str) -> Result:
    return CliRunner().invoke(cli, ["--env", "own", "config", "show", *words])


def test_the_output_becomes_the_environments_terraform_yml(run: Run, folder: Path) -> None:
    done = run()
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "Terraform: node group judge-own-ai of cluster judge-own in eu-central-1, launch template lt-0abc version 3, "
        "variables of roles: 3", "Wrote inventory/own/terraform.yml",
        "Next: commit it, then: judge-bootstrap --env own config show"]
    assert (folder / "terraform.yml").read_text().splitlines()[:6] == [
        "---", "# Written by `judge-bootstrap config terraform` from Terraform's output: do not edit, the next one "
        "replaces it.", "# Ansible reads it as an inventory file. What group_vars say wins over it.", "all:", "  vars:",
        "    judge_environment:"]
    assert (folder / "terraform.yml").stat().st_mode & 0o777 == 0o644


def test_a_second_time_changes_nothing_not_even_the_files_date(run: Run, folder: Path) -> None:
    run()
    before = (folder / "terraform.yml").stat()
    answer = json.loads(run("--json").stdout)
    assert (answer["ok"], answer["changed"], answer["diff"], answer["differences"]) == (True, False, "", [])
    after = (folder / "terraform.yml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_check_shows_the_change_and_writes_nothing(run: Run, folder: Path) -> None:
    run()
    text = (folder / "terraform.yml").read_text()
    done = run("--check", output={**OUTPUT, "variables": {"nvme_owner": "nodeadm"}})
    assert done.exit_code == 0
    assert {"-    nvme_owner: judge", "+    nvme_owner: nodeadm",
            "Would write inventory/own/terraform.yml"} <= set(done.stdout.splitlines())
    assert (folder / "terraform.yml").read_text() == text
    assert sorted(path.name for path in folder.iterdir()) == ["aws_ec2.yml", "group_vars", "terraform.yml"]


def test_a_file_is_read_in_stdins_place(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text(json.dumps(OUTPUT))
    assert run("out.json", stdin=b"").exit_code == 0
    assert (folder / "terraform.yml").exists()


@pytest.mark.parametrize("name", ["nope.json", "inventory", "a\0b", "~nobody-of-that-name/x"])
def test_a_file_that_cannot_be_read_is_named(run: Run, name: str) -> None:
    done = run(name)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
    assert "Hint: terraform output -json | judge-bootstrap --env own config terraform" in done.stderr


def test_json_says_what_was_written_and_what_finds_the_nodes(run: Run, folder: Path) -> None:
    answer = json.loads(run("--json").stdout)
    assert (answer["ok"], answer["command"], answer["env"], answer["changed"], answer["check"]) == (
        True, "config terraform", "own", True, False)
    assert answer["file"] == str(folder / "terraform.yml")
    assert answer["variables"] == OUTPUT["variables"]
    assert answer["environment"] == {"region": "eu-central-1"}
    assert answer["node_group"] == OUTPUT["node_group"]
    assert answer["diff"].startswith("--- /dev/null\n+++ inventory/own/terraform.yml\n")
    assert (answer["inventory"]["file"], answer["inventory"]["exists"]) == ("inventory/own/aws_ec2.yml", True)


def test_another_environments_output_is_refused_with_both_names(run: Run, folder: Path) -> None:
    done = run(output={**OUTPUT, "environment": "prod"})
    assert (done.exit_code, done.stderr.splitlines()) == (2, [
        "Error: Terraform's output judge_bootstrap is about environment prod, not own: its nodes are other ones",
        "Hint: terraform output -json | judge-bootstrap --env prod config terraform   # or choose the state of own"])
    assert not (folder / "terraform.yml").exists()


def test_an_unknown_environment_lists_the_known_ones(run: Run) -> None:
    done = run(env="onw")
    assert done.exit_code == 2
    assert 'Error: unknown environment "onw", known: ' in done.stderr
    assert "did you mean own?" in done.stderr


def test_a_sensitive_output_is_neither_written_nor_shown(run: Run, folder: Path) -> None:
    secret = {"sensitive": True, "type": "dynamic", "value": {**OUTPUT, "cluster_name": "the-secret"}}
    done = run(stdin=json.dumps({"judge_bootstrap": secret}).encode())
    assert done.exit_code == 2
    assert "is marked as sensitive" in done.stderr
    assert "the-secret" not in done.output
    assert not (folder / "terraform.yml").exists()


def test_an_inventory_that_looks_elsewhere_is_told_line_by_line_and_is_exit_code_1_after_writing(
        run: Run, folder: Path) -> None:
    (folder / "aws_ec2.yml").write_text("regions: [us-east-1]\nfilters: {tag:role: ai-gpu, tag:Environment: prod}\n")
    done = run()
    assert done.exit_code == 1
    assert (folder / "terraform.yml").exists()
    assert done.stdout.splitlines()[2:] == [
        "inventory/own/aws_ec2.yml: regions is us-east-1, wanted: eu-central-1",
        "inventory/own/aws_ec2.yml: filters.instance-state-name is not there, wanted: running",
        "inventory/own/aws_ec2.yml: filters.tag:Environment is prod, wanted: own",
        "inventory/own/aws_ec2.yml finds these nodes with:", "regions:", "  - eu-central-1", "filters:",
        "  instance-state-name: running", "  tag:Environment: own", "  tag:role: ai-gpu"]
    assert done.stderr.splitlines() == [
        "Error: INVENTORY_DIFFERS: inventory/own/aws_ec2.yml does not look for Terraform's nodes: 3 differences",
        "Hint: write the lines that are shown into inventory/own/aws_ec2.yml, then: judge-bootstrap --env own doctor"]


def test_an_inventory_that_is_not_there_is_proposed_whole(run: Run, folder: Path) -> None:
    (folder / "aws_ec2.yml").unlink()
    answer = json.loads(run("--json").stdout)
    assert (answer["ok"], answer["reason"], answer["changed"]) == (False, "INVENTORY_DIFFERS", True)
    (folder / "aws_ec2.yml").write_text(answer["inventory"]["text"])
    assert run().exit_code == 0


def test_an_environment_that_lists_its_hosts_itself_needs_no_aws_ec2(run: Run, folder: Path) -> None:
    (folder / "aws_ec2.yml").unlink()
    (folder / "hosts.ini").write_text("[gpu_nodes]\nnode-1\n")
    assert run().exit_code == 0


@pytest.mark.parametrize(("make", "said"), [
    (lambda path: path.write_text("plugin: cloud.terraform.terraform_provider\n"),
     "inventory/own/terraform.yml was not written by this command, so it is not replaced"),
    (lambda path: path.symlink_to("/dev/null"), "inventory/own/terraform.yml is a symbolic link, wanted: a plain file"),
    (lambda path: path.mkdir(), "inventory/own/terraform.yml is no regular file, wanted: a plain file, or none"),
    (os.mkfifo, "inventory/own/terraform.yml is no regular file, wanted: a plain file, or none"),
])
def test_what_stands_there_and_is_not_ours_stays(
        run: Run, folder: Path, make: Callable[[Path], Any], said: str) -> None:
    path = folder / "terraform.yml"
    make(path)
    before = path.lstat()
    done = run()
    assert (done.exit_code, done.stderr.splitlines()[0].startswith(f"Error: {said}")) == (3, True), done.output
    assert path.lstat().st_ino == before.st_ino


def test_a_folder_that_is_a_link_to_another_environments_is_not_written(run: Run, folder: Path) -> None:
    (folder.parent / "prod").symlink_to("own")
    done = run(env="prod", output={**OUTPUT, "environment": "prod"})
    assert (done.exit_code, "Error: inventory/prod is a symbolic link to" in done.stderr) == (3, True)
    assert not (folder / "terraform.yml").exists()


def test_the_installed_programs_own_inventory_is_not_written(
        run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("judge_bootstrap.adapters.terraform.is_packaged", lambda path: path == folder)
    done = run()
    assert (done.exit_code, done.stderr.splitlines()) == (2, [
        f"Error: {folder} belongs to the installed program, whose next version replaces it",
        f"Hint: mkdir -p inventory && cp -r {folder} inventory/, then the same command again"])
    assert not (folder / "terraform.yml").exists()


def test_the_region_may_come_from_terraform_alone(run: Run) -> None:
    with pytest.raises(UsageProblem, match=r"judge_environment.region is missing"):
        config.load_environment("own")
    run()
    assert config.load_environment("own").region == "eu-central-1"


def test_group_vars_win_over_terraform_key_by_key(run: Run, folder: Path) -> None:
    ids = {"application": "a1", "environment": "b2", "profile": "c3"}
    run(output={**OUTPUT, "appconfig": ids})
    found = config.load_environment("own")
    assert (found.region, str(found.appconfig), found.production) == ("eu-central-1", "a1/b2/c3", False)
    (folder / "group_vars" / "all.yml").write_text("judge_environment: {production: true, appconfig: null}\n")
    found = config.load_environment("own")
    assert (found.region, found.appconfig, found.production) == ("eu-central-1", None, True)


def test_a_copied_folder_that_keeps_another_region_and_appconfig_is_told_and_is_exit_code_1(
        run: Run, folder: Path) -> None:
    """They win over Terraform's: without a word a sandbox would live by the settings of the folder it came from."""
    (folder / "group_vars" / "all.yml").write_text(
        "judge_environment: {production: false, region: us-east-1, appconfig: "
        "{application: judge-bootstrap, environment: staging, profile: judge-inference}}\n")
    output = {**OUTPUT, "appconfig": {"application": "a1", "environment": "b2", "profile": "c3"}}
    done = run(output=output)
    file = "inventory/own/group_vars/all.yml"
    assert done.exit_code == 1
    assert done.stdout.splitlines()[2:] == [
        f"{file}: judge_environment.region is us-east-1, wanted: eu-central-1",
        f"{file}: judge_environment.appconfig.environment is staging, wanted: own (b2)"]
    assert done.stderr.splitlines() == [
        f"Error: INVENTORY_DIFFERS: {file} wins over Terraform with judge_environment.region and "
        "judge_environment.appconfig.environment",
        f"Hint: take what is shown out of {file} (or correct it), then: judge-bootstrap --env own config show"]
    answer = json.loads(run("--json", output=output).stdout)
    assert [item["key"] for item in answer["differences"]] == [
        "judge_environment.region", "judge_environment.appconfig.environment"]


@pytest.mark.parametrize("words", [
    "region: eu-central-1", "appconfig: null", "appconfig: {application: x, environment: own, profile: y}",
    "appconfig: {application: a1, environment: b2, profile: c3}"])
def test_group_vars_that_say_the_same_or_want_no_appconfig_are_no_difference(
        run: Run, folder: Path, words: str) -> None:
    (folder / "group_vars" / "all.yml").write_text(f"judge_environment: {{production: false, {words}}}\n")
    done = run(output={**OUTPUT, "appconfig": {"application": "a1", "environment": "b2", "profile": "c3"}})
    assert done.exit_code == 0, done.output


def test_group_vars_that_are_no_yaml_are_named_and_nothing_is_written(run: Run, folder: Path) -> None:
    (folder / "group_vars" / "all.yml").write_text("judge_environment: [\n")
    done = run()
    assert (done.exit_code, "Hint: correct inventory/own/group_vars/all.yml" in done.stderr) == (2, True), done.stderr
    assert not (folder / "terraform.yml").exists()


def test_config_show_names_terraform_as_the_source_and_what_else_it_says(run: Run, folder: Path) -> None:
    run()
    (folder / "group_vars" / "gpu_nodes.yml").write_text("nvme_wait_seconds: 5\n")
    lines = show().stdout.splitlines()
    assert "storage.models_dir\t/mnt/nvme/models\t\tterraform: inventory/own/terraform.yml" in lines
    assert lines[-7:-1] == [
        "judge_environment.region\teu-central-1\t\tterraform: inventory/own/terraform.yml",
        "nvme_owner\tjudge\t\tterraform: inventory/own/terraform.yml",
        "nvme_wait_seconds\t9\t\tterraform: inventory/own/terraform.yml (not used: inventory: inventory/own/group_vars/"
        "gpu_nodes.yml wins)",
        "node group\tjudge-own-ai\t\tterraform: inventory/own/terraform.yml",
        "launch template\tlt-0abc\t\tterraform: inventory/own/terraform.yml",
        "launch template version\t3\t\tterraform: inventory/own/terraform.yml"]


def test_config_show_has_the_same_as_json(run: Run, folder: Path) -> None:
    assert json.loads(run("--json").stdout)["ok"]
    (folder / "group_vars" / "all.yml").write_text("judge_environment: {production: false, region: us-east-1}\n"
                                                   "model_cache_dir: /mnt/nvme/hub\n")
    answer = json.loads(show("--json", "-e", "nvme_owner=auto").stdout)
    assert answer["settings"]["storage.models_dir"]["layer"] == "inventory"
    assert answer["terraform"]["file"] == "inventory/own/terraform.yml"
    assert answer["terraform"]["node_group"] == OUTPUT["node_group"]
    assert answer["terraform"]["values"] == {
        "judge_environment.region": {"value": "eu-central-1",
                                     "overridden_by": "inventory: inventory/own/group_vars/all.yml"},
        "nvme_owner": {"value": "judge", "overridden_by": "flag: -e nvme_owner"},
        "nvme_wait_seconds": {"value": 9, "overridden_by": None}}


def test_terraforms_values_are_no_extra_vars_for_ansible_reads_the_file_itself(run: Run) -> None:
    run()
    environment = config.load_environment("own")
    assert config.load(environment).settings.extra_vars() == {}
    assert config.role_variables(environment)["nvme_owner"] == "judge"


def test_a_copied_folder_is_refused_for_it_names_another_environments_nodes(run: Run, folder: Path) -> None:
    run()
    folder.rename(folder.with_name("prod"))
    with pytest.raises(UsageProblem, match=r"inventory/prod/terraform.yml is about environment own, not prod"):
        config.load_environment("prod")


@pytest.mark.parametrize("write", [
    lambda path: path.write_text("plugin: other\n"), lambda path: path.write_bytes(b"\xff" * 100),
    lambda path: path.write_text("x" * 100_000), os.mkfifo, lambda path: path.mkdir()])
def test_a_terraform_yml_that_is_not_ours_is_ansibles_alone(folder: Path, write: Callable[[Path], Any]) -> None:
    (folder / "group_vars" / "all.yml").write_text("judge_environment: {production: false, region: us-east-1}\n")
    write(folder / "terraform.yml")
    assert config.load(config.load_environment("own")).terraform is None


def test_one_of_ours_that_grew_or_lost_its_encoding_is_refused(run: Run, folder: Path) -> None:
    run()
    path = folder / "terraform.yml"
    good = path.read_bytes()
    path.write_bytes(good + b"#" * 65_536)
    with pytest.raises(UsageProblem, match=r"inventory/own/terraform.yml has more than 65536 bytes"):
        config.load_environment("own")
    path.write_bytes(good + b"# \xff")
    with pytest.raises(UsageProblem, match=r"inventory/own/terraform.yml is not UTF-8"):
        config.load_environment("own")
