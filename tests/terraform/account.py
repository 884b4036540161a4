"""An AWS account on this machine: moto, with node groups that have nodes, and an AppConfig that deploys.

It holds what a platform team brings: a VPC with subnets in two zones, and an EKS cluster.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch
from urllib.request import Request, urlopen

import boto3
from botocore.config import Config
from judge_lab.aws import AwsServer
from moto.ec2.models.launch_templates import LaunchTemplate
from moto.iam import models as iam_models
from moto.iam.access_control import PermissionResult
from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.s3.models import FakeBucket
from terraform.appconfig_control import AppConfigControl
from terraform.eks_nodes import documented_node_groups

REGION = "us-east-1"
_TRUST = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "eks.amazonaws.com"}, "Action": "sts:AssumeRole"}]}

# Conditions that hold for requests without TLS, or with an old one.
_PLAIN_HTTP = ({"Bool": {"aws:SecureTransport": "false"}}, {"NumericLessThan": {"s3:TlsVersion": "1.2"}})


class Account:
    """The account. `variables` is what leads a program to it."""

    def __init__(self, url: str, appconfig: AppConfigControl) -> None:
        self.url, self.appconfig = url, appconfig
        self._clients: dict[str, Any] = {}
        self.variables = {
            "AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_APPCONFIG": appconfig.url, "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "judge-terraform", "AWS_SECRET_ACCESS_KEY": "judge-terraform",
            "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
        }

    def client(self, service: str) -> Any:
        """Return a client of that service."""
        if service not in self._clients:
            url = self.appconfig.url if service == "appconfig" else self.url
            self._clients[service] = boto3.client(service, endpoint_url=url, region_name=REGION,
                                                  aws_access_key_id="x", aws_secret_access_key="x",
                                                  config=Config(proxies={}))
        return self._clients[service]

    def furnish(self, cluster: str = "judge-test") -> dict[str, Any]:
        """Make the account anew, with nothing but a VPC and a cluster, and return their names and ids."""
        urlopen(Request(f"{self.url}/moto-api/reset", method="POST")).read()
        self.appconfig.state.__init__()
        ec2 = self.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.80.0.0/16")["Vpc"]["VpcId"]
        subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.80.{number}.0/24",
                                     AvailabilityZone=f"{REGION}{zone}")["Subnet"]["SubnetId"]
                   for number, zone in enumerate("ab")]
        tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
        role = self.client("iam").create_role(RoleName="cluster", AssumeRolePolicyDocument=json.dumps(_TRUST))["Role"]
        self.client("eks").create_cluster(name=cluster, version="1.33", roleArn=role["Arn"],
                                          resourcesVpcConfig={"subnetIds": subnets})
        return {"vpc_id": vpc, "subnet_ids": subnets, "cluster_name": cluster,
                "route_table_ids": [table["RouteTableId"] for table in tables]}

    def everything(self) -> list[str]:
        """Return one line for each thing that costs money, takes a name, or gives a right.

        Not the network interfaces of instances, which end with them, and which moto 5.2 keeps.
        """
        ec2, iam, eks, s3 = (self.client(name) for name in ("ec2", "iam", "eks", "s3"))
        found = [f"cluster {name}" for name in eks.list_clusters()["clusters"]]
        for cluster in eks.list_clusters()["clusters"]:
            found += [f"node group {name}" for name in eks.list_nodegroups(clusterName=cluster)["nodegroups"]]
        found += [f"instance {item['InstanceId']}" for item in self.instances()]
        found += [f"volume {item['VolumeId']}" for item in ec2.describe_volumes()["Volumes"]]
        found += [f"launch template {item['LaunchTemplateName']}"
                  for item in ec2.describe_launch_templates()["LaunchTemplates"]]
        for kind, key, one in (("vpcs", "Vpcs", "VpcId"), ("subnets", "Subnets", "SubnetId"),
                               ("security_groups", "SecurityGroups", "GroupId"),
                               ("route_tables", "RouteTables", "RouteTableId"),
                               ("vpc_endpoints", "VpcEndpoints", "VpcEndpointId")):
            found += [f"{kind} {item[one]}" for item in getattr(ec2, f"describe_{kind}")()[key]
                      if item.get("State") != "deleted"]
        autoscaling, alarms = self.client("autoscaling"), self.client("cloudwatch")
        found += [f"Auto Scaling group {item['AutoScalingGroupName']}"
                  for item in autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]]
        found += [f"alarm {item['AlarmName']}" for item in alarms.describe_alarms()["MetricAlarms"]]
        found += [f"log group {item['logGroupName']}"
                  for item in self.client("logs").describe_log_groups()["logGroups"]]
        found += [f"rule {item['Name']}" for item in self.client("events").list_rules()["Rules"]]
        found += [f"topic {item['TopicArn']}" for item in self.client("sns").list_topics()["Topics"]]
        found += [f"role {item['RoleName']}" for item in iam.list_roles()["Roles"]]
        found += [f"policy {item['PolicyName']}" for item in iam.list_policies(Scope="Local")["Policies"]]
        found += [f"instance profile {item['InstanceProfileName']}"
                  for item in iam.list_instance_profiles()["InstanceProfiles"]]
        found += [f"bucket {item['Name']}" for item in s3.list_buckets()["Buckets"]]
        found += [f"AppConfig {line}" for line in self.appconfig.everything()]
        return sorted(found)

    def instances(self) -> list[dict[str, Any]]:
        """Return the instances that are not ended."""
        pages = self.client("ec2").get_paginator("describe_instances").paginate()
        return [item for page in pages for reservation in page["Reservations"] for item in reservation["Instances"]
                if item["State"]["Name"] not in ("shutting-down", "terminated")]


@contextmanager
def account() -> Iterator[Account]:
    """Run the account until the end."""
    with ExitStack() as held:
        held.enter_context(patch.dict(os.environ, {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
                                                   "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}))
        held.enter_context(patch.object(iam_models, "aws_managed_policies_data", json.dumps(_managed_policies())))
        held.enter_context(patch.object(FakeBucket, "get_permission", _over_tls(FakeBucket.get_permission)))
        held.enter_context(patch.object(LaunchTemplate, "create_version", _own_tags(LaunchTemplate.create_version)))
        held.enter_context(documented_node_groups())
        appconfig = held.enter_context(AppConfigControl())
        yield Account(held.enter_context(AwsServer()).url, appconfig)


def _over_tls(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let a bucket's policy see each request as one over TLS 1.3: moto 5.2 heeds no Condition, and would refuse all."""
    def get_permission(self: Any, action: str, resource: str) -> Any:
        policy = self.policy
        if policy is None:
            return original(self, action, resource)
        document = json.loads(policy)
        document["Statement"] = [item for item in document["Statement"]
                                 if item["Effect"] != "Deny" or item.get("Condition") not in _PLAIN_HTTP]
        if not document["Statement"]:
            return PermissionResult.NEUTRAL
        self.policy = json.dumps(document).encode()
        try:
            return original(self, action, resource)
        finally:
            self.policy = policy

    return get_permission


def _own_tags(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a launch template's own tags out of its versions' TagSpecifications, where moto 5.2 puts them, too."""
    def create_version(self: Any, data: dict[str, Any], description: str) -> Any:
        if "TagSpecifications" in data:
            data["TagSpecifications"] = [item for item in data["TagSpecifications"]
                                         if item["ResourceType"] != "launch-template"]
        return original(self, data, description)

    return create_version


def _managed_policies() -> dict[str, Any]:
    """Return Amazon's policies for nodes. moto has all 1,300, and reads them anew at each reset (2 seconds)."""
    known = json.loads(aws_managed_policies_data)
    return {name: policy for name, policy in known.items()
            if name.startswith(("AmazonEKS", "AmazonEC2Container", "AmazonSSM", "CloudWatchAgent"))}
