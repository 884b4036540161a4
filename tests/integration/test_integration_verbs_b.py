"""health, warmup, logs, judge on real kubelets: pods made for it, a connection cut again and again, and the chain."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.local_site import CHECKOUT, Answer, Cli, finish
from judge_bootstrap.adapters.kube import connect
from judge_bootstrap.adapters.objects import apply, listed, request
from judge_bootstrap.adapters.port_forward import forward
from judge_lab import layout, site
from judge_lab.images import VLLM_REFERENCE

pytestmark = pytest.mark.lab
SPACE, LOADER_SPACE, SERVICE = "verbs-b", "verbs-b-loader", "verbs-b"
COMMIT, MODEL = "d" * 40, "org/judge"
KEY = "judge-" + secrets.token_hex(20)
SERVING = {"app.kubernetes.io/name": "judge-inference", "app.kubernetes.io/instance": SERVICE}
LOADING = {"app.kubernetes.io/name": "judge-loader", "app.kubernetes.io/instance": SERVICE}
HERE = ("-e", f"vllm_k8s_namespace={SPACE}", "-e", f"vllm_k8s_loader_namespace={LOADER_SPACE}",
        "-e", f"vllm_k8s_service_name={SERVICE}", "-e", "vllm_k8s_node_taint=verbs-b.example/none")
PROGRAM = (Path(__file__).parent / "verbs_b_server.py").read_text()
COUNT = "n=0; echo loader begins; while :; do echo line $n; n=$((n+1)); sleep 0.2; done"


def objects() -> list[dict[str, Any]]:
    """Return two serving pods with a Service and a key, and a loader, in namespaces of their own."""
    where = {"nodeSelector": {"role": "ai-gpu"}, "tolerations": [{"operator": "Exists"}],
             "automountServiceAccountToken": False, "enableServiceLinks": False, "terminationGracePeriodSeconds": 0}
    server = {
        "name": "vllm", "image": VLLM_REFERENCE, "command": ["python3", "/opt/test/server.py"],
        "args": [f"/models/models--org--judge/snapshots/{COMMIT}", "--served-model-name", MODEL],
        # A busy machine may take longer than the second that a probe waits by default.
        "startupProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1, "timeoutSeconds": 60,
                         "failureThreshold": 600},
        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": 8000}, "periodSeconds": 1,
                           "timeoutSeconds": 60, "failureThreshold": 1},
        "volumeMounts": [{"name": "program", "mountPath": "/opt/test"},
                         {"name": "key", "mountPath": "/etc/judge-api-key"}]}
    gate = {"name": "check-model", "image": VLLM_REFERENCE, "command": ["sh", "-c", "echo all files are right"]}

    def namespaced(api_version: str, kind: str, name: str, **rest: Any) -> dict[str, Any]:
        space = rest.pop("space", SPACE)
        return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": space}, **rest}

    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "labels": {"app.kubernetes.io/managed-by": "judge-bootstrap"}}}
          for name in (SPACE, LOADER_SPACE)),
        namespaced("v1", "ConfigMap", "program", data={"server.py": PROGRAM}),
        namespaced("v1", "Secret", "judge-api-key", stringData={"api-key": KEY}),
        namespaced("v1", "Service", SERVICE, spec={"selector": SERVING, "ports": [{"port": 8000, "targetPort": 8000}]}),
        namespaced("policy/v1", "PodDisruptionBudget", SERVICE, spec={
            "maxUnavailable": 1, "selector": {"matchLabels": SERVING}}),
        namespaced("apps/v1", "Deployment", SERVICE, spec={
            "replicas": 2, "selector": {"matchLabels": SERVING},
            "template": {"metadata": {"labels": SERVING, "annotations": {"judge-bootstrap.io/model-commit": COMMIT}},
                         "spec": {**where, "initContainers": [gate], "containers": [server], "volumes": [
                             {"name": "program", "configMap": {"name": "program"}},
                             {"name": "key", "secret": {"secretName": "judge-api-key"}}]}}}),
        namespaced("apps/v1", "DaemonSet", "judge-loader", space=LOADER_SPACE, spec={
            "selector": {"matchLabels": LOADING}, "template": {"metadata": {"labels": LOADING}, "spec": {
                **where, "containers": [{"name": "loader", "image": VLLM_REFERENCE,
                                         "command": ["sh", "-c", COUNT]}]}}}),
    ]


def soon(holds: Callable[[], bool], what: str, seconds: float = 600) -> None:
    """Wait until it comes to hold."""
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


@dataclass
class Place:
    """The pods of this module, the command, and the cluster as its administrator sees it."""

    cli: Cli
    api: Any
    kubeconfig: Path

    def pods(self) -> list[str]:
        """Return the serving pods that are ready and stay."""
        return [pod["metadata"]["name"] for pod in listed(
            self.api, "v1", "Pod", namespace=SPACE, labels="app.kubernetes.io/name=judge-inference")
            if "deletionTimestamp" not in pod["metadata"] and any(
                one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or [])]

    def whole(self) -> bool:
        """Tell whether both pods are ready, and every controller has seen it; the loaders run, too."""
        def one(path: str) -> dict[str, Any]:
            return request(self.api, "GET", path)

        slices = one(f"/apis/discovery.k8s.io/v1/namespaces/{SPACE}/endpointslices")["items"]
        behind = [point for part in slices for point in part.get("endpoints") or [] if point["conditions"].get("ready")]
        deployment = one(f"/apis/apps/v1/namespaces/{SPACE}/deployments/{SERVICE}")
        status, loader, budget = deployment.get("status") or {}, *(one(path).get("status") or {} for path in (
            f"/apis/apps/v1/namespaces/{LOADER_SPACE}/daemonsets/judge-loader",
            f"/apis/policy/v1/namespaces/{SPACE}/poddisruptionbudgets/{SERVICE}"))
        return (len(self.pods()) == len(behind) == 2 and budget.get("disruptionsAllowed") == 1
                and status.get("observedGeneration") == deployment["metadata"]["generation"]
                and {status.get(name) for name in ("replicas", "updatedReplicas", "availableReplicas")} == {2}
                and 0 < loader.get("desiredNumberScheduled", 0) == loader.get("numberReady", 0))

    def tell(self, pod: str, **body: Any) -> None:
        """Have a server say something else, or end."""
        with forward(self.api, SPACE, pod, 8000) as url:
            urllib.request.urlopen(urllib.request.Request(f"{url}/test", json.dumps(body).encode()), timeout=120).read()

    def health(self, *words: str) -> Answer:
        return self.cli("health", *HERE, *words)


@pytest.fixture(scope="module")
def place(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The lab is up, and our pods run in it; afterwards they are gone."""
    site.up()
    kubeconfig = layout.current().root / "kube" / "admin.kubeconfig"
    api = connect(str(kubeconfig))
    found = Place(Cli(tmp_path_factory.mktemp("state")), api, kubeconfig)
    apply(api, objects()[:2])
    apply(api, objects()[2:])
    try:
        soon(found.whole, "two serving pods are ready, and all of it is known")
        yield found
    finally:
        for name in (SPACE, LOADER_SPACE):
            with contextlib.suppress(Exception):
                request(api, "DELETE", f"/api/v1/namespaces/{name}")


