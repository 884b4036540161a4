"""From a Hub listing to the manifest that every node is given: which files, how large, with which hash."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from judge_bootstrap.core.errors import BootstrapError

# What vLLM reads of a repository, and nothing that can run code: pickles, Python files and archives never. A pattern
# has no folder because vLLM reads the top level; folders (onnx/, original/) hold the same weights in other formats.
ALLOWED_FILES = ("*.safetensors", "*.json", "merges.txt", "tokenizer.model", "chat_template.jinja")

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ListedFile:
    """One file as the Hub lists it: `sha256` for a file in LFS, `blob_sha1` (git's own hash) for any other."""

    path: str
    size: int | None
    sha256: str | None
    blob_sha1: str | None


def is_allowed(path: str) -> bool:
    """Tell whether a file of the repository belongs on a node."""
    return "/" not in path and any(fnmatch.fnmatchcase(path, pattern) for pattern in ALLOWED_FILES)


def build_manifest(repo_id: str, revision: str, commit: str, listing: Iterable[ListedFile]) -> dict[str, Any]:
    """Return the manifest (schema 1) of the allowed files, sorted by path; sizes in bytes.

    Raises BootstrapError when the Hub's answer names no commit, no weights or a file without size or hash: a manifest
    that cannot prove a file would let a wrong one pass.
    """
    if not _COMMIT.fullmatch(commit):
        raise BootstrapError(f"the Hub named {commit!r} as the commit of {repo_id}, wanted 40 hex digits",
                             reason="SOURCE_UNREACHABLE", hint="check model_cache_hub_endpoint")
    files = sorted((f for f in listing if is_allowed(f.path)), key=lambda f: f.path)
    names = {f.path for f in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise BootstrapError(
            f"{repo_id} at {commit} has no model that can be served safely: found "
            f"{', '.join(sorted(names)) or 'nothing'}, wanted config.json and *.safetensors (never pickles)",
            reason="FILE_FORBIDDEN", hint="choose a repository with safetensors weights as model.id")
    for file in files:
        if file.size is None or not (file.sha256 or file.blob_sha1):
            raise BootstrapError(f"the Hub gave no size or hash for {file.path} of {repo_id}: it cannot be verified",
                                 reason="SOURCE_UNREACHABLE", hint="check model_cache_hub_endpoint")
    return {
        "schema": 1, "repo_id": repo_id, "revision": revision, "commit": commit, "files": [asdict(f) for f in files],
    }


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Return the sha256 (hex) of the manifest's canonical JSON; it names the exact set of bytes a node serves."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_content(file: ListedFile, content: bytes) -> None:
    """Raise BootstrapError unless `content` is the listed file, by its sha256 or git's own hash."""
    found = (hashlib.sha256(content).hexdigest() if file.sha256
             else hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest())
    wanted = file.sha256 or file.blob_sha1
    if found != wanted:
        raise BootstrapError(f"{file.path} has hash {found}, the Hub lists {wanted}", reason="INTEGRITY_MISMATCH",
                             hint="run again; if it stays, the endpoint or a proxy alters files")


def read_config(repo_id: str, content: bytes) -> str | None:
    """Return the quantization method that config.json declares, or None.

    Raises BootstrapError for a file that is no JSON object, and for `auto_map`: it makes loaders run Python out of the
    repository, which is never fetched and never trusted.
    """
    try:
        config = json.loads(content)
    except ValueError as error:
        raise BootstrapError(f"config.json of {repo_id} is no JSON: {error}", reason="INTEGRITY_MISMATCH",
                             hint="choose another model.id or model.revision") from error
    if not isinstance(config, dict):
        raise BootstrapError(f"config.json of {repo_id} is a {type(config).__name__}, wanted an object",
                             reason="INTEGRITY_MISMATCH", hint="choose another model.id or model.revision")
    if "auto_map" in config:
        raise BootstrapError(f"config.json of {repo_id} has auto_map: it needs Python code out of its repository, "
                             "which is never run here", reason="FILE_FORBIDDEN",
                             hint="choose a model that transformers knows by itself as model.id")
    declared = config.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, dict) else None
    return method if isinstance(method, str) else None
