"""`models preload`: one Job on one node, its log shown, its answer handed on, and nothing of it left."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cluster_desks import ROLES, shipped_variables
from fakes_cli import Desk
from fakes_kube import Call, FakeKube, api_error
from judge_bootstrap.adapters import preload_job, program
from judge_bootstrap.adapters.preload_job import find_node
from judge_bootstrap.adapters.preload_manifests import Preload, arguments, config_maps, job_manifest
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import cli
from judge_bootstrap.cli.model_settings import ModelSettings
from judge_bootstrap.cli.preload import World
from judge_bootstrap.core.errors import BootstrapError, ExitCode

COMMIT, OTHER = "a" * 40, "b" * 40
MANIFEST = {"schema": 1, "repo_id": "org/judge", "revision": "main", "commit": COMMIT, "files": [], "digest": "d"}
SPACE = "/api/v1/namespaces/llm-judge-loader"
JOBS = "/apis/batch/v1/namespaces/llm-judge-loader/jobs"
DONE = {"ok": True, "command": "loader run", "changed": True, "state": "complete", "reason": None,
        "message": "org/judge at aaaaaaaaaaaa is complete", "repair": None}


def node(name: str, instance: str, address: str = "10.0.0.1", ready: str = "True") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"providerID": f"aws:///us-east-1a/{instance}"},
            "status": {"addresses": [{"type": "InternalIP", "address": address}],
                       "conditions": [{"type": "Ready", "status": ready, "message": "kubelet stopped posting"}]}}


class Site(FakeKube):
    """An API server whose Job controller and kubelet are played: each Job that may run gets a pod, which ends."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: dict[str, Any] | str = DONE
        self.log = "2026-01-01T00:00:00Z fetching\n"
        self.phase = "Succeeded"
        self.status: dict[str, Any] = {}
        self.interrupt = False
        self.created: list[dict[str, Any]] = []
        self.answers = {JOBS: self._create_job, f"{SPACE}/pods": self._pods}
        self.put_all("/api/v1/nodes", [node("ip-10-0-0-1", "i-0aaa"), node("ip-10-0-0-2", "i-0bbb", "10.0.0.2")])

    def _create_job(self, call: Call) -> Any:
        path = f"{JOBS}/{call.body['metadata']['name']}"
        if path in self.objects:
            raise api_error(409, f"jobs {call.body['metadata']['name']!r} already exists")
        self.put(path, call.body)
        self.created.append(call.body)
        return self.objects[path]

    def _pods(self, call: Call) -> Any:
        if call.method == "POST":
            return call.body
        job = next((item for path, item in self.objects.items() if path.startswith(JOBS)), None)
        if job is None or job["spec"]["suspend"]:
            return {"items": [], "metadata": {}}
        if self.interrupt:
            raise KeyboardInterrupt
        terminated = {"state": {"terminated": {"exitCode": 0}}}
        status = self.status or {"phase": self.phase, "containerStatuses": [terminated]}
        return {"items": [{"metadata": {"name": "pod-x", "ownerReferences": [{"uid": job["metadata"]["uid"]}]},
                           "status": status}], "metadata": {}}

    def read_log(self, *_: Any, **__: Any) -> Any:
        answer = json.dumps(self.answer) + "\n" if isinstance(self.answer, dict) else self.answer
        return SimpleNamespace(data=(self.log + answer).encode())


