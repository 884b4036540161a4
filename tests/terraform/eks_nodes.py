"""EKS's managed node groups, as documented, on top of moto: groups that have nodes.

moto 5.2's node groups are entries in a list: no Auto Scaling group, no instances, an invented `remoteAccess`, fixed
versions, no `updateConfig`, no updates of a version, no tags. This stand-in does what EKS documents ("Simplify node
lifecycle with managed node groups", "Customize managed nodes with launch templates", API reference):

- the launch template is checked for what EKS forbids in it, its user data for being MIME multi-part and not too long;
- EKS makes a launch template of its own from it, with the image, the instance type and a NodeConfig part that names the
  cluster; the Auto Scaling group, tagged for the cluster-autoscaler, starts instances from that one;
- a change of sizes, labels, taints, or of the launch template's version reaches group and instances (an update replaces
  all at once), and a deletion ends them.

Stricter than EKS, which would only fail later: the node role must have its worker policy as the group is made, and
still as it is deleted.
Not real: nothing boots. An image exists by name only, and all instances lie in the first subnet.
"""

from __future__ import annotations

import base64
import copy
import email
import email.policy
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import yaml
from moto.autoscaling.models import autoscaling_backends
from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.models import ec2_backends
from moto.eks import models, responses, urls
from moto.eks.exceptions import InvalidParameterException, ResourceNotFoundException
from moto.iam.models import iam_backends

# EC2's limit of raw user data. EKS adds its own part to ours before.
_USER_DATA_BYTES = 16384
_WORKER_POLICY = "AmazonEKSWorkerNodePolicy"
# "Launch template configuration basics": what a node group does not accept in a template.
_FORBIDDEN = ("IamInstanceProfile", "InstanceMarketOptions", "HibernationOptions", "InstanceInitiatedShutdownBehavior",
              "EnclaveOptions", "LicenseSpecifications")


def _refuse(message: str) -> InvalidParameterException:
    return InvalidParameterException(message=message)


def _image(ec2: Any, group: Any) -> str:
    """Return the id of the image that EKS would choose, which belongs to Amazon."""
    kind = group.ami_type.lower().replace("_", "-")
    name = f"amazon-eks-node-{kind}-{group.version}-v{group.release_version.rpartition('-')[2]}"
    known = {image.name: image.id for image in ec2.amis.values()}
    return str(known.get(name) or ec2.register_image(name=name, description="EKS-optimised image").id)


def _user_data(raw: bytes, cluster: Any) -> bytes:
    """Return what nodes get: the template's parts, and EKS's own, which names the cluster."""
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    if message.get_content_type() != "multipart/mixed" or not message.is_multipart() or message.defects:
        raise _refuse("Ec2LaunchTemplateInvalidConfiguration: User data was not in the MIME multipart format.")
    own = email.message_from_string("Content-Type: application/node.eks.aws\nMIME-Version: 1.0\n\n" + yaml.safe_dump({
        "apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig", "spec": {"cluster": {
            "name": cluster.name, "apiServerEndpoint": cluster.endpoint,
            "certificateAuthority": cluster.certificate_authority["data"],
            "cidr": cluster.kubernetes_network_config["serviceIpv4Cidr"]}}}))
    message.attach(own)
    whole = message.as_bytes()
    if len(whole) > _USER_DATA_BYTES:
        raise _refuse(f"User data is limited to {_USER_DATA_BYTES} bytes: it has {len(whole)} with EKS's own part")
    return whole


