"""The pods of the manifests without Kubernetes: what is taken from a manifest, where it runs, and as which command."""

from __future__ import annotations

import copy
import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_play import run_play
from judge_bootstrap.core.model_manifest import sealed
from judge_lab import LabError, podless, process
from judge_lab.layout import Layout
from judge_lab.pod_manifests import Files, Mount, Pod, left_out, pods, read_objects, tmpfs_size
from judge_lab.podless import Runner, place, script, usable_nodes
from judge_lab.process import Process
from judge_lab.state import NodeState, State

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# The program in a ConfigMap takes the dumper that is written in Python a second.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The objects as the role writes them."""
    folder = tmp_path_factory.mktemp("rendered")
    file = {"path": "config.json", "size": 2, "sha256": "a" * 64, "blob_sha1": None}
    manifest = sealed({"schema": 1, "repo_id": "org/name", "revision": "main", "commit": COMMIT, "files": [file]}, None)
    given = {"model_cache_manifest": manifest, "model_cache_quantization": None, "vllm_k8s_quantization": None,
             "vllm_k8s_extra_env": {"ODD": "it's a \"test\" $HOME"}, "vllm_k8s_render_dir": str(folder / "out")}
    run_play(folder, {"roles": ["vllm_k8s"]}, given).check_returncode()
    return read_objects(folder / "out")