def links(answer: Answer) -> dict[str, dict[str, Any]]:
    return {link["name"]: link for link in answer.json["links"]}


# --- health -----------------------------------------------------------------------------------------------------------


def test_health_sees_two_pods_that_serve_the_right_model(place: Place) -> None:
    answer = place.health()
    assert answer.code == 0, answer.json
    found = links(answer)
    assert found["answers"]["found"] == "2 of 2 ready pods serve the right model, golden drift at most 0.5"
    assert {found[name]["status"] for name in ("loader", "Deployment", "pods", "answers", "Service")} == {"ok"}
    assert found["Service"]["found"] == f"{SPACE}/{SERVICE}: 2 ready pods behind it"
    assert (answer.json["wanted"], answer.json["ready"], answer.json["commit"]) == (2, 2, COMMIT)
    assert KEY not in json.dumps(answer.json)


def test_health_verbose_has_figures_budget_key_and_a_verdict(place: Place) -> None:
    answer = place.health("--verbose")
    found = links(answer)
    assert {found[name]["status"] for name in ("start time", "disruption budget", "API key", "verdict")} == {"ok"}
    assert found["disruption budget"]["found"] == "1 pod may be taken away now (2 healthy, 1 needed)"
    pods = [pod for pod in answer.json["pods"].values() if "detail" in pod]
    assert [pod["detail"]["metrics"] for pod in pods] == [{"requests_running": 2.0, "kv_cache_usage": 0.25}] * 2
    assert answer.json["verdict"]["score"] == 8
    assert KEY not in json.dumps(answer.json) + answer.stderr