class _Nodes:
    """The part of EKS that owns the instances of one node group."""

    def __init__(self, backend: Any, group: Any) -> None:
        self.backend, self.group = backend, group
        place = (backend.account_id, backend.region_name)
        self.ec2, self.autoscaling = ec2_backends[place[0]][place[1]], autoscaling_backends[place[0]][place[1]]
        self.iam = iam_backends[place[0]][backend.partition]
        self.name = group.resources["autoScalingGroups"][0]["name"]

    def template(self, wanted: dict[str, str]) -> Any:
        """Return the version of the user's template that the group names."""
        found = (self.ec2.get_launch_template(wanted["id"]) if wanted.get("id")
                 else self.ec2.get_launch_template_by_name(wanted["name"]))
        return found.get_version(wanted.get("version") or "$Default")

    def require_worker_policy(self) -> None:
        role = next((role for role in self.iam.get_roles() if role.arn == self.group.node_role), None)
        if role is None:
            raise _refuse(f"The role {self.group.node_role} cannot be found")
        attached = {arn.rpartition("/")[2] for arn in role.managed_policies}
        if _WORKER_POLICY not in attached:
            raise _refuse(f"The node role {role.name} has not the policy {_WORKER_POLICY}: it has {sorted(attached)}")

    def start(self) -> None:
        """Make the group's template and its Auto Scaling group; instances start as many as are desired."""
        sizes, cluster = self.group.scaling_config, self.group.cluster_name
        tags = {"eks:cluster-name": cluster, "eks:nodegroup-name": self.group.nodegroup_name,
                f"kubernetes.io/cluster/{cluster}": "owned", "k8s.io/cluster-autoscaler/enabled": "true",
                f"k8s.io/cluster-autoscaler/{cluster}": "owned"}
        own = self._own_template(tags)
        self.autoscaling.create_auto_scaling_group(
            name=self.name, availability_zones=[], desired_capacity=sizes["desiredSize"], max_size=sizes["maxSize"],
            min_size=sizes["minSize"], launch_config_name="", launch_template={"LaunchTemplateId": own.id},
            vpc_zone_identifier=",".join(self.group.subnets), default_cooldown=None, health_check_period=None,
            health_check_type=None, load_balancers=[], target_group_arns=[], placement_group=None,
            termination_policies=["AllocationStrategy", "OldestLaunchTemplate", "OldestInstance"],
            tags=[{"Key": key, "Value": value, "PropagateAtLaunch": True} for key, value in tags.items()],
            capacity_rebalance=self.group.capacity_type == "SPOT")

    def _own_template(self, tags: dict[str, str]) -> Any:
        data: dict[str, Any] = {}
        if self.group.launch_template:
            data = copy.deepcopy(self.template(self.group.launch_template).data)
        cluster = self.backend.clusters[self.group.cluster_name]
        raw = base64.b64decode(str(data["UserData"])) if data.get("UserData") else \
            b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="EKS"\n\n--EKS--\n'
        data |= {"ImageId": data.get("ImageId") or _image(self.ec2, self.group),
                 "InstanceType": data.get("InstanceType") or self.group.instance_types[0],
                 "UserData": Base64EncodedString.from_raw_bytes(_user_data(raw, cluster))}
        kinds = {item["ResourceType"]: list(item["Tags"]) for item in data.get("TagSpecifications", [])}
        for kind in ("instance", "volume"):
            kinds[kind] = [*kinds.get(kind, []), *({"Key": key, "Value": tags[key]} for key in list(tags)[:2])]
        data["TagSpecifications"] = [{"ResourceType": kind, "Tags": items} for kind, items in kinds.items()]
        return self.ec2.create_launch_template(f"eks-{uuid.uuid4()}", "", data, {"launch-template": tags})

    def resize(self) -> None:
        group, sizes = self.autoscaling.autoscaling_groups[self.name], self.group.scaling_config
        group.min_size, group.max_size = sizes["minSize"], sizes["maxSize"]
        group.set_desired_capacity(sizes["desiredSize"])

    def end(self) -> list[dict[str, Any]]:
        """End all instances, and return the tags that others had given the Auto Scaling group."""
        group = self.autoscaling.autoscaling_groups[self.name]
        own = group.ec2_launch_template
        tags = group.tags
        self.autoscaling.delete_auto_scaling_group(self.name)
        self.ec2.delete_launch_template(own.name, None)
        return tags

    def replace(self) -> None:
        """Start all instances anew from what the group says now, in an Auto Scaling group of the same name and tags."""
        before = self.end()
        self.start()
        group = self.autoscaling.autoscaling_groups[self.name]
        known = {tag["Key"] for tag in group.tags}
        group.tags = [*group.tags, *(tag for tag in before if tag["Key"] not in known)]


def _check_template(data: dict[str, Any], disk_size: object, instance_types: object) -> None:
    wrong = [name for name in _FORBIDDEN if data.get(name)]
    interfaces = data.get("NetworkInterfaces") or []
    if any(interface.get("SubnetId") for interface in interfaces):
        wrong.append("NetworkInterfaces.SubnetId")
    if wrong:
        raise _refuse(f"The launch template sets {', '.join(wrong)}, which a managed node group does not accept")
    if interfaces and data.get("SecurityGroupIds"):
        raise _refuse("The launch template sets security groups beside network interfaces: they belong into these")
    if disk_size:
        raise _refuse("Disk size must be specified within the launch template.")
    if data.get("InstanceType") and instance_types:
        raise _refuse("Instance types are in the launch template and in the node group: one of them only")