class Bench:
    """The command with such a site."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.desk, self.site = desk, Site()
        self.asked: list[ModelSettings] = []
        desk.role_variables = shipped_variables(model_cache_sources=["s3://b/hub"], model_cache_limit_rate="9M")
        monkeypatch.setattr(preload_job, "POLL_SECONDS", 0.0)
        monkeypatch.setattr("kubernetes.client.CoreV1Api",
                            lambda api: SimpleNamespace(read_namespaced_pod_log=self.site.read_log))

    def resolve(self, settings: ModelSettings) -> dict[str, Any]:
        self.asked.append(settings)
        return {**MANIFEST, "repo_id": settings.repo_id}

    def __call__(self, *words: str) -> Result:
        world = World(connect=lambda settings: self.site, resolve=self.resolve)
        app = AppContext(services=self.desk.services(), extra={"preload": world})
        done = CliRunner().invoke(cli, ["--env", "prod", "models", "preload", *words], obj=app)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def json(self, *words: str) -> tuple[int, dict[str, Any]]:
        done = self(*words, "--json")
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.exit_code, answer

    def loader(self, commit: str) -> None:
        """Have a loader installed that wants this commit."""
        self.site.put(f"{SPACE}/serviceaccounts/judge-loader", {})
        self.site.put(f"{SPACE}/configmaps/judge-loader-models", {"data": {
            "wanted.json": json.dumps({**MANIFEST, "commit": commit}), "previous.json": "{}"}})

    def left(self) -> list[str]:
        return [path for path in self.site.objects if "judge-preload" in path]


@pytest.fixture
def bench(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(desk, monkeypatch)


def test_the_answer_of_the_node_is_handed_on_and_nothing_is_left(bench: Bench) -> None:
    code, answer = bench.json("i-0bbb")
    assert (code, answer["ok"], answer["node"], answer["commit"]) == (0, True, "ip-10-0-0-2", COMMIT)
    assert answer["hosts"]["ip-10-0-0-2"]["state"] == "complete"
    assert bench.left() == []


def test_progress_comes_from_the_pods_log_and_not_into_json(bench: Bench) -> None:
    done = bench("ip-10-0-0-1", "--json")
    assert "ip-10-0-0-1: 2026-01-01T00:00:00Z fetching" in done.stderr
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("reason", "repair"), [
    ("SOURCE_UNREACHABLE", "judge-bootstrap --env prod models preload ip-10-0-0-1"),
    ("SOURCE_DENIED", "judge-bootstrap --env prod secrets apply   # then: judge-bootstrap --env prod models preload "
                      "ip-10-0-0-1"),
    ("MOUNT_MISSING", "judge-bootstrap --env prod run nvme   # the disk of ip-10-0-0-1; where ssh does not reach it: "
                      "judge-bootstrap --env prod run nvme_pod")])
def test_a_failure_keeps_its_reason_and_names_what_repairs_it(bench: Bench, reason: str, repair: str) -> None:
    bench.site.phase = "Failed"
    bench.site.answer = {**DONE, "ok": False, "state": "failed", "reason": reason, "message": "no access",
                         "repair": None}
    code, answer = bench.json("ip-10-0-0-1")
    assert (code, answer["reason"], answer["message"], answer["repair"]) == (1, reason, "no access", repair)
    assert bench.left() == []


def test_the_job_runs_on_that_very_node_once_and_ends_by_itself(bench: Bench) -> None:
    bench("ip-10-0-0-1")
    (job,) = bench.site.created
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (pod["nodeName"], pod["restartPolicy"], spec["backoffLimit"]) == ("ip-10-0-0-1", "Never", 0)
    assert spec["activeDeadlineSeconds"] > 0 and spec["ttlSecondsAfterFinished"] > 0
    assert job["metadata"]["labels"]["app.kubernetes.io/name"] == "judge-preload"


def test_where_a_loader_wants_the_same_commit_its_node_is_told(bench: Bench) -> None:
    bench.loader(COMMIT)
    _, answer = bench.json("ip-10-0-0-1")
    pod = bench.site.created[0]["spec"]["template"]["spec"]
    assert (answer["reported"], pod["serviceAccountName"], pod["automountServiceAccountToken"]) == (
        True, "judge-loader", True)
    words = pod["containers"][0]["args"]
    assert "--node=ip-10-0-0-1" in words and "--taint=judge-bootstrap.io/model-not-ready" in words
    models = next(call.body["data"] for call in bench.site.written() if "data" in call.body)
    assert set(models) == {"wanted.json", "previous.json"}


@pytest.mark.parametrize("fleet", [None, OTHER])
def test_otherwise_nothing_is_said_on_the_node(bench: Bench, fleet: str | None) -> None:
    if fleet:
        bench.loader(fleet)
    done = bench("ip-10-0-0-1")
    pod = bench.site.created[0]["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("default", False)
    assert not [word for word in pod["containers"][0]["args"] if word.startswith(("--node", "--taint"))]
    assert "Nothing was said on the Node" in done.stdout
    assert [call for call in bench.site.written() if "/nodes/" in call.path] == []


def test_where_the_bytes_come_from_is_what_the_settings_say(bench: Bench) -> None:
    bench("ip-10-0-0-1")
    words = bench.site.created[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--source=s3://b/hub", "--limit-rate=9M", "--endpoint=https://huggingface.co",
            "--connections=8"} <= set(words)


@pytest.mark.parametrize("value", ["many", "0", "65", None])
def test_a_number_of_connections_that_is_none_is_one_line(bench: Bench, value: str | None) -> None:
    bench.desk.role_variables["model_cache_connections"] = value
    code, answer = bench.json("ip-10-0-0-1")
    assert (code, bench.site.created) == (2, [])
    assert answer["message"] == f"model_cache_connections is '{value}', wanted a number from 1 to 64"


def test_a_gated_model_gets_its_token_as_a_file(bench: Bench) -> None:
    bench.desk.role_variables["vllm_k8s_loader_gated_model"] = True
    bench("ip-10-0-0-1")
    pod = bench.site.created[0]["spec"]["template"]["spec"]
    assert "--token-file=/etc/judge-token/token" in pod["containers"][0]["args"]
    assert pod["volumes"][-1]["secret"]["secretName"] == "hf-secret"


def test_another_model_is_asked_of_the_hub_and_not_of_the_lock_file(bench: Bench) -> None:
    bench.desk.role_variables["model_cache_lock_file"] = "prod.model.json"
    bench("ip-10-0-0-1")
    bench("ip-10-0-0-1", "--model", "org/next")
    bench("ip-10-0-0-1", "--revision", OTHER)
    assert [(asked.repo_id, asked.revision, asked.lock_file) for asked in bench.asked][1:] == [
        ("org/next", "main", None), (bench.asked[0].repo_id, OTHER, None)]
    assert bench.asked[0].lock_file == "prod.model.json"


def test_ctrl_c_leaves_nothing(bench: Bench) -> None:
    bench.site.interrupt = True
    code, answer = bench.json("ip-10-0-0-1")
    assert (code, answer["reason"]) == (ExitCode.INTERRUPTED, "INTERRUPTED")
    assert bench.left() == []


@pytest.mark.parametrize("ended", [False, True])
def test_another_preload_of_the_node_is_respected_unless_it_has_ended(bench: Bench, ended: bool) -> None:
    name = Preload("ip-10-0-0-1", "n", "i", "/s/h", MANIFEST, "", {}, "r", "b").name
    conditions = [{"type": "Complete", "status": "True"}] if ended else []
    bench.site.put(f"{JOBS}/{name}", {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z",
                     "annotations": {"judge-bootstrap.io/run": "x", "judge-bootstrap.io/by": "eve@laptop"}},
        "spec": {"suspend": False}, "status": {"conditions": conditions}})
    code, answer = bench.json("ip-10-0-0-1")
    if ended:
        assert (code, bench.left()) == (0, [])
    else:
        assert (code, answer["reason"]) == (3, "LOCKED")
        assert "of eve@laptop works on node ip-10-0-0-1" in answer["message"]
        assert bench.left() == [f"{JOBS}/{name}"]


def test_a_namespace_that_refuses_the_pod_is_told_before_the_job_is_made(bench: Bench) -> None:
    bench.site.put("/api/v1/namespaces/llm-judge-loader", {"metadata": {"labels": {}}})

    def refuse(call: Call) -> Any:
        raise api_error(403, 'pods "x" is forbidden: violates PodSecurity "baseline:latest": hostPath volumes')

    bench.site.answers[f"{SPACE}/pods"] = refuse
    code, answer = bench.json("ip-10-0-0-1")
    assert (code, answer["reason"], bench.site.created) == (1, "POD_FORBIDDEN", [])
    assert "violates PodSecurity" in answer["message"]


def test_an_image_that_cannot_be_pulled_ends_it_at_once(bench: Bench) -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    bench.site.status = {"phase": "Pending", "containerStatuses": [waiting]}
    code, answer = bench.json("ip-10-0-0-1")
    assert (code, answer["reason"]) == (1, "POD_PENDING")
    assert "no such image" in answer["message"] and bench.left() == []


def test_a_pod_that_kubelet_turned_away_never_ran(bench: Bench) -> None:
    bench.site.status = {"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: OutOfcpu"}
    code, answer = bench.json("ip-10-0-0-1")
    assert (code, answer["reason"]) == (1, "POD_PENDING") and "OutOfcpu" in answer["message"]


def test_an_end_without_an_answer_shows_the_last_line(bench: Bench) -> None:
    bench.site.answer = "Traceback: boom\n"
    code, answer = bench.json("ip-10-0-0-1")
    assert code == 1 and "Traceback: boom" in answer["message"]


def test_a_node_whose_kubelet_is_silent_is_not_tried(bench: Bench) -> None:
    bench.site.put("/api/v1/nodes/dead", node("dead", "i-0ddd", ready="Unknown"))
    code, answer = bench.json("dead")
    assert (code, answer["reason"], bench.site.created) == (1, "NODE_UNREACHABLE", [])


@pytest.mark.parametrize("word", ["ip-10-0-0-2", "i-0bbb", "10.0.0.2"])
def test_a_node_is_known_by_name_instance_id_or_address(word: str) -> None:
    assert find_node(Site(), word)["metadata"]["name"] == "ip-10-0-0-2"


@pytest.mark.parametrize(("word", "meant"), [("ip-10-0-0-3", "ip-10-0-0-"), ("i-0bbc", "i-0bbb")])
def test_an_unknown_node_is_told_with_the_nearest(word: str, meant: str) -> None:
    with pytest.raises(BootstrapError) as caught:
        find_node(Site(), word)
    assert caught.value.reason == "NODE_NOT_JOINED" and f"did you mean {meant}" in caught.value.message


def test_a_word_that_is_no_name_is_no_path_either() -> None:
    site = Site()
    with pytest.raises(BootstrapError):
        find_node(site, "../namespaces/x")
    assert [call.path for call in site.calls] == ["/api/v1/nodes"]


def test_the_pod_is_as_locked_as_the_loaders_own() -> None:
    text = (ROLES / "vllm_k8s/templates/loader/daemonset.yaml.j2").read_text()
    preload = Preload("n", "ns", "image", "/mnt/nvme/hub", MANIFEST, "", {}, "20260101-000000-abcdef", "b")
    spec = job_manifest(preload)["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}
    hosts = [volume["hostPath"] for volume in spec["volumes"] if "hostPath" in volume]
    assert hosts == [{"path": "/mnt/nvme", "type": "DirectoryOrCreate"}]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for word in ("runAsUser: 0", "readOnlyRootFilesystem: true", "type: DirectoryOrCreate", "HostToContainer"):
        assert word in text, f"the loader's template no longer has {word}: look at this pod, too"


def test_what_is_mounted_belongs_to_the_job_and_holds_program_and_manifest() -> None:
    preload = Preload("n", "ns", "image", "/mnt/nvme/hub", MANIFEST, "", {}, "20260101-000000-abcdef", "b")
    code, models = config_maps(preload, "uid-1")
    assert all(item["metadata"]["ownerReferences"][0]["uid"] == "uid-1" for item in (code, models))
    assert set(code["binaryData"]) == {program.FILE}
    assert json.loads(models["data"]["wanted.json"]) == MANIFEST
    mounted = {volume["configMap"]["name"] for volume in job_manifest(preload)["spec"]["template"]["spec"]["volumes"]
               if "configMap" in volume}
    assert mounted == {item["metadata"]["name"] for item in (code, models)}


def test_a_manifest_too_long_for_a_config_map_is_refused() -> None:
    preload = Preload("n", "ns", "i", "/s/h", {**MANIFEST, "files": ["x" * 2_000_000]}, "", {}, "r", "b")
    with pytest.raises(BootstrapError, match="a ConfigMap holds"):
        config_maps(preload, "uid")


def test_the_arguments_are_ones_that_the_program_takes() -> None:
    from judge_node.cli import build_parser

    preload = Preload("node-1", "ns", "i", "/mnt/nvme/hub", MANIFEST, "http://hub", {}, "r", "b", report=True,
                      taint="judge-bootstrap.io/model-not-ready", sources=["s3://b/hub"], limit_rate="9M",
                      token_secret="hf-secret")
    options = build_parser("loader").parse_args(arguments(preload))
    assert (options.once, options.json, options.node, options.store) == (True, True, "node-1", "/mnt/nvme/hub")
    silent = Preload("node-1", "ns", "i", "/mnt/nvme/hub", MANIFEST, "", {}, "r", "b")
    assert build_parser("loader").parse_args(arguments(silent)).node is None