def test_health_names_a_pod_whose_golden_answers_drift(place: Place) -> None:
    pod = place.pods()[0]
    place.tell(pod, ready={"ready": False, "reason": "GOLDEN_DRIFT", "message": "drift 3.5 of at most 1, worst q1"})
    try:
        soon(lambda: pod not in place.pods(), "the pod is not ready any more")
        answer = place.health()
        assert (answer.code, answer.json["reason"]) == (1, "GOLDEN_DRIFT")
        assert answer.json["message"].endswith(f"{pod}: drift 3.5 of at most 1, worst q1")
    finally:
        place.tell(pod, ready={"ready": True, "reason": None, "message": ""})
        soon(place.whole, "the pod is ready again")


def test_health_names_pods_that_find_no_node(place: Place) -> None:
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": SERVICE, "namespace": SPACE}}
    path = f"/apis/apps/v1/namespaces/{SPACE}/deployments/{SERVICE}"

    def scale(replicas: int, selector: dict[str, str | None]) -> None:
        spec = {"replicas": replicas, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {"spec": {"nodeSelector": selector}}}
        request(place.api, "PATCH", path, {**scaled, "spec": spec}, content_type="application/merge-patch+json")

    scale(2, {"no.such": "label"})
    try:
        def unscheduled() -> bool:
            return any(
                one.get("message") for pod in listed(place.api, "v1", "Pod", namespace=SPACE)
                for one in pod["status"].get("conditions") or [] if one["type"] == "PodScheduled")
        soon(unscheduled, "a pod has no node")
        answer = place.health()
        assert (answer.code, answer.json["reason"]) == (1, "POD_PENDING")
        pending = [pod for pod in answer.json["pods"].values() if pod["state"] == "pending"]
        assert len(pending) == 1 and "node affinity/selector" in pending[0]["message"]
    finally:
        scale(2, {"no.such": None})
        soon(place.whole, "no pod is without a node")


# --- warmup -----------------------------------------------------------------------------------------------------------


def test_warmup_goes_on_until_each_pod_has_settled(place: Place) -> None:
    # However unsteady the machine, they settle at some time; on a quiet one that is soon.
    answer = place.cli("warmup", *HERE, "--requests", "2000")
    assert (answer.code, answer.json["ok"]) == (0, True), answer.json
    assert set(answer.json["pods"]) == set(place.pods())
    for pod in answer.json["pods"].values():
        assert pod["state"] == "settled" and pod["figures"]["requests"] >= 10
        assert pod["figures"]["first_seconds"] > pod["figures"]["median_seconds"] > 0
        assert pod["figures"]["tokens_per_second"] > 0


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs_of_both_namespaces_are_merged_and_the_key_is_masked(place: Place) -> None:
    answer = place.cli("logs", *HERE, "--tail", "-1")
    assert answer.code == 0, answer.stderr
    lines = answer.json["lines"]
    assert {line["container"] for line in lines} == {"vllm", "check-model", "loader"}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert "the key is ***" in [line["text"] for line in lines]
    assert KEY not in json.dumps(answer.json)
    # Each server's lines are all there, in their order.
    for pod in place.pods():
        numbers = [int(line["text"][5:]) for line in lines if line["pod"] == pod and line["text"].startswith("line ")]
        assert numbers == list(range(len(numbers))) and numbers


