"""The module that makes the API key: once, never shown, and never in the place of one that is there."""

from __future__ import annotations

import base64
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from fakes_kube import FakeKube
from judge_bootstrap.adapters import kube_secrets
from judge_bootstrap.core.errors import BootstrapError, Refusal

MODULE = Path(__file__).resolve().parents[3] / "roles/vllm_k8s/library/judge_api_key.py"
PATH = "/api/v1/namespaces/llm-judge/secrets/judge-api-key"
LABELS = {"app.kubernetes.io/managed-by": "judge-bootstrap", "app.kubernetes.io/name": "judge-inference"}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def kube() -> FakeKube:
    found = FakeKube()
    found.put("/api/v1/namespaces/llm-judge", {"metadata": {"labels": dict(LABELS)}})
    return found


def run_module(kube: FakeKube, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *,
               check: bool = False) -> tuple[dict[str, Any], str]:
    """Run the module in this process, as Ansible would; return its result and all that it printed."""
    from ansible.module_utils.testing import patch_module_args

    spec = spec_from_file_location("judge_api_key", MODULE)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("judge_bootstrap.adapters.kube.connect", lambda kubeconfig, context: kube)
    given = {"namespace": "llm-judge", "name": "judge-api-key", "labels": LABELS, "_ansible_check_mode": check}
    with patch_module_args(given), pytest.raises(SystemExit):
        module.main()
    printed = capsys.readouterr().out
    result: dict[str, Any] = json.loads(printed)
    return result, printed


def test_it_makes_a_key_once_and_shows_nothing_of_it(kube: FakeKube, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    first, printed = run_module(kube, monkeypatch, capsys)
    stored = kube.objects[PATH]["data"]["api-key"]
    assert (first["changed"], first["name"]) == (True, "llm-judge/judge-api-key")
    assert stored not in printed and base64.b64decode(stored).decode() not in printed
    second, _ = run_module(kube, monkeypatch, capsys)
    assert (second["changed"], kube.objects[PATH]["data"]["api-key"]) == (False, stored)


def test_check_mode_makes_nothing(kube: FakeKube, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    result, _ = run_module(kube, monkeypatch, capsys, check=True)
    assert (result["changed"], PATH in kube.objects) == (True, False)


def test_a_plan_before_the_first_run_needs_no_namespace(monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    empty = FakeKube()
    result, _ = run_module(empty, monkeypatch, capsys, check=True)
    assert (result.get("failed"), result["changed"], empty.objects) == (None, True, {})


def test_a_secret_without_a_key_fails_with_its_reason(kube: FakeKube, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    kube.put(PATH, {"data": {"password": encoded("theirs")}})
    result, printed = run_module(kube, monkeypatch, capsys)
    assert (result["failed"], result["reason"]) == (True, "SECRET_UNUSABLE")
    assert "theirs" not in printed


def test_two_keys_are_never_the_same(kube: FakeKube) -> None:
    kube_secrets.ensure_api_key(kube, "llm-judge", "a", labels=LABELS)
    kube_secrets.ensure_api_key(kube, "llm-judge", "b", labels=LABELS)
    keys = {kube_secrets.read_api_key(kube, "llm-judge", name) for name in ("a", "b")}
    assert len(keys) == 2 and all(len(str(key)) >= 43 for key in keys)


def test_no_secret_and_no_name_are_no_key(kube: FakeKube) -> None:
    assert kube_secrets.read_api_key(kube, "llm-judge", "judge-api-key") is None
    assert kube_secrets.read_api_key(kube, "llm-judge", None) is None


@pytest.mark.parametrize("stored", ["", "!!!", encoded("two\nlines"), encoded("\x07")])
def test_what_is_no_line_of_text_is_no_key(kube: FakeKube, stored: str) -> None:
    kube.put(PATH, {"data": {"api-key": stored}})
    with pytest.raises(BootstrapError) as caught:
        kube_secrets.read_api_key(kube, "llm-judge", "judge-api-key")
    assert caught.value.reason == "SECRET_UNUSABLE"


def test_a_key_that_may_not_be_read_says_so(kube: FakeKube) -> None:
    kube.denied.append(("GET", "/secrets/"))
    with pytest.raises(BootstrapError) as caught:
        kube_secrets.read_api_key(kube, "llm-judge", "judge-api-key")
    assert caught.value.reason == "CLUSTER_DENIED"


def test_a_token_goes_into_no_secret_of_others(kube: FakeKube) -> None:
    kube.put(PATH, {"metadata": {"labels": {"app": "theirs"}}, "data": {"token": encoded("theirs")}})
    with pytest.raises(Refusal) as caught:
        kube_secrets.put_token(kube, "llm-judge", "judge-api-key", "hf_mine", labels=LABELS)
    assert caught.value.reason == "SECRET_FOREIGN" and kube.written() == []


def test_what_others_added_to_our_secret_stays(kube: FakeKube) -> None:
    kube.put(PATH, {"metadata": {"labels": dict(LABELS)}, "data": {"token": encoded("old"), "more": encoded("x")}})
    assert kube_secrets.put_token(kube, "llm-judge", "judge-api-key", "new", labels=LABELS) == "changed"
    assert kube.objects[PATH]["data"] == {"token": encoded("new"), "more": encoded("x")}
