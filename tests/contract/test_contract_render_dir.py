"""The role without a cluster: objects as files, and a verify that asks one server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_play import run_play
from judge_bootstrap.adapters.judge_check import check_url
from judge_bootstrap.adapters.manifest_files import HEADER, apply, contents, plan
from judge_bootstrap.core.errors import BootstrapError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SERVED = {"data": [{"id": "org/name", "root": f"/models/models--org--name/snapshots/{COMMIT}"}]}
FILES = [{"path": "config.json", "size": 600, "sha256": "0" * 64}]
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"answer": "yes"}}


def play(folder: Path, entry: str, *flags: str, **variables: Any) -> tuple[int, str]:
    """Run one entry point of the role for localhost; return the exit code and what was said, in one line.

    The kubeconfig does not exist: a task that asked a cluster would fail.
    """
    manifest = {"schema": 1, "repo_id": "org/name", "revision": "main", "commit": COMMIT, "files": FILES}
    given = {"model_cache_manifest": manifest, "model_cache_quantization": "awq",
             "vllm_k8s_kubeconfig": str(folder / "no-such-kubeconfig"), **variables}
    tasks = [{"ansible.builtin.include_role": {"name": "vllm_k8s", "tasks_from": entry}}]
    done = run_play(folder, {"tasks": tasks}, given, *flags)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def changed(output: str) -> int:
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def test_the_objects_become_files_once_and_no_cluster_is_asked(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code, said = play(tmp_path, "main", "--check", "--diff", vllm_k8s_render_dir=str(folder))
    assert (code, changed(said), folder.exists()) == (0, 1, False), said
    assert "kind: Deployment" in said, "the diff shows what would be written"
    code, said = play(tmp_path, "main", vllm_k8s_render_dir=str(folder))
    assert (code, changed(said)) == (0, 1), said
    names = [name.partition("-")[2] for name in listed(folder)]
    assert names[0] == "namespace-llm-judge.yaml"
    assert {"daemonset-judge-loader.yaml", "service-judge-inference-service.yaml"} < set(names)
    assert not [name for name in names if name.startswith("secret")], "a key does not belong into files"
    (path,) = folder.glob("*-deployment-judge-inference-service.yaml")
    deployment = yaml.safe_load(path.read_text())
    assert deployment["spec"]["template"]["spec"]["containers"][0]["command"] == ["vllm", "serve"]
    code, said = play(tmp_path, "main", vllm_k8s_render_dir=str(folder))
    assert (code, changed(said)) == (0, 0), said


def test_a_field_that_kubernetes_does_not_have_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code, said = play(tmp_path, "main", vllm_k8s_render_dir=str(folder),
                      vllm_k8s_tolerations=[{"key": "sku", "efect": "NoSchedule"}])
    assert code == 2
    assert "unknown field spec.template.spec.tolerations[0].efect; did you mean effect?" in said
    assert not folder.exists()


def test_a_relative_directory_and_a_url_with_a_path_are_refused(tmp_path: Path) -> None:
    for wrong in ({"vllm_k8s_render_dir": "out"}, {"vllm_k8s_endpoint_url": "http://host:8000/v1"}):
        code, said = play(tmp_path, "preflight", **wrong)
        assert code == 2
        assert "Wanted an absolute path, and a URL such as http://HOST:8000 without a path" in said


def test_without_a_url_verify_says_that_it_proved_nothing(tmp_path: Path) -> None:
    code, said = play(tmp_path, "verify", vllm_k8s_render_dir="/srv/manifests")
    assert code == 0, said
    assert "Nothing of the server was proven: the objects are files in /srv/manifests" in said


def test_verify_asks_the_url_and_no_cluster(tmp_path: Path, server: str) -> None:
    code, said = play(tmp_path, "verify", vllm_k8s_endpoint_url=server, vllm_k8s_wait_seconds=1)
    assert code == 2
    assert f"WRONG_MODEL_SERVED: {server}: /v1/models serves other, wanted org/name (waited 1 s)" in said


class OtherModel(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "other", "root": "/other"}]}')

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherModel) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


class Waiting:
    """A server that has the model only after a while, and the clock that the waiting reads."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.now = list(answers), 0.0

    def models(self, base_url: str, api_key: str | None) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def check(self, wait_seconds: float) -> Any:
        return check_url("http://judge:8000/", "org/name", COMMIT, wait_seconds, self.models,
                         lambda url, model, key: {"asked": (url, model)}, lambda: self.now, self.sleep)


def test_a_server_that_comes_up_or_rolls_is_waited_for() -> None:
    down = BootstrapError("/v1/models did not answer: refused", reason="PROBE_FAILING")
    old = {"data": [{"id": "org/name", "root": "/models/snapshots/" + "f" * 40}]}
    found = Waiting(down, down, old, SERVED).check(60)
    assert found.verdict == {"asked": ("http://judge:8000", "org/name")}


def test_a_server_that_stays_away_fails_with_what_was_found_last() -> None:
    waiting = Waiting(BootstrapError("/v1/models did not answer: refused", reason="PROBE_FAILING"))
    with pytest.raises(BootstrapError, match=r"http://judge:8000: /v1/models did not answer: refused \(waited 5 s\)") \
            as caught:
        waiting.check(5)
    assert (caught.value.reason, waiting.now) == ("PROBE_FAILING", 5)


def test_text_that_yaml_would_take_for_something_else_comes_back_as_text() -> None:
    (text,) = contents([CONFIG_MAP]).values()
    assert yaml.safe_load(text) == CONFIG_MAP


def test_files_of_ours_that_are_not_wanted_go_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "07-old.yaml").write_text(HEADER + "kind: Service\n")
    (tmp_path / "theirs.yaml").write_text("kind: Service\n")
    apply(plan(tmp_path, contents([CONFIG_MAP])))
    assert listed(tmp_path) == ["01-configmap-b.yaml", "theirs.yaml"]
    assert plan(tmp_path, contents([CONFIG_MAP])) == []


def test_a_file_of_somebody_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "01-configmap-b.yaml").write_text("kind: ConfigMap\n")
    with pytest.raises(BootstrapError, match="01-configmap-b.yaml is there and was not written by judge-bootstrap"):
        plan(tmp_path, contents([CONFIG_MAP]))


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BootstrapError, match="cannot write .*: Not a directory|cannot read"):
        apply(plan(tmp_path / "file" / "below", contents([CONFIG_MAP])))
