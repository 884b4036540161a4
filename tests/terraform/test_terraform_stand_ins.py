"""What the stand-ins of AWS do that moto does not, against the real boto3: apply and destroy are tested on them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from terraform.account import Account, account

_MIME = ('MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="B"\n\n--B\n'
         "Content-Type: text/x-shellscript\n\n#!/bin/sh\necho {}\n\n--B--\n")
_SCHEMA = {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object", "required": ["judge_inference"]}


@pytest.fixture(scope="module")
def aws() -> Iterator[Account]:
    with account() as found:
        yield found


@pytest.fixture
def group(aws: Account) -> dict[str, Any]:
    """What a node group is created from that EKS accepts."""
    network = aws.furnish()
    iam = aws.client("iam")
    role = iam.create_role(RoleName="node", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')
    iam.attach_role_policy(RoleName="node", PolicyArn="arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy")
    return {"clusterName": network["cluster_name"], "nodegroupName": "ai", "subnets": network["subnet_ids"],
            "nodeRole": role["Role"]["Arn"], "instanceTypes": ["g5.xlarge"], "amiType": "AL2023_x86_64_NVIDIA",
            "scalingConfig": {"minSize": 0, "maxSize": 3, "desiredSize": 2}}


def _template(aws: Account, **data: Any) -> dict[str, str]:
    tags = [{"Key": "role", "Value": "ai-gpu"}]
    text = data.pop("text", _MIME.format("ours"))
    data = {"UserData": base64.b64encode(text.encode()).decode(),
            "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}]} | data
    made = aws.client("ec2").create_launch_template(LaunchTemplateName="ours", LaunchTemplateData=data)
    return {"id": made["LaunchTemplate"]["LaunchTemplateId"], "version": "1"}


def test_a_node_groups_instances_carry_the_templates_tags_and_eks_own(aws: Account, group: dict[str, Any]) -> None:
    aws.client("eks").create_nodegroup(**group, launchTemplate=_template(aws))
    tags = [{tag["Key"]: tag["Value"] for tag in item["Tags"]} for item in aws.instances()]
    wanted = {"role": "ai-gpu", "eks:cluster-name": "judge-test", "eks:nodegroup-name": "ai"}
    assert [wanted.items() <= found.items() for found in tags] == [True, True]


def test_a_nodes_user_data_is_the_templates_and_eks_own_part(aws: Account, group: dict[str, Any]) -> None:
    aws.client("eks").create_nodegroup(**group, launchTemplate=_template(aws))
    answer = aws.client("ec2").describe_instance_attribute(InstanceId=aws.instances()[0]["InstanceId"],
                                                           Attribute="userData")
    text = base64.b64decode(answer["UserData"]["Value"]).decode()
    assert ("echo ours" in text, "name: judge-test" in text) == (True, True)


@pytest.mark.parametrize(("data", "said"), [
    ({"text": "#!/bin/sh\necho\n"}, "User data was not in the MIME multipart format"),
    ({"text": _MIME.format("x" * 16384)}, "User data is limited to 16384 bytes"),
    ({"IamInstanceProfile": {"Name": "x"}}, "sets IamInstanceProfile, which a managed node group does not accept"),
    ({"InstanceType": "g5.xlarge"}, "in the launch template and in the node group"),
])
def test_a_template_that_eks_refuses_is_refused_and_leaves_no_group(
        aws: Account, group: dict[str, Any], data: dict[str, Any], said: str) -> None:
    eks = aws.client("eks")
    with pytest.raises(ClientError, match=said):
        eks.create_nodegroup(**group, launchTemplate=_template(aws, **data))
    assert (eks.list_nodegroups(clusterName="judge-test")["nodegroups"], aws.instances()) == ([], [])


def test_a_role_without_its_policies_gets_no_nodes(aws: Account, group: dict[str, Any]) -> None:
    aws.client("iam").detach_role_policy(RoleName="node",
                                         PolicyArn="arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy")
    with pytest.raises(ClientError, match="has not the policy AmazonEKSWorkerNodePolicy"):
        aws.client("eks").create_nodegroup(**group, launchTemplate=_template(aws))


def test_another_version_of_the_template_replaces_the_nodes_and_keeps_the_groups_tags(
        aws: Account, group: dict[str, Any]) -> None:
    eks, autoscaling, template = aws.client("eks"), aws.client("autoscaling"), _template(aws)
    made = eks.create_nodegroup(**group, launchTemplate=template)["nodegroup"]
    name = made["resources"]["autoScalingGroups"][0]["name"]
    autoscaling.create_or_update_tags(Tags=[{"ResourceId": name, "ResourceType": "auto-scaling-group", "Key": "mine",
                                             "Value": "1", "PropagateAtLaunch": False}])
    before = {item["InstanceId"] for item in aws.instances()}
    aws.client("ec2").create_launch_template_version(
        LaunchTemplateId=template["id"],
        LaunchTemplateData={"UserData": base64.b64encode(_MIME.format("new").encode()).decode()})
    update = eks.update_nodegroup_version(clusterName="judge-test", nodegroupName="ai",
                                          launchTemplate=template | {"version": "2"})["update"]
    assert eks.describe_update(name="judge-test", nodegroupName="ai", updateId=update["id"])["update"][
        "status"] == "Successful"
    after = {item["InstanceId"] for item in aws.instances()}
    tags = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"][0]["Tags"]
    assert (len(after), before & after, "mine" in {tag["Key"] for tag in tags}) == (2, set(), True)


def test_a_deleted_group_leaves_nothing_but_what_it_was_made_from(aws: Account, group: dict[str, Any]) -> None:
    template = _template(aws)
    before = aws.everything()
    aws.client("eks").create_nodegroup(**group, launchTemplate=template)
    assert len(aws.everything()) > len(before)
    aws.client("eks").delete_nodegroup(clusterName="judge-test", nodegroupName="ai")
    assert [line for line in aws.everything() if not line.startswith("volume ")] == before


def _deploy(aws: Account, document: object) -> tuple[str, str, str]:
    client = aws.client("appconfig")
    application = client.create_application(Name="judge")["Id"]
    environment = client.create_environment(ApplicationId=application, Name="prod")["Id"]
    profile = client.create_configuration_profile(
        ApplicationId=application, Name="settings", LocationUri="hosted",
        Validators=[{"Type": "JSON_SCHEMA", "Content": json.dumps(_SCHEMA)}])["Id"]
    version = client.create_hosted_configuration_version(
        ApplicationId=application, ConfigurationProfileId=profile, Content=json.dumps(document).encode(),
        ContentType="application/json")["VersionNumber"]
    client.start_deployment(ApplicationId=application, EnvironmentId=environment, ConfigurationProfileId=profile,
                            ConfigurationVersion=str(version), DeploymentStrategyId="AppConfig.AllAtOnce")
    return application, environment, profile


def test_appconfig_has_what_was_deployed(aws: Account) -> None:
    aws.furnish()
    document = {"judge_inference": {"model": {"id": "a/b"}}}
    assert json.loads(aws.appconfig.deployed(*_deploy(aws, document))) == document


def test_appconfig_deploys_no_document_that_its_schema_forbids(aws: Account) -> None:
    aws.furnish()
    with pytest.raises(ClientError, match="Invalid configuration: 'judge_inference' is a required property"):
        _deploy(aws, {})


def test_appconfig_deletes_no_application_that_has_something_in_it(aws: Account) -> None:
    aws.furnish()
    application, _, _ = _deploy(aws, {"judge_inference": {}})
    with pytest.raises(ClientError, match="it has environments"):
        aws.client("appconfig").delete_application(ApplicationId=application)