def test_logs_can_be_narrowed_and_drive_no_terminal(place: Place) -> None:
    done = subprocess.run([Path(sys.executable).parent / "judge-bootstrap", "--env", "local", "logs", *HERE, "--server",
                           "--tail", "-1"], cwd=CHECKOUT, capture_output=True, text=True, check=True,
                          env={**os.environ, "JUDGE_BOOTSTRAP_STATE": str(place.cli.state)})
    lines = done.stdout.splitlines()
    assert {line.split("/")[0].rpartition("-")[0] for line in lines} == {"server"}
    assert any(line.endswith(r"/vllm red \x1b[2Jcleared") for line in lines)
    assert "\x1b" not in done.stdout and KEY not in done.stdout


def kubeconfig_for(kubeconfig: Path, port: int, folder: Path) -> Path:
    """Write a kubeconfig that reaches the API server through another port of this machine."""
    document = yaml.safe_load(kubeconfig.read_text())
    for cluster in document["clusters"]:
        cluster["cluster"]["server"] = f"https://127.0.0.1:{port}"
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    return path


class Cutter:
    """A way to the API server that cuts every connection again and again."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self.cuts = 0
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._end = threading.Event()
        for work in (self._accept, self._cut):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        while not self._end.is_set():
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        while not self._end.wait(1.3):
            cut, self._open = self._open, []
            self.cuts += 1
            for one in cut:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def close(self) -> None:
        self._end.set()
        self._server.close()


@pytest.fixture
def cutter(place: Place) -> Iterator[Cutter]:
    server = yaml.safe_load(place.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    found = re.fullmatch(r"https://([^:]+):(\d+)", server)
    assert found
    made = Cutter((found[1], int(found[2])))
    yield made
    made.close()


def test_logs_that_are_followed_lose_and_double_nothing_and_end_at_once(place: Place, cutter: Cutter,
                                                                        tmp_path: Path) -> None:
    kubeconfig = kubeconfig_for(place.kubeconfig, cutter.port, tmp_path)
    stays, restarts = sorted(place.pods())[:2]
    out = tmp_path / "out"
    with out.open("w") as sink, (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "judge-bootstrap", "--env", "local", "logs", "-f", *HERE, "-e",
             f"vllm_k8s_kubeconfig={kubeconfig}"], cwd=CHECKOUT, stdout=sink, stderr=errors,
            env={**os.environ, "JUDGE_BOOTSTRAP_STATE": str(place.cli.state)})
        try:
            soon(lambda: "line" in out.read_text(), "lines are followed")
            place.tell(restarts, exit=3)
            server = f"server-{restarts.rpartition('-')[2]}/vllm "
            soon(lambda: out.read_text().count(f"{server}the key is ***\n") >= 1
                 and f"{server}last words\n" in out.read_text(), "the container's next life is followed")
            cuts = cutter.cuts
            soon(lambda: cutter.cuts >= cuts + 4, "the connection was cut a few times more")
            process.send_signal(signal.SIGINT)
            code = process.wait(25)  # it waits for no answer (30 s) and for no line (240 s)
        finally:
            process.kill()
            process.wait()
    text = out.read_text()
    assert code == 130, (tmp_path / "err").read_text()
    # That a log cannot be read now, and is tried again, may be said where a request takes longer than a cut.
    assert not re.search("^(Error|Traceback)", (tmp_path / "err").read_text(), re.MULTILINE)
    assert KEY not in text
    for pod, lives in ((stays, 1), (restarts, 2)):
        server = f"server-{pod.rpartition('-')[2]}/vllm "
        numbers = [int(line.removeprefix(f"{server}line ")) for line in text.splitlines()
                   if line.startswith(f"{server}line ")]
        # Counted on from its first number, and from 0 again in each further life.
        breaks = [at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1] + 1]
        assert [numbers[at] for at in breaks] == [0] * (lives - 1), (pod, breaks, numbers)
        assert len(numbers) > 60
    assert cutter.cuts >= 4
    soon(place.whole, "both pods are ready again")


def test_logs_of_the_life_before_are_shown(place: Place) -> None:
    answer = place.cli("logs", *HERE, "--server", "--previous")
    texts = [line["text"] for line in answer.json["lines"]]
    assert (answer.code, texts[-1]) == (0, "last words"), answer.json


# --- judge ------------------------------------------------------------------------------------------------------------


def test_judge_reaches_the_pods_with_the_key_of_the_secret(place: Place) -> None:
    soon(place.whole, "both pods are ready")
    answer = place.cli("judge", "score", *HERE, "--prompt", "2+2?", "--response", "It is 4.")
    assert (answer.code, answer.json["env"]) == (0, "local"), answer.json
    verdict = answer.json["verdict"]
    assert (verdict["score"], verdict["model"], verdict["provenance"]["model_commit"]) == (8, MODEL, COMMIT)
    assert KEY not in json.dumps(answer.json) + answer.stderr


def test_judge_says_that_another_key_is_not_taken(place: Place, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("judge-" + "f" * 40)
    answer = place.cli("judge", "score", *HERE, "--prompt", "2+2?", "--response", "4", "--api-key-file",
                       str(tmp_path / "key"))
    assert (answer.code, answer.json["reason"]) == (1, "SERVER_DENIED"), answer.json
    assert answer.json["hint"] == "judge-bootstrap --env local secrets apply --check"


def test_a_batch_loses_nothing_when_a_pod_dies_in_the_middle(place: Place, tmp_path: Path) -> None:
    # Each answer of these pods ends its connection, so each item takes a new one, through the API server.
    items, out = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    items.write_text("".join(json.dumps({"id": f"i{number}", "prompt": f"{number}+1?", "response": "One more."}) + "\n"
                             for number in range(150)))
    process = place.cli.start("judge", "batch", str(items), *HERE, "--out", str(out), "--window", "8", "--no-canaries")
    soon(lambda: out.exists() and len(out.read_bytes().splitlines()) >= 20, "20 items are judged")
    place.tell(place.pods()[0], exit=1)
    answer = finish(process)
    assert answer.code == 0, answer.json
    summary = answer.json["summary"]
    assert (summary["total"], summary["scored"], summary["errored"]) == (150, 150, 0)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [f"i{n}" for n in range(150)]
    assert KEY not in out.read_text() + answer.stderr
    soon(place.whole, "both pods are ready again")


# --- the chain itself -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The real chain is up; a run makes it where it is not, and changes nothing where it is."""
    cli = Cli(tmp_path_factory.mktemp("chain"))
    if cli("health").code != 0:
        answer = cli()
        assert answer.code == 0, answer.stderr
    return cli


