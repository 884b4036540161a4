"""The Hub stand-in, asked by the real client and by plain HTTP."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from judge_lab.hub import Fault, HubServer

WEIGHTS = bytes(range(256)) * 20
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "model.safetensors": WEIGHTS,
    "onnx/model.json": b"{}",
    "README.md": b"# x",
}


def fill(root: Path, repo_id: str = "org/name") -> Path:
    for path, content in FILES.items():
        file = root / repo_id / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(fill(tmp_path / "hub"), tokens={"org/gated": "hf_secret"}) as server:
        fill(tmp_path / "hub", "org/gated")
        yield server


@pytest.fixture
def api(hub: HubServer) -> huggingface_hub.HfApi:
    return huggingface_hub.HfApi(endpoint=hub.url, token=False)


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request, redirects not followed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def download(hub: HubServer, path: str, **headers: str) -> bytes:
    """Fetch a file as curl -L does."""
    request = urllib.request.Request(f"{hub.url}/org/name/resolve/main/{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def test_the_real_client_lists_sizes_and_hashes_of_each_file(hub: HubServer, api: huggingface_hub.HfApi) -> None:
    info = api.model_info("org/name", files_metadata=True)
    assert info.sha == hub.commit("org/name")
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert {name: sibling.size for name, sibling in siblings.items()} == {
        name: len(body) for name, body in FILES.items()
    }
    assert siblings["model.safetensors"].lfs is not None
    assert siblings["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert siblings["config.json"].lfs is None


def test_a_plain_file_is_named_as_git_names_it(tmp_path: Path, api: huggingface_hub.HfApi) -> None:
    entries = {entry.path: entry for entry in api.list_repo_tree("org/name", recursive=True)}
    (tmp_path / "config.json").write_bytes(FILES["config.json"])
    named = subprocess.run(
        ["git", "hash-object", "config.json"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert entries["config.json"].blob_id == named
    assert set(entries) == {*FILES, "onnx"}


def test_a_tree_that_is_not_recursive_shows_one_level(api: huggingface_hub.HfApi) -> None:
    assert {entry.path for entry in api.list_repo_tree("org/name")} == {*FILES, "onnx"} - {"onnx/model.json"}


def test_the_real_client_downloads_identical_files(hub: HubServer, tmp_path: Path) -> None:
    folder = huggingface_hub.snapshot_download(
        "org/name", endpoint=hub.url, cache_dir=tmp_path / "cache", token=False, max_workers=2
    )
    found = {name: (Path(folder) / name).read_bytes() for name in FILES}
    assert found == FILES
    assert Path(folder).name == hub.commit("org/name")


def test_the_commit_follows_from_the_contents(hub: HubServer, tmp_path: Path) -> None:
    before = hub.commit("org/name")
    os.utime(tmp_path / "hub/org/name/config.json", (1, 1))
    assert hub.commit("org/name") == before
    (tmp_path / "hub/org/name/config.json").write_bytes(b'{"model_type": "other"}')
    assert hub.commit("org/name") != before


def test_weights_redirect_to_a_signed_url_on_another_origin(hub: HubServer) -> None:
    status, headers, _ = get(f"{hub.url}/org/name/resolve/main/model.safetensors")
    assert status == 302
    assert headers["X-Linked-Etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert headers["X-Linked-Size"] == str(len(WEIGHTS))
    assert headers["X-Repo-Commit"] == hub.commit("org/name")
    assert urlsplit(headers["Location"]).netloc != urlsplit(hub.url).netloc
    assert get(headers["Location"])[2] == WEIGHTS


def test_the_download_host_refuses_a_token_that_leaks_to_it(hub: HubServer) -> None:
    location = get(f"{hub.url}/org/name/resolve/main/model.safetensors")[1]["Location"]
    assert get(location, Authorization="Bearer hf_secret")[0] == 400
    assert hub.requests[-1].authorized
    assert hub.requests[-1].download_host


def test_a_signed_url_cannot_be_altered(hub: HubServer) -> None:
    location = get(f"{hub.url}/org/name/resolve/main/model.safetensors")[1]["Location"]
    assert get(location.replace("Expires=", "Expires=9"))[0] == 403


def test_a_small_file_redirects_by_a_relative_location(hub: HubServer) -> None:
    status, headers, _ = get(f"{hub.url}/org/name/resolve/main/config.json")
    assert (status, headers["Location"].startswith("/api/resolve-cache/")) == (307, True)
    assert download(hub, "config.json") == FILES["config.json"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=10-", WEIGHTS[10:]),
        ("bytes=10-19", WEIGHTS[10:20]),
        ("bytes=-5", WEIGHTS[-5:]),
        ("bytes=0-99999", WEIGHTS),
    ],
)
def test_a_range_gives_exactly_those_bytes(hub: HubServer, asked: str, expected: bytes) -> None:
    assert download(hub, "model.safetensors", Range=asked) == expected


def test_a_range_past_the_end_is_refused_with_the_size(hub: HubServer) -> None:
    location = get(f"{hub.url}/org/name/resolve/main/model.safetensors")[1]["Location"]
    status, headers, _ = get(location, Range=f"bytes={len(WEIGHTS)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(WEIGHTS)}")


def test_a_range_of_another_version_gets_the_whole_file(hub: HubServer) -> None:
    location = get(f"{hub.url}/org/name/resolve/main/model.safetensors")[1]["Location"]
    status, _, body = get(location, Range="bytes=10-", **{"If-Range": '"other"'})
    assert (status, body) == (200, WEIGHTS)


def test_what_is_missing_is_told_as_the_hub_tells_it(api: huggingface_hub.HfApi, hub: HubServer) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/name", revision="0" * 40)
    with pytest.raises(RemoteEntryNotFoundError):
        huggingface_hub.get_hf_file_metadata(f"{hub.url}/org/name/resolve/main/none.json", token=False)


@pytest.mark.parametrize("path", ["/../outside", "/%2e%2e/outside", "/org/name/../../../outside"])
@pytest.mark.parametrize("form", ["/api/models{}", "{}/resolve/main/secret", "/api/resolve-cache/models{}/main/secret"])
def test_nothing_outside_the_repositories_is_served(hub: HubServer, tmp_path: Path, path: str, form: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    assert get(hub.url + form.format(path))[0] in (401, 404)


def test_files_of_a_gated_repository_need_its_token(hub: HubServer, api: huggingface_hub.HfApi) -> None:
    url = f"{hub.url}/org/gated/resolve/main/config.json"
    assert api.model_info("org/gated").gated == "auto"
    with pytest.raises(GatedRepoError):
        huggingface_hub.get_hf_file_metadata(url, token=False)
    assert get(url, Authorization="Bearer wrong")[0] == 401
    assert huggingface_hub.get_hf_file_metadata(url, token="hf_secret").size == len(FILES["config.json"])


def test_a_corrupt_answer_keeps_its_size_and_strikes_as_often_as_told(hub: HubServer) -> None:
    hub.faults.append(Fault.parse("corrupt:*.safetensors:1"))
    first, second = download(hub, "model.safetensors"), download(hub, "model.safetensors")
    assert len(first) == len(WEIGHTS)
    assert first != WEIGHTS
    assert second == WEIGHTS


def test_a_short_answer_breaks_off(hub: HubServer) -> None:
    hub.faults.append(Fault("short"))
    with pytest.raises(http.client.IncompleteRead):
        download(hub, "model.safetensors")


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_hub_says_when_to_come_back(hub: HubServer, status: int) -> None:
    hub.faults.append(Fault.parse(f"{status}=7:api"))
    got, headers, _ = get(f"{hub.url}/api/models/org/name")
    assert (got, headers["Retry-After"]) == (status, "7")
    assert download(hub, "config.json") == FILES["config.json"]


def test_an_expired_signed_url_is_refused(hub: HubServer) -> None:
    hub.faults.append(Fault("expired", times=1))
    with pytest.raises(urllib.error.HTTPError, match="403"):
        download(hub, "model.safetensors")
    assert download(hub, "model.safetensors") == WEIGHTS


def test_a_server_without_ranges_answers_the_whole_file(hub: HubServer) -> None:
    hub.faults.append(Fault("no-range"))
    assert download(hub, "model.safetensors", Range="bytes=10-") == WEIGHTS


def test_a_file_without_etag_carries_no_name_of_its_contents(hub: HubServer) -> None:
    hub.faults.append(Fault("no-etag", "config.json"))
    metadata = huggingface_hub.get_hf_file_metadata(f"{hub.url}/org/name/resolve/main/config.json", token=False)
    assert metadata.etag is None


def test_an_unknown_fault_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown fault 'flood': one of corrupt, short"):
        Fault.parse("flood")


def test_the_program_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "judge_lab.hub", "--port", "0", "--root", str(fill(tmp_path))],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "pytool")},
    )
    assert server.stderr is not None
    try:
        url = server.stderr.readline().split()[-1]
        assert json.loads(get(f"{url}/api/models/org/name")[2])["id"] == "org/name"
    finally:
        server.terminate()
        assert server.wait(60) == 0
        server.stderr.close()
