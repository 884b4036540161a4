"""What comes next after a run in a local environment that has no Kubernetes."""

from __future__ import annotations

import pytest
from fakes_cli import Desk


@pytest.mark.parametrize(("url", "has_kubectl"), [("", True), ("http://10.77.0.11", False)])
def test_kubectl_is_named_only_where_there_is_something_for_it_to_ask(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, url: str, has_kubectl: bool
) -> None:
    desk.provider = "lab"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "set back after the test")
    monkeypatch.setenv("KUBECONFIG", "set back after the test")
    monkeypatch.setenv("JUDGE_LAB_ENDPOINT_URL", url)
    result = desk.invoke("--env", "local")
    assert result.exit_code == 0, result.output
    assert ("kubectl" in result.stdout) is has_kubectl
    assert ("http://10.77.0.11:8000/v1/models" in result.stdout) is not has_kubectl
