"""The applied judge on the real cluster: what is rendered is what stands there, and nodes and pods come back alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.local_site import CHECKOUT, Cli
from judge_bootstrap.adapters.kube import connect
from judge_bootstrap.adapters.objects import apply, listed, read, request
from judge_lab import site

pytestmark = pytest.mark.lab
NAMESPACE, NAME = "llm-judge", "judge-inference-service"
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "namespace": NAMESPACE}}


@pytest.fixture(scope="module")
def running(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The chain is up and holds (at once where an earlier module left it so)."""
    cli = Cli(tmp_path_factory.mktemp("state"))
    answer = cli()
    assert answer.code == 0, answer.stderr
    return cli


@pytest.fixture(scope="module")
def api(running: Cli) -> Any:
    return connect(site.environment()["KUBECONFIG"])


def wait_for(what: str, condition: Callable[[], object], seconds: float = 1200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


def pods(api: Any) -> list[dict[str, Any]]:
    # What a node that was stopped leaves behind has ended, and stays in the list for a while.
    return [pod for pod in listed(api, "v1", "Pod", namespace=NAMESPACE, labels=f"app.kubernetes.io/instance={NAME}")
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") in ("Pending", "Running")]


def is_ready(pod: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])


def scale(api: Any, replicas: int) -> None:
    """As kubectl and every autoscaler do it."""
    request(api, "PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}/scale",
            {"spec": {"replicas": replicas}}, content_type="application/merge-patch+json")


def ask(running: Cli) -> dict[str, Any]:
    """Ask the pods behind the Service by plain HTTP (molecule/resources/ask.py)."""
    done = subprocess.run([sys.executable, CHECKOUT / "molecule/resources/ask.py",
                           site.environment()["KUBECONFIG"], NAMESPACE, NAME], capture_output=True, text=True,
                          check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_rendered_is_what_was_applied(running: Cli, api: Any, tmp_path: Path) -> None:
    answer = running("render", "--out", str(tmp_path / "out"))
    assert answer.code == 0, answer.stderr
    files = sorted((tmp_path / "out").glob("*.yaml"))
    objects = [yaml.safe_load(path.read_text()) for path in files]
    assert len(objects) > 25
    # The server's own dry run of every file, as the same field manager: nothing would change, and nothing is missing.
    assert {change.action for change in apply(api, objects, check=True)} == {"unchanged"}


def test_one_setting_is_one_object(running: Cli, api: Any) -> None:
    before = {item["metadata"]["uid"] for item in pods(api)}
    plan = running("plan", "vllm_k8s", "-e", '{"vllm_k8s_clients": [{"podSelector": {}}]}')
    assert plan.code == 0, plan.stderr
    assert [change["task"] for change in plan.json["changes"]] == [
        f"Apply the objects: NetworkPolicy/{NAMESPACE}/{NAME} changed"]
    assert "podSelector" in plan.json["changes"][0]["diff"]
    assert {item["metadata"]["uid"] for item in pods(api)} == before


def test_an_object_that_nobody_wants_any_more_is_listed_and_then_removed(running: Cli, api: Any) -> None:
    rendered = read(api, {"apiVersion": "v1", "kind": "ConfigMap",
                          "metadata": {"namespace": NAMESPACE, "name": config_map_of(api, "program")}})
    assert rendered is not None
    stale: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"was": "ours"}, "metadata": {
        "name": "of-an-earlier-version", "namespace": NAMESPACE, "labels": rendered["metadata"]["labels"]}}
    foreign = {**stale, "metadata": {**stale["metadata"], "name": "copied-labels"}}
    apply(api, [stale])
    request(api, "POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", foreign, content_type="application/json")
    try:
        removal = f"Remove what is not wanted any more: ConfigMap/{NAMESPACE}/of-an-earlier-version deleted"
        plan = running("plan", "vllm_k8s")
        assert [change["task"] for change in plan.json["changes"]] == [removal], plan.stderr
        assert read(api, stale) is not None, "a plan removes nothing"
        done = running("run", "vllm_k8s")
        assert [change["task"] for change in done.json["changes"]] == [removal], done.stderr
        assert read(api, stale) is None
        assert read(api, foreign) is not None, "our field manager never applied it"
    finally:
        request(api, "DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/copied-labels")


def config_map_of(api: Any, volume: str) -> str:
    deployment = read(api, DEPLOYMENT)
    assert deployment is not None
    (name,) = [entry["configMap"]["name"] for entry in deployment["spec"]["template"]["spec"]["volumes"]
               if entry["name"] == volume]
    return str(name)


def test_both_volumes_are_bound_and_the_store_cannot_be_written(running: Cli, api: Any) -> None:
    claims = {item["metadata"]["name"]: item["status"]["phase"]
              for item in listed(api, "v1", "PersistentVolumeClaim", namespace=NAMESPACE)}
    assert sorted(claims.values()) == ["Bound", "Bound"], claims
    done = running_in(pods(api)[0]["metadata"]["name"], "touch /models/x; touch /cache/x && rm /cache/x && echo ok")
    assert "Read-only file system" in done and done.strip().endswith("ok"), done


def running_in(pod: str, script: str) -> str:
    from kubernetes import client
    from kubernetes.stream import stream

    talk = stream(client.CoreV1Api(connect(site.environment()["KUBECONFIG"])).connect_get_namespaced_pod_exec, pod,
                  NAMESPACE, container="vllm", command=["sh", "-c", script], stdout=True, stderr=True,
                  _preload_content=False)
    talk.run_forever(timeout=600)
    said = str(talk.read_all())
    # close() does nothing once the other side has closed, and the socket would stay open.
    talk.sock.shutdown()
    return said


def test_a_node_that_comes_back_blank_warms_itself_and_then_serves(running: Cli, api: Any) -> None:
    """No operator: the disk is prepared as the boot unit does it, all else is the loader's and the scheduler's."""
    (serves,) = [pod["spec"]["nodeName"] for pod in pods(api) if is_ready(pod)]
    blank = next(name for name in site.status()["nodes"] if name != serves)
    site.node("stop", blank)
    site.node("start", blank)
    scale(api, 2)
    try:
        host = site.status()["nodes"][blank]["instance_id"]
        assert running("run", "nvme", "--limit", host).code == 0
        wait_for(f"a ready pod on {blank}", lambda: [pod for pod in pods(api) if is_ready(pod)
                                                    and pod["spec"]["nodeName"] == blank])
        node = read(api, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": blank}})
        assert node is not None
        taints = [taint["key"] for taint in node["spec"].get("taints") or []]
        assert not [key for key in taints if key.startswith("judge-bootstrap.io")]
        assert json.loads(node["metadata"]["annotations"]["judge-bootstrap.io/model-state"])["state"] == "complete"
        # To nothing and back, which is all that an autoscaler does.
        scale(api, 0)
        wait_for("no pod", lambda: not pods(api))
    finally:
        scale(api, 1)
    wait_for("one ready pod", lambda: any(is_ready(pod) for pod in pods(api)))
    wait_for("it is behind the Service", lambda: answers(running))


def answers(running: Cli) -> bool:
    try:
        found = ask(running)
    except subprocess.CalledProcessError:
        return False
    return bool(found["without_key"] == 401 and found["models"][0]["id"] == "judge-lab/tiny-judge")
