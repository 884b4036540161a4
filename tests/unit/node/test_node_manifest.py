"""Manifests from outside: every bad one is one line and exit code 2, never a traceback."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_node.cache.manifest import parse
from judge_node.cache.store import link_target
from judge_node.result import NodeError
from unit.node.fake_hub import manifest_of

GOOD = manifest_of({"config.json": b"{}", "model.safetensors": b"weights"})


def edited(path: list[Any], value: Any) -> bytes:
    raw = copy.deepcopy(GOOD)
    target: Any = raw
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return json.dumps(raw).encode()


def refused(data: bytes) -> NodeError:
    with pytest.raises(NodeError) as caught:
        parse(data)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message and len(caught.value.message) < 500
    assert caught.value.repair
    return caught.value


def test_digest_does_not_depend_on_the_order_of_keys_or_files() -> None:
    turned = {key: GOOD[key] for key in reversed(GOOD)} | {"files": list(reversed(GOOD["files"]))}
    assert parse(json.dumps(turned, indent=3).encode()).digest == parse(json.dumps(GOOD).encode()).digest


@pytest.mark.parametrize(
    "path",
    ["../config.json", "/etc/passwd.json", "a/../../b.json", "a//b.json", "./a.json", ".hidden.json", "a/.git/x.json",
     "config.json\n", "a\\b.json", "a\0.json", "", "a/", "é.json", "x" * 600 + ".json", "/".join("a" * 20) + "/b.json"],
)  # fmt: skip
def test_path_that_could_leave_the_snapshot_is_forbidden(path: str) -> None:
    assert refused(edited(["files", 0, "path"], path)).reason == "FILE_FORBIDDEN"


@pytest.mark.parametrize(
    "path",
    ["pytorch_model.bin", "model.pt", "model.pkl", "modeling_x.py", "x.zip", "a.tar.gz", "README.md", "x.json.py"],
)  # fmt: skip
def test_file_that_can_carry_code_is_forbidden(path: str) -> None:
    error = refused(edited(["files", 0, "path"], path))
    assert error.reason == "FILE_FORBIDDEN"
    assert path in error.message and "*.safetensors, *.json" in error.message


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 2, "schema is 2, wanted 1"),
        (["schema"], True, "schema is True, wanted 1"),
        (["repo_id"], "a/b/c", "repo_id is 'a/b/c', wanted ORG/NAME"),
        (["repo_id"], "../x", "wanted ORG/NAME"),
        (["repo_id"], "a--b/c", "wanted ORG/NAME"),
        (["repo_id"], 7, "wanted ORG/NAME"),
        (["revision"], "../../x", "wanted a branch, tag or commit"),
        (["revision"], None, "wanted a branch, tag or commit"),
        (["commit"], "main", "commit is 'main', wanted 40 lower-case hex digits"),
        (["commit"], "A" * 40, "wanted 40 lower-case hex digits"),
        (["files"], [], "wanted a list of 1 to 10000 files"),
        (["files"], {}, "wanted a list of 1 to 10000 files"),
        (["files"], ["x"], "files[0] is 'x', wanted an object"),
        (["files", 0, "size"], -1, "files[0].size is -1, wanted bytes from 0"),
        (["files", 0, "size"], 1 << 60, "wanted bytes from 0 to"),
        (["files", 0, "size"], 1e99, "wanted bytes from 0 to"),
        (["files", 0, "size"], True, "wanted bytes from 0 to"),
        (["files", 0, "size"], "5", "wanted bytes from 0 to"),
        (["files", 0, "path"], 5, "files[0].path is 5, wanted a relative path"),
        (["files", 0, "blob_sha1"], None, "has no hash, wanted sha256 or blob_sha1"),
        (["files", 0, "blob_sha1"], "x" * 40, "wanted 40 lower-case hex digits"),
        (["files", 0, "path"], "model.safetensors", "it names 'model.safetensors' twice"),
        (["files", 0, "path"], "model.safetensors/x.json", "is a file and also the folder of"),
        (["files", 0, "url"], "http://x", "files[0] has the unknown key 'url', allowed are"),
        (["token"], "hf_x", "it has the unknown key 'token', allowed are"),
    ],
)
def test_wrong_value_is_named_with_what_was_found_and_wanted(path: list[Any], value: Any, message: str) -> None:
    error = refused(edited(path, value))
    assert message in error.message and error.reason is None


@pytest.mark.parametrize("key", ["schema", "repo_id", "revision", "commit", "files"])
def test_missing_key_is_named(key: str) -> None:
    assert f"has no '{key}'" in refused(json.dumps({k: v for k, v in GOOD.items() if k != key}).encode()).message


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b'{"schema": ' + b"9" * 10_000 + b"}", b"[" * 100_000, b"\0" * 50,
     b" " * (17 << 20), json.dumps(GOOD).encode("utf-16"), b'{"a": NaN}'],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_manifest_is_wrong_usage(data: bytes) -> None:
    if data == json.dumps(GOOD).encode("utf-16"):
        assert parse(data).repo_id == GOOD["repo_id"]  # JSON may be UTF-16, and Python detects it
        return
    refused(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_PLACES = st.sampled_from(
    [["schema"], ["repo_id"], ["revision"], ["commit"], ["files"], ["files", 0], ["files", 0, "path"],
     ["files", 0, "size"], ["files", 1, "sha256"], ["files", 0, "blob_sha1"], ["new"], ["files", 0, "new"]]
)  # fmt: skip


@given(_PLACES, _JSON)
def test_any_json_in_any_place_is_parsed_or_refused(path: list[Any], value: Any) -> None:
    try:
        parse(edited(path, value))
    except NodeError as error:
        assert error.exit_code == 2


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    refused(data)


@given(st.text(max_size=30).map(lambda text: text + ".json"))
def test_every_accepted_path_stays_inside_the_snapshot(path: str) -> None:
    try:
        file = parse(edited(["files", 0, "path"], path)).files[0]
    except NodeError:
        return
    parts = file.path.split("/")
    assert not file.path.startswith("/") and ".." not in parts and "" not in parts
    assert link_target(file) == "../" * (len(parts) + 1) + f"blobs/{file.blob}"
