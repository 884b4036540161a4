"""AWS in the lab: a moto server, and the instances that stand for the lab's nodes.

    python -m judge_lab.aws --host 127.0.0.1 --port 5000

The instances are what Terraform would have made in the account: tagged, in a subnet that holds the nodes' addresses.
Two decoys differ in one tag each, so that an inventory whose filters do nothing is noticed.
"""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Iterable
from typing import Any, Literal

from judge_lab.stand_in import wait_for_end

REGION = "us-east-1"
ENVIRONMENT = "local"
CLUSTER = "judge-local"
ROLE = "ai-gpu"
INSTANCE_TYPE = "g5.xlarge"
NODE_TAG = "judge-bootstrap.io/node"

_VPC_CIDR = "10.77.0.0/16"
_SUBNET_CIDR = "10.77.0.0/24"
_NETWORK_NAME = "judge-lab"
_DECOYS = (
    ("judge-lab-decoy-staging", "10.77.0.251", {"Environment": "staging", "role": ROLE}),
    ("judge-lab-decoy-web", "10.77.0.252", {"Environment": ENVIRONMENT, "role": "web"}),
)

State = Literal["stop", "start", "terminate"]


def seed(endpoint: str, nodes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Make a running instance for each (name, private IPv4 address) that has none, and the decoys.

    Returns {name: instance id} of the nodes. An instance that exists keeps its id and its state; a terminated one is
    replaced. Raises botocore's ClientError or BotoCoreError when the endpoint refuses or cannot be reached.
    """
    ec2 = _ec2(endpoint)
    subnet = _subnet(ec2)
    known = _instances(ec2)
    wanted = [(name, address, {"Environment": ENVIRONMENT, "role": ROLE, NODE_TAG: name}) for name, address in nodes]
    missing = [node for node in [*wanted, *_DECOYS] if node[0] not in known]
    if missing:
        # Any image that exists will do, and asking for Amazon's makes moto build its list of 1,300 (0.7 s).
        image = ec2.register_image(Name=_NETWORK_NAME, RootDeviceName="/dev/xvda")["ImageId"]
        known |= {name: _run(ec2, image, subnet, name, address, tags) for name, address, tags in missing}
    return {name: known[name] for name, _, _ in wanted}


def set_state(endpoint: str, name: str, state: State) -> str:
    """Stop, start or terminate the instance of that name, and return its id; raises KeyError if there is none."""
    ec2 = _ec2(endpoint)
    instance_id = _instances(ec2)[name]
    call = {"stop": ec2.stop_instances, "start": ec2.start_instances, "terminate": ec2.terminate_instances}[state]
    call(InstanceIds=[instance_id])
    return instance_id


def _ec2(endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "ec2",
        endpoint_url=endpoint,
        region_name=REGION,
        # moto takes any credentials; giving them here keeps a developer's own out of the lab.
        aws_access_key_id="judge-lab",
        aws_secret_access_key="judge-lab",
        # The proxy of a developer's machine cannot reach the lab's bridge.
        config=Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 2}, proxies={}),
    )


def _tags(kind: str, **tags: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]


def _subnet(ec2: Any) -> str:
    found = ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": [_NETWORK_NAME]}])["Subnets"]
    if found:
        return str(found[0]["SubnetId"])
    vpc = ec2.create_vpc(CidrBlock=_VPC_CIDR, TagSpecifications=_tags("vpc", Name=_NETWORK_NAME))["Vpc"]
    subnet = ec2.create_subnet(
        VpcId=vpc["VpcId"], CidrBlock=_SUBNET_CIDR, TagSpecifications=_tags("subnet", Name=_NETWORK_NAME)
    )["Subnet"]
    return str(subnet["SubnetId"])


def _instances(ec2: Any) -> dict[str, str]:
    """Return the ids of all instances that are not terminated, by their Name."""
    ids = {}
    for page in ec2.get_paginator("describe_instances").paginate():
        for instance in (one for reservation in page["Reservations"] for one in reservation["Instances"]):
            name = next((tag["Value"] for tag in instance.get("Tags", []) if tag["Key"] == "Name"), None)
            if name and instance["State"]["Name"] not in ("shutting-down", "terminated"):
                ids[name] = str(instance["InstanceId"])
    return ids


def _run(ec2: Any, image: str, subnet: str, name: str, address: str, tags: dict[str, str]) -> str:
    answer = ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        InstanceType=INSTANCE_TYPE,
        SubnetId=subnet,
        PrivateIpAddress=address,
        TagSpecifications=_tags("instance", **{"Name": name, "eks:cluster-name": CLUSTER, **tags}),
    )
    return str(answer["Instances"][0]["InstanceId"])


def _free_addresses_of_terminated_instances() -> None:
    """Let moto give the address of a terminated instance to the next one, as EC2 does.

    moto 5.2 frees it when the instance's object is collected, which never happens while it is listed as terminated.
    """
    from moto.ec2.models.instances import Instance

    terminate = Instance.terminate
    if getattr(terminate, "frees_addresses", False):
        return

    def terminate_and_free(self: Any) -> Any:
        previous = terminate(self)
        subnet = self.ec2_backend.get_subnet(self.subnet_id)
        for address in self._private_ips:
            subnet.del_subnet_ip(address)
        return previous

    terminate_and_free.frees_addresses = True  # type: ignore[attr-defined]
    Instance.terminate = terminate_and_free  # type: ignore[method-assign]


class AwsServer:
    """moto's server in a thread of this process; a context manager. Port 0 takes any free port."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        _free_addresses_of_terminated_instances()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        # Not moto's ThreadedMotoServer: that one waits for ever when the port is taken.
        self._server = make_server(
            host, port, DomainDispatcherApplication(create_backend_app), True, request_handler=MotoRequestHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://{host}:{self._server.server_port}"

    def __enter__(self) -> AwsServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def main(argv: list[str] | None = None) -> int:
    """Serve until TERM or INT."""
    parser = argparse.ArgumentParser(prog="python -m judge_lab.aws", description="AWS for the lab: a moto server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes any free port")
    options = parser.parse_args(argv)
    with AwsServer(options.host, options.port) as server:
        wait_for_end(f"AWS stand-in (moto) ready at {server.url}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
