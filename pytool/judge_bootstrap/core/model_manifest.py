"""From a Hub listing to the manifest that every node is given: which files, how large, with which hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from judge_node.cache.manifest import TEMPLATES_FOLDER, is_allowed

from judge_bootstrap.core.errors import BootstrapError

# Weights that are pickles or archives, and so can run code as they are loaded: named when there are no others.
_UNSAFE_WEIGHTS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npz", ".h5", ".msgpack", ".nemo", ".tar", ".gz",
                   ".zip")
_MOST_NAMED = 3
# Where a repository asks loaders for Python code of its own.
CONFIG_FILES = ("config.json", "tokenizer_config.json")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ListedFile:
    """One file as the Hub lists it: `sha256` for a file in LFS, `blob_sha1` (git's own hash) for any other."""

    path: str
    size: int | None
    sha256: str | None
    blob_sha1: str | None


def is_wanted(path: str) -> bool:
    """Tell whether a file of the repository belongs on a node: allowed there, and read by vLLM.

    That is the top level, and the chat templates beside it; folders such as onnx/ and original/ hold the same weights
    in other formats.
    """
    folder, _, _ = path.rpartition("/")
    return is_allowed(path) and folder in ("", TEMPLATES_FOLDER)


def build_manifest(repo_id: str, revision: str, commit: str, listing: Iterable[ListedFile]) -> dict[str, Any]:
    """Return the manifest (schema 1) of the allowed files, sorted by path; sizes in bytes.

    Raises BootstrapError when the Hub's answer names no commit, no weights or a file without size or hash: a manifest
    that cannot prove a file would let a wrong one pass.
    """
    if not _COMMIT.fullmatch(commit):
        raise BootstrapError(f"the Hub named {commit!r} as the commit of {repo_id}, wanted 40 hex digits",
                             reason="SOURCE_UNREACHABLE", hint="check model_cache_hub_endpoint")
    listing = list(listing)
    files = sorted((f for f in listing if is_wanted(f.path)), key=lambda f: f.path)
    names = {f.path for f in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise _not_servable(repo_id, commit, names, [f.path for f in listing])
    for file in files:
        if file.size is None or not (file.sha256 or file.blob_sha1):
            raise BootstrapError(f"the Hub gave no size or hash for {file.path} of {repo_id}: it cannot be verified",
                                 reason="SOURCE_UNREACHABLE", hint="check model_cache_hub_endpoint")
    return {
        "schema": 1, "repo_id": repo_id, "revision": revision, "commit": commit, "files": [asdict(f) for f in files],
    }


def _not_servable(repo_id: str, commit: str, wanted: set[str], listed: list[str]) -> BootstrapError:
    unsafe = sorted(path for path in listed if path.endswith(_UNSAFE_WEIGHTS))
    found = f"{', '.join(sorted(wanted)[:_MOST_NAMED]) or 'nothing'} that may be stored"
    if unsafe:
        more = f" and {len(unsafe) - _MOST_NAMED} more" if len(unsafe) > _MOST_NAMED else ""
        found += f", and {', '.join(unsafe[:_MOST_NAMED])}{more}, which can run code when they are loaded"
    return BootstrapError(
        f"{repo_id} at {commit} has no model that can be served safely: found {found}; wanted config.json and "
        "*.safetensors", reason="FILE_FORBIDDEN", hint="choose a repository with safetensors weights as model.id")


def sealed(manifest: Mapping[str, Any], quantization: str | None) -> dict[str, Any]:
    """Return the manifest as nodes and lock files get it: with what its config declares, and its digest."""
    declared = {} if quantization is None else {"quantization": quantization}
    whole = {**{key: value for key, value in manifest.items() if key != "digest"}, **declared}
    return {**whole, "digest": manifest_digest(whole)}


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of the manifest's canonical JSON; it names the exact set of bytes a node serves."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_content(file: ListedFile, content: bytes) -> None:
    """Raise BootstrapError unless `content` is the listed file, by its sha256 or git's own hash."""
    found = (hashlib.sha256(content).hexdigest() if file.sha256
             else hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest())
    wanted = file.sha256 or file.blob_sha1
    if found != wanted:
        raise BootstrapError(f"{file.path} has hash {found}, the Hub lists {wanted}", reason="INTEGRITY_MISMATCH",
                             hint="run again; if it stays, the endpoint or a proxy alters files")


def read_config(repo_id: str, name: str, content: bytes, *, allow_auto_map: bool = False) -> dict[str, Any]:
    """Return what a configuration file of the repository holds.

    Raises BootstrapError for a file that is no JSON object, and for `auto_map`, unless it is allowed: it asks loaders
    to run Python out of the repository. That code is never fetched, allowed or not; with `allow_auto_map` the model is
    for loaders that know it by themselves.
    """
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BootstrapError(f"{name} of {repo_id} is no JSON: {type(error).__name__}: {error}",
                             reason="INTEGRITY_MISMATCH", hint="choose another model.id or model.revision") from error
    if not isinstance(config, dict):
        raise BootstrapError(f"{name} of {repo_id} is a {type(config).__name__}, wanted an object",
                             reason="INTEGRITY_MISMATCH", hint="choose another model.id or model.revision")
    if "auto_map" in config and not allow_auto_map:
        raise BootstrapError(
            f"{name} of {repo_id} has auto_map: it asks for Python code out of its repository, which is never fetched",
            reason="FILE_FORBIDDEN", hint="choose a model that transformers knows by itself as model.id; if vLLM knows "
            "this one without that code: -e '{\"model_cache_allow_auto_map\": true}'")
    return config


def declared_quantization(config: Mapping[str, Any]) -> str | None:
    """Return the quantization method that config.json declares, or None."""
    declared = config.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, dict) else None
    return method if isinstance(method, str) and method else None
