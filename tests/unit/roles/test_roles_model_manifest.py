"""From the Hub's listing to the manifest: what is taken, what is refused, and why."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from judge_bootstrap.adapters.hub import resolve_model
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.model_manifest import (
    ListedFile,
    build_manifest,
    check_content,
    declared_quantization,
    is_wanted,
    manifest_digest,
    read_config,
    sealed,
)
from judge_lab.hub import Fault, HubServer
from judge_node.cache.manifest import parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def listed(path: str, size: int | None = 10, sha256: str | None = None, blob_sha1: str | None = "a" * 40) -> ListedFile:
    return ListedFile(path, size, sha256, blob_sha1)


MODEL = [listed("model.safetensors", sha256="b" * 64, blob_sha1=None), listed("config.json")]


WANTED = ["config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
          "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
          "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
          "additional_chat_templates/tool_use.jinja"]


@pytest.mark.parametrize("path", WANTED)
def test_what_the_server_reads_is_wanted(path: str) -> None:
    assert is_wanted(path)


@pytest.mark.parametrize("path", ["pytorch_model.bin", "modeling.py", "model.pkl", "model.pt", "weights.tar", "x.zip",
                                  "README.md", "onnx/model.safetensors", "../config.json", "model.safetensors.py",
                                  "x.JSON", "other.jinja", "templates/tool_use.jinja", "my config.json",
                                  "additional_chat_templates/x/tool_use.jinja", "additional_chat_templates/run.py"])
def test_anything_else_is_not(path: str) -> None:
    assert not is_wanted(path)


def test_no_node_refuses_what_the_controller_wants() -> None:
    listing = [listed(path, blob_sha1=f"{number:040x}") for number, path in enumerate(WANTED)]
    manifest = sealed(build_manifest("org/name", "main", COMMIT, listing), "awq")
    assert sorted(file.path for file in parse(json.dumps(manifest).encode()).files) == sorted(WANTED)


def test_the_manifest_names_the_allowed_files_in_order_with_their_hashes() -> None:
    manifest = build_manifest("org/name", "main", COMMIT, [*MODEL, listed("pytorch_model.bin")])
    assert manifest == {
        "schema": 1, "repo_id": "org/name", "revision": "main", "commit": COMMIT,
        "files": [
            {"path": "config.json", "size": 10, "sha256": None, "blob_sha1": "a" * 40},
            {"path": "model.safetensors", "size": 10, "sha256": "b" * 64, "blob_sha1": None},
        ],
    }


def test_the_digest_is_that_of_the_canonical_json() -> None:
    manifest = build_manifest("org/name", "main", COMMIT, MODEL)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    assert manifest_digest(manifest) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("quantization", [None, "awq"])
def test_the_nodes_find_the_same_digest_in_what_they_are_handed(quantization: str | None) -> None:
    manifest = sealed(build_manifest("org/name", "main", COMMIT, MODEL), quantization)
    found = parse(json.dumps(manifest).encode())
    assert (found.digest, found.quantization) == (manifest["digest"], quantization)


@pytest.mark.parametrize(("commit", "files", "message", "reason"), [
    ("main", MODEL, "named 'main' as the commit", "SOURCE_UNREACHABLE"),
    (COMMIT, [listed("config.json"), listed("pytorch_model.bin")], "no model that can be served", "FILE_FORBIDDEN"),
    (COMMIT, [listed("model.safetensors")], "wanted config.json", "FILE_FORBIDDEN"),
    (COMMIT, [*MODEL, listed("vocab.json", size=None)], "no size or hash for vocab.json", "SOURCE_UNREACHABLE"),
    (COMMIT, [*MODEL, listed("vocab.json", blob_sha1=None)], "no size or hash for vocab.json", "SOURCE_UNREACHABLE"),
])
def test_a_listing_that_cannot_prove_a_model_is_refused(
    commit: str, files: list[ListedFile], message: str, reason: str
) -> None:
    with pytest.raises(BootstrapError, match=message) as caught:
        build_manifest("org/name", "main", commit, files)
    assert caught.value.reason == reason
    assert caught.value.hint


def test_weights_that_are_pickles_alone_are_refused_by_name() -> None:
    listing = [listed(name) for name in ("config.json", "pytorch_model-1.bin", "pytorch_model-2.bin", "x.pt", "y.pth")]
    with pytest.raises(BootstrapError) as caught:
        build_manifest("org/name", "main", COMMIT, listing)
    assert caught.value.reason == "FILE_FORBIDDEN"
    assert ("found config.json that may be stored, and pytorch_model-1.bin, pytorch_model-2.bin, x.pt and 1 more, "
            "which can run code") in caught.value.message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_config_that_asks_for_code_is_refused(name: str) -> None:
    with pytest.raises(BootstrapError, match=f"{name} of org/name has auto_map.*which is never fetched") as caught:
        read_config("org/name", name, b'{"auto_map": {"AutoModel": "modeling.X"}}')
    assert caught.value.reason == "FILE_FORBIDDEN"
    assert "model_cache_allow_auto_map" in str(caught.value.hint)


def test_a_config_that_asks_for_code_passes_where_that_is_allowed() -> None:
    content = b'{"auto_map": {}, "quantization_config": {"quant_method": "awq"}}'
    config = read_config("org/name", "config.json", content, allow_auto_map=True)
    assert declared_quantization(config) == "awq"


@pytest.mark.parametrize(("content", "message"), [
    (b"{", "is no JSON"), (b"\xff\xfe\x00", "is no JSON"), (b"[]", "is a list"), (b"[" * 100_000, "is no JSON"),
])
def test_a_config_that_is_no_object_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(BootstrapError, match=message):
        read_config("org/name", "config.json", content)


@pytest.mark.parametrize(("content", "method"), [
    (b'{"quantization_config": {"quant_method": "awq"}}', "awq"),
    (b'{"quantization_config": {}}', None),
    (b'{"quantization_config": null}', None),
    (b"{}", None),
])
def test_the_declared_quantization_is_read(content: bytes, method: str | None) -> None:
    assert declared_quantization(read_config("org/name", "config.json", content)) == method


def test_content_is_checked_by_sha256_or_by_git_hash() -> None:
    content = b"hello\n"
    git_hash = "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object of these bytes
    check_content(listed("config.json", blob_sha1=git_hash), content)
    check_content(listed("config.json", sha256=hashlib.sha256(content).hexdigest(), blob_sha1=None), content)
    with pytest.raises(BootstrapError, match="config.json has hash") as caught:
        check_content(listed("config.json", blob_sha1=git_hash), b"hellO\n")
    assert caught.value.reason == "INTEGRITY_MISMATCH"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "org" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "modeling.py").write_text("import os")
    return folder


def test_a_branch_is_resolved_to_a_commit_with_the_hashes_of_the_real_bytes(repository: Path) -> None:
    with HubServer(repository.parent.parent) as hub:
        found = resolve_model("org/tiny", "main", hub.url)
    files = {file["path"]: file for file in found.manifest["files"]}
    assert sorted(files) == ["config.json", "model.safetensors"]
    assert files["model.safetensors"]["sha256"] == hashlib.sha256(b"weights" * 1000).hexdigest()
    # In LFS the Hub's blob id is that of the pointer, which no file on a node has.
    assert files["model.safetensors"]["blob_sha1"] is None
    assert len(found.manifest["commit"]) == 40
    assert found.quantization == "awq"


@pytest.mark.parametrize(("repo_id", "revision", "message"), [
    ("org/other", "main", "knows no model org/other"),
    ("org/tiny", "nope", "org/tiny has no revision 'nope'"),
])
def test_what_the_hub_does_not_have_is_named(repository: Path, repo_id: str, revision: str, message: str) -> None:
    with HubServer(repository.parent.parent) as hub, pytest.raises(BootstrapError, match=message) as caught:
        resolve_model(repo_id, revision, hub.url)
    assert caught.value.reason == "SOURCE_NOT_FOUND"


def test_a_hub_that_does_not_answer_is_named() -> None:
    with pytest.raises(BootstrapError, match="http://127.0.0.1:1 could not be asked for org/tiny") as caught:
        resolve_model("org/tiny", "main", "http://127.0.0.1:1")
    assert caught.value.reason == "SOURCE_UNREACHABLE"


def test_the_empty_endpoint_is_no_hub_to_ask() -> None:
    with pytest.raises(BootstrapError, match="model_cache_hub_endpoint is empty") as caught:
        resolve_model("org/tiny", "main", "")
    assert "models lock" in str(caught.value.hint)


def test_files_in_the_user_s_own_cache_never_stand_in_for_an_answer_of_the_hub(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer(repository.parent.parent) as hub:
        commit = resolve_model("org/tiny", "main", hub.url).manifest["commit"]
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    # Not the address of the Hub that has just ended: the client keeps its connection, and that still answers.
    with pytest.raises(BootstrapError) as caught:
        resolve_model("org/tiny", "main", "http://127.0.0.1:1")
    assert caught.value.reason == "SOURCE_UNREACHABLE"


def test_a_config_that_a_proxy_altered_is_named(repository: Path) -> None:
    fault = Fault("corrupt", "config.json")
    with HubServer(repository.parent.parent, faults=[fault]) as hub, pytest.raises(BootstrapError) as caught:
        resolve_model("org/tiny", "main", hub.url)
    assert caught.value.reason == "INTEGRITY_MISMATCH"


def test_a_repository_that_asks_for_code_in_its_tokenizer_is_refused(repository: Path) -> None:
    (repository / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tok.T", null]}}')
    with HubServer(repository.parent.parent) as hub:
        with pytest.raises(BootstrapError, match="tokenizer_config.json of org/tiny has auto_map"):
            resolve_model("org/tiny", "main", hub.url)
        found = resolve_model("org/tiny", "main", hub.url, allow_auto_map=True)
    assert not [file for file in found.manifest["files"] if file["path"].endswith(".py")]
