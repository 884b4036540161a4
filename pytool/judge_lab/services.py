"""The stand-ins that run on the host: AWS, AppConfig's data service, and the model hub."""

from __future__ import annotations

import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError

from judge_lab import LabError, aws, plain_model
from judge_lab.hub import DEFAULT_ROOT
from judge_lab.layout import APPCONFIG_PORT, AWS_PORT, HOST_ADDRESS, HUB_PORT, Layout
from judge_lab.state import NodeState

PORTS = {"aws": AWS_PORT, "appconfig": APPCONFIG_PORT, "hub": HUB_PORT}
AWS_URL, APPCONFIG_URL, HUB_URL = (f"http://{HOST_ADDRESS}:{PORTS[name]}" for name in ("aws", "appconfig", "hub"))


def command(name: str, layout: Layout) -> list[str]:
    """Return the command line of one stand-in."""
    own = {"hub": ["--root", str(layout.hub)], "appconfig": ["--document", str(layout.appconfig)]}.get(name, [])
    return [*python(), "-m", f"judge_lab.{name}", "--host", HOST_ADDRESS, "--port", str(PORTS[name]), *own]


def python() -> list[str]:
    """Return the interpreter that runs this process, as a command."""
    return [sys.executable]


def import_path() -> dict[str, str]:
    """Return the environment in which a subprocess finds this package as this process does."""
    return {"PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}


def fill_hub(layout: Layout) -> None:
    """Put the models that come with the package where the hub serves from, and the plain one; what is there stays."""
    layout.hub.mkdir(parents=True, exist_ok=True)
    for repository in DEFAULT_ROOT.glob("*/*"):
        if repository.is_dir():
            _fill(layout.hub / repository.parent.name / repository.name, partial(shutil.copytree, repository))
    _fill(layout.hub / plain_model.PLAIN_JUDGE, plain_model.make)


def _fill(target: Path, make: Callable[[Path], object]) -> None:
    """Make one repository if it is not there; it appears whole."""
    if target.exists():
        return
    staging = target.with_name(f".{target.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    make(staging)
    staging.replace(target)


def seed_instances(nodes: Iterable[NodeState]) -> None:
    """Make an EC2 instance for each node that has none, and note its id in `instance_id`.

    Raises LabError when the AWS stand-in does not answer as it should.
    """
    nodes = sorted(nodes, key=lambda node: node.index)
    # One by one, from a fixed seed: so ids come out the same when moto has to be started again and has forgotten all.
    for count in range(1, len(nodes) + 1):
        try:
            ids = aws.seed(AWS_URL, [(node.name, node.address) for node in nodes[:count]])
        except (BotoCoreError, ClientError) as error:
            raise LabError(f"the AWS stand-in made no instances: {error}", hint="judge-bootstrap lab down") from error
        nodes[count - 1].instance_id = ids[nodes[count - 1].name]


def set_instance_state(node: NodeState, verb: Literal["stop", "start"]) -> None:
    """Stop or start the node's EC2 instance."""
    aws.set_state(AWS_URL, node.name, verb)


def fix_random_ids() -> None:
    """Make the ids that a fresh moto hands out the same ones every time."""
    request = urllib.request.Request(f"{AWS_URL}/moto-api/seed?a=1", method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
        pass
