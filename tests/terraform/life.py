"""The life of an example, from nothing to nothing, on the stand-ins of account.py, and what was seen of it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from terraform.account import REGION, Account
from terraform.tool import CHECKOUT, Terraform


@dataclass
class Example:
    """An example in a folder of its own, whose calls all go to one account."""

    terraform: Terraform
    account: Account
    folder: Path
    given: dict[str, Any]
    # Arguments of the module beside those that the example passes on.
    arguments: dict[str, Any] = field(default_factory=dict)

    def set(self, **arguments: Any) -> None:
        """Give the example's call of the module these arguments, from the next command on."""
        self.arguments |= arguments
        label = re.findall(r'^module "([^"]+)"', (self.folder / "main.tf").read_text(), re.MULTILINE)
        lines = "\n".join(f"  {name} = {json.dumps(value)}" for name, value in self.arguments.items())
        (self.folder / "zz_override.tf").write_text(f'module "{label[0]}" {{\n{lines}\n}}\n')

    def apply(self) -> Any:
        """Apply, and return the answer."""
        return self.terraform.apply(self.folder, self.given, **self.account.variables)

    def destroy(self) -> Any:
        """Destroy, and return the answer."""
        return self.terraform.destroy(self.folder, self.given, **self.account.variables)

    def changes(self) -> dict[str, Any]:
        """Return what a plan would change now, by address: nothing where the code says what there is."""
        answer = self.terraform.plan(self.folder, self.given, **self.account.variables)
        if answer.code == 0:
            return {}
        plan = self.terraform.planned(self.folder, self.given, **self.account.variables)
        return {item["address"]: _difference(item["change"]) for item in plan["resource_changes"]
                if item["change"]["actions"] not in (["no-op"], ["read"])} | {
                    f"output {name}": item for name, item in plan.get("output_changes", {}).items()
                    if item["actions"] != ["no-op"]}

    def outputs(self) -> dict[str, Any]:
        """Return the outputs' values."""
        return {name: item["value"] for name, item in self.terraform.output(self.folder).items()}


def _difference(change: Mapping[str, Any]) -> dict[str, Any]:
    before, after = change["before"] or {}, change["after"] or {}
    return {"actions": change["actions"],
            **{name: (before.get(name), after.get(name)) for name in sorted({*before, *after})
               if before.get(name) != after.get(name)}}


def new_example(terraform: Terraform, account: Account, name: str, copy: str, **given: Any) -> Example:
    """Return a copy of an example, with those of `given` that it has variables for."""
    folder = terraform.copy_of(f"examples/{name}", copy)
    text = "\n".join(path.read_text() for path in folder.glob("*.tf"))
    known = re.findall(r'^variable "([^"]+)"', text, re.MULTILINE)
    return Example(terraform, account, folder, {key: value for key, value in given.items() if key in known})


def start_decoys(account: Account, subnet: str, environment: str, cluster: str) -> None:
    """Start instances that differ from ours in one tag each: no inventory may find them, no destroy end them."""
    ours = {"Environment": environment, "role": "ai-gpu", "eks:cluster-name": cluster}
    ec2 = account.client("ec2")
    base, sandbox = environment.partition("-")[0], {"Environment": f"{environment}-bob", "Sandbox": "bob"}
    others = [sandbox, {"role": "web"}, {"eks:cluster-name": "another"}, *([{"Environment": base}]
                                                                         if base != environment else [])]
    for other in others:
        tags = [{"Key": key, "Value": value} for key, value in (ours | other).items()]
        ec2.run_instances(ImageId=_image(ec2), MinCount=1, MaxCount=1, SubnetId=subnet, InstanceType="g5.xlarge",
                          TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])


def _image(ec2: Any) -> str:
    return str(ec2.register_image(Name=f"decoy-{os.urandom(4).hex()}", RootDeviceName="/dev/xvda")["ImageId"])


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of something of EC2."""
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}


def template_data(account: Account, template: str, version: object) -> dict[str, Any]:
    """Return what a version of a launch template says."""
    found = account.client("ec2").describe_launch_template_versions(LaunchTemplateId=template, Versions=[str(version)])
    data: dict[str, Any] = found["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    return data


def user_data(account: Account, instance: str) -> str:
    """Return the user data that an instance was started with."""
    answer = account.client("ec2").describe_instance_attribute(InstanceId=instance, Attribute="userData")
    return base64.b64decode(answer["UserData"]["Value"]).decode()


def policy_statements(account: Account, policy: str) -> list[dict[str, Any]]:
    """Return the statements of a policy, by its ARN."""
    iam = account.client("iam")
    version = iam.get_policy(PolicyArn=policy)["Policy"]["DefaultVersionId"]
    found: list[dict[str, Any]] = iam.get_policy_version(PolicyArn=policy, VersionId=version)["PolicyVersion"][
        "Document"]["Statement"]
    return found


def role_statements(account: Account, role: str) -> list[dict[str, Any]]:
    """Return the statements of all policies that are written into a role."""
    iam = account.client("iam")
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    return [item for name in names
            for item in iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"]]


@dataclass
class Site:
    """Inventories of their own, and judge-bootstrap as an operator of that account runs it."""

    inventory: Path
    state: Path
    variables: dict[str, str]

    def environment(self, name: str, like: str = "prod", filters: Mapping[str, str] | None = None) -> Path:
        """Make an environment like a packaged one; with `filters`, one that leaves to Terraform what Terraform says."""
        folder = self.inventory / name
        shutil.copytree(CHECKOUT / "inventory" / like, folder)
        if filters:
            path = folder / "aws_ec2.yml"
            plugin = yaml.safe_load(path.read_text())
            path.write_text(yaml.safe_dump(plugin | {"filters": dict(filters)}, sort_keys=False))
            path = folder / "group_vars" / "all.yml"
            variables = yaml.safe_load(path.read_text())
            # What group_vars say wins: these names would stay those of prod.
            del variables["judge_environment"]["appconfig"]
            path.write_text(yaml.safe_dump(variables))
        return folder

    def run(self, name: str, *words: str, text: str | None = None) -> tuple[int, dict[str, Any], str]:
        """Run `judge-bootstrap --env NAME --json WORDS`; return exit code, JSON and stderr."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "JUDGE_BOOTSTRAP_"))}
        own = {"JUDGE_BOOTSTRAP_INVENTORY": str(self.inventory), "JUDGE_BOOTSTRAP_STATE": str(self.state),
               "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "KUBECONFIG": os.devnull,
               "AWS_DEFAULT_REGION": REGION}
        done = subprocess.run([Path(sys.executable).parent / "judge-bootstrap", "--env", name, "--json", *words],
                              env=kept | self.variables | own, text=True, capture_output=True, timeout=900,
                              check=False, input=text, cwd=self.inventory)
        try:
            return done.returncode, json.loads(done.stdout), done.stderr
        except ValueError:
            raise AssertionError(f"exit {done.returncode}, stdout {done.stdout!r}, stderr {done.stderr!r}") from None

    def found_hosts(self, name: str) -> tuple[str, str]:
        """Return what `doctor` says of the inventory: the check's status, and what was found."""
        _, answer, _ = self.run(name, "doctor")
        check = next(item for item in answer["checks"] if item["name"] == "inventory")
        return check["status"], check["found"]