def _create(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_nodegroup(self: Any, cluster_name: str, nodegroup_name: str, **asked: Any) -> Any:
        template = asked.get("launch_template")
        group = original(self, cluster_name=cluster_name, nodegroup_name=nodegroup_name, **asked)
        try:
            cluster = self.clusters[cluster_name]
            group.version = asked.get("version") or cluster.version
            group.release_version = asked.get("release_version") or f"{group.version}.0-20251101"
            group.resources = {"autoScalingGroups": [{"name": f"eks-{nodegroup_name}-{group.uuid}"}]}
            group.remote_access = asked.get("remote_access")
            if template:
                group.disk_size = None
                group.launch_template["version"] = str(template.get("version") or "$Default")
            nodes = _Nodes(self, group)
            nodes.require_worker_policy()
            if template:
                _check_template(nodes.template(template).data, asked.get("disk_size"), asked.get("instance_types"))
            nodes.start()
        except Exception:
            del cluster.nodegroups[nodegroup_name]
            cluster.nodegroup_count -= 1
            raise
        return group

    return create_nodegroup


def _delete(original: Callable[..., Any]) -> Callable[..., Any]:
    def delete_nodegroup(self: Any, cluster_name: str, nodegroup_name: str) -> Any:
        nodes = _Nodes(self, self.describe_nodegroup(cluster_name, nodegroup_name))
        nodes.require_worker_policy()
        nodes.end()
        return original(self, cluster_name, nodegroup_name)

    return delete_nodegroup


def _update(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_nodegroup_config(self: Any, cluster_name: str, nodegroup_name: str, **asked: Any) -> Any:
        update = original(self, cluster_name=cluster_name, nodegroup_name=nodegroup_name, **asked)
        _Nodes(self, self.describe_nodegroup(cluster_name, nodegroup_name)).resize()
        return update

    return update_nodegroup_config


def _tagged(original: Callable[..., Any]) -> Callable[..., Any]:
    """Tags of node groups, which moto's EKS knows for clusters alone."""
    def on_tags(self: Any, arn: str, *rest: Any) -> Any:
        for cluster in self.clusters.values():
            for group in cluster.nodegroups.values():
                if group.arn == arn:
                    if original.__name__ == "tag_resource":
                        group.tags.update(rest[0])
                    elif original.__name__ == "untag_resource":
                        for key in [rest[0]] if isinstance(rest[0], str) else rest[0]:
                            group.tags.pop(key, None)
                    return group.tags
        return original(self, arn, *rest)

    return on_tags


def _created(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_nodegroup(self: Any) -> Any:
        answer = original(self)
        group = self.eks_backend.describe_nodegroup(self._get_param("name"), self._get_param("nodegroupName"))
        group.update_config = self._get_param("updateConfig") or {"maxUnavailable": 1}
        group.node_repair_config = self._get_param("nodeRepairConfig")
        return answer

    return create_nodegroup


def _update_nodegroup_version(self: Any) -> ActionResult:
    """UpdateNodegroupVersion: another version of the launch template, of Kubernetes or of the image."""
    group = self.eks_backend.describe_nodegroup(self._get_param("name"), self._get_param("nodegroupName"))
    nodes = _Nodes(self.eks_backend, group)
    wanted = self._get_param("launchTemplate")
    if wanted:
        if group.launch_template.get("id") not in (None, wanted.get("id")) and not wanted.get("name"):
            raise _refuse("An update may name another version of the launch template, not another template")
        _check_template(nodes.template(wanted).data, None, group.instance_types)
        group.launch_template["version"] = str(wanted.get("version"))
    group.version = self._get_param("version") or group.version
    group.release_version = self._get_param("releaseVersion") or group.release_version
    nodes.replace()
    update = {"id": str(uuid.uuid4()), "status": "Successful", "type": "VersionUpdate", "params": [],
              "createdAt": utcnow(), "errors": []}
    return ActionResult({"update": update})


def _describe_update(self: Any) -> ActionResult:
    """DescribeUpdate: every update is over by the time that anybody asks."""
    if self._get_param("name") not in self.eks_backend.clusters:
        raise ResourceNotFoundException(message=f"No cluster found for name: {self._get_param('name')}.")
    update = {"id": self._get_param("updateId"), "status": "Successful", "type": "ConfigUpdate", "params": [],
              "createdAt": utcnow(), "errors": []}
    return ActionResult({"update": update})


@contextmanager
def documented_node_groups() -> Iterator[None]:
    """Let moto's EKS have nodes, in this process, until the end."""
    backend, response = models.EKSBackend, responses.EKSResponse
    group = "{0}/clusters/(?P<name>[^/]+)/node-groups/(?P<nodegroupName>[^/]+)"
    paths = {f"{group}/update-version$": responses.EKSResponse.dispatch,
             "{0}/clusters/(?P<name>[^/]+)/updates/(?P<updateId>[^/]+)$": responses.EKSResponse.dispatch}
    with ExitStack() as patches:
        for owner, name, wrap in (
            (backend, "create_nodegroup", _create), (backend, "delete_nodegroup", _delete),
            (backend, "update_nodegroup_config", _update), (backend, "tag_resource", _tagged),
            (backend, "untag_resource", _tagged), (backend, "list_tags_for_resource", _tagged),
            (response, "create_nodegroup", _created),
        ):
            patches.enter_context(patch.object(owner, name, wrap(getattr(owner, name))))
        patches.enter_context(patch.object(response, "update_nodegroup_version", _update_nodegroup_version,
                                           create=True))
        patches.enter_context(patch.object(response, "describe_update", _describe_update, create=True))
        patches.enter_context(patch.dict(urls.url_paths, paths))
        yield
