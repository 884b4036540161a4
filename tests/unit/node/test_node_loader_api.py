"""The loader's few calls to the API server, over real TLS, with the faults that one has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from judge_node.loader.api import Api, ApiError
from judge_node.result import NodeError
from ports import kept_port
from unit.node.fake_kube import NODE, FakeKube, Fault, serve

LABEL = {"metadata": {"labels": {"a": "b"}}}
EVENT = {"metadata": {"name": "node-1.judge-loader.1"}}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[FakeKube, Api]]:
    with serve(tmp_path) as found:
        yield found


@pytest.mark.parametrize("fault", [
    Fault(429, {"Retry-After": "0"}), Fault(500), Fault(502), Fault(503), Fault(504), Fault(reset=True),
    Fault(reset=True, after=True),
], ids=str)  # fmt: skip
def test_what_passes_is_tried_again(served: tuple[FakeKube, Api], fault: Fault) -> None:
    kube, api = served
    kube.faults = [fault, fault]
    assert api.patch_node(NODE, LABEL)["metadata"]["labels"]["a"] == "b"
    assert len(kube.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_what_another_attempt_would_not_change_is_told_at_once(served: tuple[FakeKube, Api], status: int) -> None:
    kube, api = served
    kube.faults = [Fault(status)]
    with pytest.raises(ApiError, match=rf"PATCH /api/v1/nodes/{NODE}: {status} fault {status}") as caught:
        api.patch_node(NODE, LABEL)
    assert (caught.value.status, len(kube.asked)) == (status, 1)


def test_it_ends_at_its_deadline(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    api.deadline_seconds = 1
    kube.faults = [Fault(503)] * 1000
    with pytest.raises(ApiError, match="503"):
        api.node(NODE)
    assert 1 < len(kube.asked) < 100


def test_a_server_that_asks_for_more_patience_than_there_is_is_not_waited_for(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    waited: list[float] = []
    api.sleep = waited.append
    kube.faults = [Fault(429, {"Retry-After": "2"}), Fault(429, {"Retry-After": "3600"})]
    with pytest.raises(ApiError, match="429"):
        api.node(NODE)
    assert waited == [2.0]


def test_an_event_that_was_made_without_an_answer_is_not_made_twice(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    kube.faults = [Fault(reset=True, after=True)]
    api.create_event("default", EVENT)
    assert (len(kube.events), len(kube.asked)) == (1, 2)


def test_the_token_is_read_anew_for_each_call(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    api.node(NODE)
    api.token_file.write_text("second-token\n")
    api.node(NODE)
    assert kube.tokens == {"Bearer first-token", "Bearer second-token"}


def test_a_server_of_another_authority_gets_no_token(served: tuple[FakeKube, Api], tmp_path: Path) -> None:
    kube, api = served
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    api.deadline_seconds = 0
    with pytest.raises(ApiError, match="certificate verify failed"):
        api.node(NODE)
    assert kube.asked == []


def test_no_server_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    with serve(tmp_path) as (_, api):
        pass
    api.deadline_seconds = 0
    with kept_port() as api.port, pytest.raises(ApiError, match="GET /api/v1/nodes/node-1: .*refused") as caught:
        api.node(NODE)
    assert caught.value.status == 0


def test_outside_a_pod_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NodeError, match="this is no pod with one") as caught:
        Api.in_cluster()
    assert caught.value.exit_code == 2