@pytest.fixture
def objects(rendered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return copy.deepcopy(rendered)


@pytest.fixture
def pod(objects: list[dict[str, Any]]) -> Pod:
    (found,) = pods(objects)
    return found


def deployment(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (item for item in objects if item["kind"] == "Deployment")
    return found


def pod_spec(objects: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = deployment(objects)["spec"]["template"]["spec"]
    return spec


def test_command_arguments_and_environment_are_the_manifest_s(objects: list[dict[str, Any]], pod: Pod) -> None:
    (container,) = pod_spec(objects)["containers"]
    assert list(pod.container.command) == container["command"] + container["args"]
    assert pod.container.command[:3] == ("vllm", "serve", f"/models/models--org--name/snapshots/{COMMIT}")
    assert dict(pod.container.environment) == {entry["name"]: entry["value"] for entry in container["env"]}


def test_user_root_and_gpu_are_the_manifest_s(pod: Pod) -> None:
    one = pod.container
    assert (one.user, one.group, one.extra_group, one.read_only_root, one.gpus) == (10001, 10001, 10001, True, 1)
    assert (pod.tolerates_gpu_taint, pod.node_selector) == (True, (("role", "ai-gpu"),))


def test_the_claims_lead_to_the_node_s_folders_and_each_empty_dir_is_its_own(pod: Pod) -> None:
    by_name = {mount.name: mount for mount in pod.container.mounts}
    key = by_name["cache"].sub_path
    assert key.startswith(COMMIT[:12])
    assert by_name == {
        "shm": Mount("/dev/shm", None, False, "shm", True, str(8 << 30)),
        "home": Mount("/home/judge", None, False, "home", False, str(10 << 30)),
        "models": Mount("/models", "/mnt/nvme/hub", True, "models"),
        "cache": Mount("/cache", "/mnt/nvme/vllm-cache", False, "cache", sub_path=key, make=True),
        "tmp": Mount("/tmp", None, False, "tmp", False, str(10 << 30)),
        "program": Mount("/opt/judge-node", None, True, "program"),
        "gateway": Mount("/etc/judge-gateway", None, True, "gateway"),
        "api-key": Mount("/etc/judge-api-key", None, True, "api-key"),
    }


def test_the_init_container_checks_the_very_commit_without_a_gpu(pod: Pod) -> None:
    (check,) = pod.init
    assert (check.name, check.gpus, check.user) == ("check-model", 0, 10001)
    assert check.command[:4] == ("python3", "/opt/judge-node/judge-node.pyz", "cache", "verify")
    assert {mount.path for mount in check.mounts} == {"/models", "/opt/judge-node", "/etc/judge-model", "/tmp"}


def test_config_maps_bring_their_files_and_the_secret_is_the_lab_s(pod: Pod, tmp_path: Path) -> None:
    files = {one.volume: one for one in pod.files}
    assert files["api-key"] == Files("api-key", 0o440, (), "judge-api-key")
    for volume in ("manifest", "gateway", "program"):
        podless.write_files(tmp_path / volume, files[volume], None, "never")
    assert json.loads((tmp_path / "manifest/manifest.json").read_text())["commit"] == COMMIT
    assert json.loads((tmp_path / "gateway/gateway.json").read_text())["api_key_file"] == "/etc/judge-api-key/api-key"
    pyz = tmp_path / "program/judge-node.pyz"
    assert (pyz.read_bytes()[:2], oct(pyz.stat().st_mode & 0o777)) == (b"#!", "0o644")


def test_the_secret_s_file_can_be_read_by_the_pod_s_group_alone(pod: Pod, tmp_path: Path) -> None:
    (secret,) = (one for one in pod.files if one.secret)
    podless.write_files(tmp_path / "v", secret, None, "the key")
    path = tmp_path / "v/api-key"
    assert (path.read_text(), oct(path.stat().st_mode & 0o777)) == ("the key", "0o440")


def test_the_lab_s_key_is_made_once_and_can_be_read_by_root_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "lab")
    key = podless.ensure_api_key(layout)
    assert len(key) > 30
    assert podless.ensure_api_key(layout) == key == layout.api_key.read_text().strip()
    assert oct(layout.api_key.stat().st_mode & 0o777) == "0o600"


def test_what_is_not_looked_at_is_said(objects: list[dict[str, Any]], pod: Pod) -> None:
    (note,) = pod.notes
    assert f"the affinity to judge-bootstrap.io/model-{COMMIT} is not looked at, there are no Nodes" in note
    said = left_out(objects)
    assert "DaemonSet/judge-loader is left out: the loader: the model_cache role fills the store over ssh" in said
    (policies,) = (line for line in said if line.startswith("NetworkPolicy/"))
    assert policies.endswith("is left out: nothing enforces it")
    (asked,) = (line for line in said if line.startswith("left out, as there is no API server: "))
    assert {"Namespace", "ServiceAccount", "ClusterRole", "ValidatingAdmissionPolicy"} <= set(asked[37:].split(", "))
    assert not [line for line in said if line.startswith(("Deployment", "ConfigMap", "PersistentVolume"))]


def test_every_replica_is_a_pod(objects: list[dict[str, Any]]) -> None:
    deployment(objects)["spec"]["replicas"] = 2
    assert [one.name for one in pods(objects)] == ["judge-inference-service-0", "judge-inference-service-1"]


def test_a_change_of_the_manifest_is_another_pod(objects: list[dict[str, Any]], pod: Pod) -> None:
    assert pods(objects)[0].digest == pod.digest
    pod_spec(objects)["containers"][0]["args"].append("--seed=1")
    assert pods(objects)[0].digest != pod.digest


def _value_from(spec: dict[str, Any]) -> None:
    spec["containers"][0]["env"].append({"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}})


def _volume(spec: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (volume for volume in spec["volumes"] if volume["name"] == name)
    return found


def _mount(spec: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == name)
    return found


@pytest.mark.parametrize(("change", "message"), [
    (_value_from, "takes environment from other objects"),
    (lambda spec: spec["containers"].append({}), "more than one container"),
    (lambda spec: spec["initContainers"][0].update(restartPolicy="Always"), "a sidecar"),
    (lambda spec: spec["containers"][0].pop("command"), "names no command"),
    (lambda spec: spec["securityContext"].pop("runAsUser"), "runAsNonRoot and no runAsUser"),
    (lambda spec: _volume(spec, "home").update(csi=_volume(spec, "home").pop("emptyDir")), "volume home of csi"),
    (lambda spec: _volume(spec, "models")["persistentVolumeClaim"].update(claimName="x"), "no local PersistentVolume"),
    (lambda spec: _volume(spec, "gateway")["configMap"].update(name="x"), "ConfigMap x, which is not among"),
    (lambda spec: _volume(spec, "api-key")["secret"].update(items=[]), "takes single keys"),
    (lambda spec: _mount(spec, "cache").update(subPath="../x"), "an odd subPath at /cache"),
    (lambda spec: _mount(spec, "gateway").update(subPath="gateway.json"), "one file of gateway"),
    (lambda spec: spec["affinity"].update(podAntiAffinity={}), "an affinity to more than the model's label"),
])
def test_what_only_a_cluster_can_give_is_refused_and_not_left_out(
    objects: list[dict[str, Any]], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(pod_spec(objects))
    with pytest.raises(LabError, match=f"Deployment/judge-inference-service .*{message}"):
        pods(objects)


def test_a_volume_that_is_bound_to_another_claim_is_not_taken(objects: list[dict[str, Any]]) -> None:
    for volume in objects:
        if volume["kind"] == "PersistentVolume":
            volume["spec"]["claimRef"]["namespace"] = "other"
    with pytest.raises(LabError, match="no local PersistentVolume is bound to that"):
        pods(objects)


def final(pod: Pod) -> list[str]:
    """Return the words of the script's last line, which becomes the container."""
    return shlex.split(script(pod, "10.77.0.11").splitlines()[-1])


def test_the_container_is_started_as_its_user_without_a_way_up_and_with_nothing_of_our_environment(pod: Pod) -> None:
    words = final(pod)
    assert words[:5] == ["exec", "setpriv", "--no-new-privs", "chroot", "--userspec=10001:10001"]
    assert words[words.index("/usr/bin/env") + 1] == "-i"
    assert "--groups=10001" in words
    assert words[-len(pod.container.command):] == list(pod.container.command)


def test_the_environment_is_the_manifest_s_over_what_image_and_gpu_bring(pod: Pod) -> None:
    words = final(pod)
    given = dict(word.split("=", 1) for word in words[words.index("--chdir=/") + 1:-len(pod.container.command)])
    assert given.items() >= dict(pod.container.environment).items()
    assert given["ODD"] == "it's a \"test\" $HOME"
    assert sorted(set(given) - set(dict(pod.container.environment))) == [
        "HOSTNAME", "OMP_NUM_THREADS", "PATH", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"]


def test_a_pod_that_asks_for_no_gpu_gets_no_vllm(objects: list[dict[str, Any]], pod: Pod) -> None:
    assert "/opt/judge-lab/vllm" in script(pod, "10.77.0.11")
    pod_spec(objects)["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu")
    assert "/opt/judge-lab/vllm" not in script(pods(objects)[0], "10.77.0.11")


def test_the_root_is_made_read_only_after_everything_is_mounted(pod: Pod) -> None:
    lines = script(pod, "10.77.0.11").splitlines()
    assert lines[-2] == "mount -o remount,bind,ro /run/judge-lab/pods/judge-inference-service-0/root"
    assert sum(line.startswith("mount --bind /mnt/nvme/hub ") for line in lines) == 2  # once for each container
    assert sum(line.startswith("mount --bind /mnt/nvme/vllm-cache/") for line in lines) == 1


def test_the_init_container_runs_first_in_namespaces_of_its_own_and_its_failure_ends_the_pod(pod: Pod) -> None:
    lines = script(pod, "10.77.0.11").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("unshare --mount --pid --fork --kill-child"))
    end = next(n for n, line in enumerate(lines) if "the init container check-model ended with" in line)
    assert lines[end].endswith("exit 1; }")
    inner = "\n".join(lines[start:end + 1])
    assert "cache verify /etc/judge-model/manifest.json" in inner
    assert "/opt/judge-lab/vllm" not in inner
    assert next(n for n, line in enumerate(lines) if " vllm serve " in line) > end


def test_a_folder_that_is_read_is_never_made_and_the_cache_s_is(pod: Pod) -> None:
    text = script(pod, "10.77.0.11")
    assert "test -d /mnt/nvme/hub || { echo /mnt/nvme/hub is not on this node" in text
    assert "test -d /mnt/nvme/vllm-cache || { mkdir /mnt/nvme/vllm-cache && chgrp 10001 " in text


@pytest.mark.parametrize(("quantity", "size"), [
    ("256Mi", str(256 << 20)), ("1.5Gi", str(3 << 29)), ("2G", "2000000000"), ("1024", "1024"), ("", "")])
def test_a_quantity_becomes_tmpfs_bytes(quantity: str, size: str) -> None:
    assert tmpfs_size(quantity) == size


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeState]:
    sleeper = process.spawn(["sleep", "60"], log=tmp_path / "sleep.log", mark=tmp_path)
    yield NodeState(1, process=sleeper, instance_id="i-0abc")
    process.end([sleeper])


def test_a_pod_goes_to_the_first_node_that_runs_and_is_reached(pod: Pod, node: NodeState) -> None:
    stopped, cut = NodeState(2, wanted="stopped"), NodeState(3, process=node.process, plugged=False)
    usable = usable_nodes([stopped, cut, node])
    assert place([pod], usable) == ({"node-1": pod}, [])


def test_one_gpu_a_node(objects: list[dict[str, Any]], node: NodeState) -> None:
    deployment(objects)["spec"]["replicas"] = 2
    placed, waiting = place(pods(objects), [node])
    assert (list(placed), waiting) == (["node-1"], ["judge-inference-service-1 waits: every node's GPU is taken"])


@pytest.mark.parametrize(("change", "message"), [
    (lambda spec: spec.update(tolerations=[]), "does not tolerate sku=gpu"),
    (lambda spec: spec.update(nodeSelector={"role": "web"}), "no running node has the labels {'role': 'web'}"),
    (lambda spec: spec["containers"][0]["resources"]["limits"].update({"nvidia.com/gpu": "2"}), "asks for 2 GPUs"),
])
def test_a_pod_that_fits_nowhere_waits_with_its_reason(
    objects: list[dict[str, Any]], node: NodeState, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(pod_spec(objects))
    placed, (waiting,) = place(pods(objects), [node])
    assert placed == {}
    assert message in waiting


class Held:
    """A Runner whose pods are `sleep` on this machine, and whose manifests the test writes."""

    def __init__(self, layout: Layout, node: NodeState, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(podless, "command", lambda node, pod: ["sh", "-c", "sleep 60 & wait"])
        State(layout, nodes={node.name: node}, kubernetes=False).save()
        layout.manifests.mkdir()
        self.layout, self.runner = layout, Runner(layout)

    def write(self, objects: list[dict[str, Any]]) -> None:
        (self.layout.manifests / "all.yaml").write_text(yaml.dump_all(objects, Dumper=_DUMPER))

    def turn(self) -> Process | None:
        self.runner.turn()
        running = self.runner.running.get("node-1")
        return running.process if running else None


@pytest.fixture
def held(tmp_path: Path, node: NodeState, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held(Layout(tmp_path / "lab"), node, monkeypatch)
    yield made
    process.end([each for one in made.runner.running.values() for each in podless.tree(one.process)])


def test_a_pod_is_kept_while_its_manifest_stays_and_replaced_when_it_changes(
    held: Held, objects: list[dict[str, Any]]
) -> None:
    assert held.turn() is None
    held.write(objects)
    first = held.turn()
    assert first is not None
    assert held.turn() == first
    pod_spec(objects)["containers"][0]["args"].append("--seed=1")
    held.write(objects)
    assert held.turn() not in (None, first)
    assert not first.alive()
    held.write([])
    assert held.turn() is None


def test_a_pod_ends_with_all_its_processes(held: Held, objects: list[dict[str, Any]]) -> None:
    held.write(objects)
    first = held.turn()
    assert first is not None
    deadline = time.monotonic() + 60
    while len(whole := podless.tree(first)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    held.write([])
    held.turn()
    assert [each.alive() for each in whole] == [False, False]


def test_a_pod_that_ends_is_started_again_after_a_pause(
    held: Held, objects: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(podless.time, "monotonic", lambda: now[0])
    held.write(objects)
    first = held.turn()
    assert first is not None
    monkeypatch.undo()
    process.end(podless.tree(first))
    monkeypatch.setattr(podless, "command", lambda node, pod: ["sleep", "60"])
    monkeypatch.setattr(podless.time, "monotonic", lambda: now[0])
    assert held.turn() == first
    now[0] += 1.5
    again = held.turn()
    assert again not in (None, first)


def test_what_a_killed_runner_left_is_ended_by_the_next(held: Held, objects: list[dict[str, Any]]) -> None:
    held.write(objects)
    first = held.turn()
    assert first is not None
    Runner(held.layout).end_earlier()
    assert not first.alive()


def test_a_broken_manifest_runs_nothing_and_is_told_once(
    held: Held, objects: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    pod_spec(objects)["containers"].append({"name": "x"})
    held.write(objects)
    assert (held.turn(), held.turn()) == (None, None)
    assert capsys.readouterr().err.count("more than one container") == 1


def test_why_a_pod_ended_is_said_with_its_last_line(
    held: Held, objects: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podless, "command", lambda node, pod: ["sh", "-c", "echo why; echo"])
    held.write(objects)
    first = held.turn()
    assert first is not None
    deadline = time.monotonic() + 60
    while first.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    held.turn()
    assert "again in 1 s: why" in capsys.readouterr().err


def test_manifests_that_stay_are_not_read_again(
    held: Held, objects: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    held.write(objects)
    first = held.turn()
    monkeypatch.setattr(podless, "read_objects", lambda folder: pytest.fail("read again"))
    assert held.turn() == first


def test_the_pod_s_own_files_lie_on_its_node_before_it_starts(held: Held, objects: list[dict[str, Any]]) -> None:
    held.write(objects)
    held.turn()
    (pod,) = pods(objects)
    own = held.layout.node("node-1") / "fs/var/lib/kubelet/pods" / pod.digest / "volumes"
    assert (own / "api-key/api-key").read_text() == held.layout.api_key.read_text().strip()
    assert json.loads((own / "gateway/gateway.json").read_text())["commit"] == COMMIT
