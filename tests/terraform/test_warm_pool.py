"""The warm pool is made and removed through the AWS CLI: a fake one notes what it is told.

warm_pool.tf runs as it is, but for the node group, which is a local here, so that no provider is needed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from terraform.tool import CHECKOUT, Answer, Terraform

_GROUP = "aws_eks_node_group.ai[0]"
_MAIN = """\
variable "warm_pool" {
  type = object({
    pool_state                  = optional(string, "STOPPED")
    min_size                    = optional(number, 0)
    max_group_prepared_capacity = optional(number)
    reuse_on_scale_in           = optional(bool, false)
  })
  default = null
}
variable "cluster_name" {
  default = "judge-prod"
}
variable "max_size" {
  default = 4
}
variable "nvme_owner" {
  default = "judge"
}
variable "capacity_type" {
  default = "ON_DEMAND"
}
variable "arn" {
  default = "arn:aws:eks:eu-west-1:111122223333:nodegroup/judge-prod/judge-prod-ai/1"
}
locals {
  enabled = true
  region  = "eu-west-1"
  group   = { node_group_name = "judge-prod-ai", arn = var.arn }
}
"""
_AWS = """\
#!/bin/sh
{ for word; do printf '%s\\037' "$word"; done; echo; } >> "$0.calls"
if [ "$2" = update-nodegroup-config ] && [ -e "$0.fails" ]; then cat "$0.fails" >&2; exit 254; fi
echo '{"update": {"status": "InProgress"}}'
"""


@dataclass
class Pool:
    """A folder with warm_pool.tf, and the fake CLI on PATH."""

    terraform: Terraform
    module: Path
    aws: Path

    def apply(self, warm_pool: dict[str, Any] | None, *words: str, **variables: Any) -> Answer:
        self.aws.with_suffix(".calls").unlink(missing_ok=True)
        return self.terraform.apply(self.module, {"warm_pool": warm_pool, **variables}, *words,
                                    PATH=f"{self.aws.parent}:{os.environ['PATH']}")

    def calls(self) -> list[list[str]]:
        """What the CLI was told since the last apply began."""
        path = self.aws.with_suffix(".calls")
        return [line.split("\037")[:-1] for line in path.read_text().splitlines()] if path.exists() else []

    def fails(self, message: str) -> None:
        self.aws.with_suffix(".fails").write_text(message)


@pytest.fixture
def pool(terraform: Terraform, request: pytest.FixtureRequest) -> Pool:
    module = terraform.home / f"pool-{request.node.name}"
    (module / "bin").mkdir(parents=True)
    text = (CHECKOUT / "terraform" / "warm_pool.tf").read_text()
    assert _GROUP in text
    (module / "warm_pool.tf").write_text(text.replace(_GROUP, "local.group"))
    (module / "main.tf").write_text(_MAIN)
    aws = module / "bin" / "aws"
    aws.write_text(_AWS)
    aws.chmod(0o755)
    return Pool(terraform, module, aws)


def update(told: dict[str, Any], cluster: str = "judge-prod") -> list[str]:
    return ["eks", "update-nodegroup-config", "--region", "eu-west-1", "--cluster-name", cluster,
            "--nodegroup-name", "judge-prod-ai", "--warm-pool-config",
            json.dumps(told, sort_keys=True, separators=(",", ":"))]


def wait(cluster: str = "judge-prod") -> list[str]:
    return ["eks", "wait", "nodegroup-active", "--region", "eu-west-1", "--cluster-name", cluster,
            "--nodegroup-name", "judge-prod-ai"]


def config(**other: Any) -> dict[str, Any]:
    return {"enabled": True, "poolState": "STOPPED", "minSize": 0, "maxGroupPreparedCapacity": 4,
            "reuseOnScaleIn": False, **other}


def test_a_pool_is_made_once_and_waited_for(pool: Pool) -> None:
    pool.apply({"min_size": 1, "reuse_on_scale_in": True}).must()
    assert pool.calls() == [update(config(minSize=1, reuseOnScaleIn=True)), wait()]
    pool.apply({"min_size": 1, "reuse_on_scale_in": True}).must()
    assert pool.calls() == []


def test_what_the_cli_is_told_is_what_botocore_knows(pool: Pool) -> None:
    import botocore.session
    from botocore.validate import validate_parameters

    pool.apply({}).must()
    told = json.loads(pool.calls()[0][-1])
    shape = botocore.session.get_session().get_service_model("eks").shape_for("WarmPoolConfig")
    validate_parameters(told, shape)
    assert told["poolState"] in shape.members["poolState"].enum


def test_a_change_does_not_remove_the_pool_first(pool: Pool) -> None:
    pool.apply({"min_size": 1}).must()
    pool.apply({"min_size": 2}).must()
    assert pool.calls() == [update(config(minSize=2)), wait()]


def test_null_removes_the_pool(pool: Pool) -> None:
    pool.apply({}).must()
    pool.apply(None).must()
    assert pool.calls() == [update({"enabled": False}), wait()]


def test_a_destroy_removes_the_pool(pool: Pool) -> None:
    pool.apply({}).must()
    pool.apply({}, "-destroy").must()
    assert pool.calls() == [update({"enabled": False}), wait()]


def test_a_group_that_is_gone_does_not_stop_a_destroy(pool: Pool) -> None:
    pool.apply({}).must()
    pool.fails("An error occurred (ResourceNotFoundException) when calling the UpdateNodegroupConfig operation: gone")
    pool.apply({}, "-destroy").must()
    assert pool.calls() == [update({"enabled": False})]


def test_a_removal_that_is_denied_stops_a_destroy_and_is_done_the_next_time(pool: Pool) -> None:
    pool.apply({}).must()
    pool.fails("An error occurred (AccessDeniedException) when calling the UpdateNodegroupConfig operation: no")
    answer = pool.apply({}, "-destroy")
    assert answer.code == 1
    assert "AccessDeniedException" in " ".join(answer.errors)
    pool.aws.with_suffix(".fails").unlink()
    pool.apply({}, "-destroy").must()
    assert pool.calls() == [update({"enabled": False}), wait()]


def test_a_pool_that_eks_refuses_fails_the_apply_and_is_tried_again(pool: Pool) -> None:
    pool.fails("An error occurred (InvalidParameterException): no warm pool here")
    answer = pool.apply({})
    assert answer.code == 1
    assert "no warm pool here" in " ".join(answer.errors)
    pool.aws.with_suffix(".fails").unlink()
    pool.apply({}).must()
    assert update(config()) in pool.calls()


def test_a_new_group_gets_its_pool_again(pool: Pool) -> None:
    pool.apply({}).must()
    pool.apply({}, arn="arn:aws:eks:eu-west-1:111122223333:nodegroup/judge-prod/judge-prod-ai/2").must()
    assert pool.calls()[-2:] == [update(config()), wait()]


def test_a_name_that_means_something_to_a_shell_stays_a_name(pool: Pool) -> None:
    name = "a'; touch \"$HOME/pwned\" $(touch $HOME/pwned); '"
    pool.apply({}, cluster_name=name).must()
    assert pool.calls() == [update(config(), name), wait(name)]
    pool.apply({}, "-destroy", cluster_name=name).must()
    assert pool.calls() == [update({"enabled": False}, name), wait(name)]
    assert not list(pool.terraform.home.glob("pwned"))