def test_the_chain_is_healthy_to_its_last_link(chain: Cli) -> None:
    answer = chain("health", "--verbose")
    assert (answer.code, answer.json["ok"]) == (0, True), answer.json
    found = links(answer)
    assert {link["status"] for link in found.values()} <= {"ok", "warn"}
    # An ended pod that a drill left behind is a warning of the link "pods".
    for name in ("model on the nodes", "Deployment", "answers", "Service", "verdict"):
        assert found[name]["status"] == "ok", found[name]
    served = [pod for pod in answer.json["pods"].values() if "detail" in pod and pod["ok"]]
    assert served and all(pod["detail"]["image"] and pod["detail"]["metrics"] for pod in served)


def test_the_chain_settles(chain: Cli) -> None:
    answer = chain("warmup", "--requests", "60")
    # How quickly this machine's CPU settles is not ours to say; that it was asked, and gave verdicts, is.
    assert answer.code == 0 or answer.json["reason"] == "LATENCY_UNSETTLED", answer.json
    assert all(pod["figures"]["requests"] >= 10 for pod in answer.json["pods"].values())


def test_the_chains_logs_are_of_loader_and_server(chain: Cli) -> None:
    answer = chain("logs", "--since", "30d")  # a server that runs on has said what it said when it began
    assert answer.code == 0, answer.stderr
    assert {"vllm", "check-model", "loader"} <= {line["container"] for line in answer.json["lines"]}
