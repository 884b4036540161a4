"""The manifest: the files of a model with size and hash. Resolved once on the controller, the same for every node."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from ..result import NodeError

MAX_BYTES = 16 << 20
MAX_FILES = 10_000
MAX_FILE_BYTES = 1 << 50
_KEYS = {"schema", "repo_id", "revision", "commit", "files", "quantization", "digest"}
_FILE_KEYS = {"path", "size", "sha256", "blob_sha1"}
_SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")
_QUANTIZATION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_HEX = {40: re.compile(r"[0-9a-f]{40}"), 64: re.compile(r"[0-9a-f]{64}")}
# Weights, configuration, tokenizer: nothing that can carry code. Pickle, Python and archives are left out on purpose.
_ALLOWED_SUFFIXES = (".safetensors", ".json")
_ALLOWED_NAMES = (
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
# Where transformers finds a model's other chat templates (tool_use.jinja, ...), each by its name.
TEMPLATES_FOLDER = "additional_chat_templates"
_REPAIR = "make the manifest again with the model_cache role"


@dataclass(frozen=True)
class File:
    """One file of the model. Every hash that is given is checked; sizes are bytes."""

    path: str
    size: int
    sha256: str | None
    blob_sha1: str | None

    @property
    def blob(self) -> str:
        """The blob's name, which is the Hub's etag: git's blob hash for files in git, sha256 for files in LFS.

        A file with both hashes is one in git: for a file in LFS the git hash is that of its pointer, not of its bytes.
        """
        name = self.blob_sha1 or self.sha256
        assert name is not None
        return name


@dataclass(frozen=True)
class Manifest:
    """One model at one commit."""

    repo_id: str
    revision: str
    commit: str
    files: tuple[File, ...]
    # What config.json declares; the roles check it against the settings without asking the Hub.
    quantization: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files; a blob that two paths share counts once."""
        return sum({file.blob: file.size for file in self.files}.values())

    def blobs(self) -> dict[str, File]:
        """Return one file for each distinct blob."""
        return {file.blob: file for file in self.files}

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, files sorted by path."""
        files = [
            {"path": f.path, "size": f.size, "sha256": f.sha256, "blob_sha1": f.blob_sha1}
            for f in sorted(self.files, key=lambda f: f.path)
        ]
        declared = {} if self.quantization is None else {"quantization": self.quantization}
        return {
            "schema": 1,
            "repo_id": self.repo_id,
            "revision": self.revision,
            "commit": self.commit,
            **declared,
            "files": files,
        }

    def canonical(self) -> bytes:
        """Return the one byte form that the digest is taken over."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """sha256 of the canonical form: the identity of these weights."""
        return hashlib.sha256(self.canonical()).hexdigest()


def is_allowed(path: str) -> bool:
    """Return whether a file of this path may be stored: the one list that the controller and the nodes go by."""
    *folders, name = path.split("/")
    return _is_plain(path) and (
        name.endswith(_ALLOWED_SUFFIXES)
        or name in _ALLOWED_NAMES
        or (folders[-1:] == [TEMPLATES_FOLDER] and name.endswith(".jinja"))
    )


def _is_plain(path: str) -> bool:
    segments = path.split("/")
    return (
        len(path) <= 512
        and len(segments) <= 16
        and all(_SEGMENT.fullmatch(s) and len(s) <= 200 and ".." not in s for s in segments)
    )


def parse(data: bytes) -> Manifest:
    """Return the manifest in `data`.

    Raises NodeError: FILE_FORBIDDEN for a file that may not be stored, wrong usage for everything else that is not one.
    """
    if len(data) > MAX_BYTES:
        raise _wrong(f"it has {len(data)} bytes, wanted at most {MAX_BYTES}")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"it is not JSON ({type(error).__name__}: {str(error)[:120]})") from None
    _check_keys(found, _KEYS, "it", optional={"digest", "quantization"})
    if type(found["schema"]) is not int or found["schema"] != 1:
        raise _wrong(f"schema is {_show(found['schema'])}, wanted 1")
    repo_id = _repo_id(found["repo_id"])
    commit = _hex(found["commit"], 40, "commit")
    files = found["files"]
    if not isinstance(files, list) or not 0 < len(files) <= MAX_FILES:
        raise _wrong(f"files is {_show(files)}, wanted a list of 1 to {MAX_FILES} files")
    parsed = tuple(_file(file, f"files[{index}]") for index, file in enumerate(files))
    _check_together(parsed)
    manifest = Manifest(repo_id, _revision(found["revision"]), commit, parsed, _quantization(found.get("quantization")))
    if "digest" in found and _hex(found["digest"], 64, "digest") != manifest.digest:
        raise NodeError(
            f"the manifest of {repo_id} was edited: its digest is {found['digest'][:12]}..., "
            f"its content has {manifest.digest[:12]}...",
            reason="INTEGRITY_MISMATCH",
            repair=_REPAIR,
        )
    return manifest


def _file(found: Any, where: str) -> File:
    _check_keys(found, _FILE_KEYS, where, optional={"sha256", "blob_sha1"})
    path = _path(found["path"], where)
    size = found["size"]
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise _wrong(f"{where}.size is {_show(size)}, wanted bytes from 0 to {MAX_FILE_BYTES}")
    sha256, sha1 = found.get("sha256"), found.get("blob_sha1")
    if sha256 is None and sha1 is None:
        raise _wrong(f"{where} ({path}) has no hash, wanted sha256 or blob_sha1")
    return File(
        path,
        size,
        None if sha256 is None else _hex(sha256, 64, f"{where}.sha256"),
        None if sha1 is None else _hex(sha1, 40, f"{where}.blob_sha1"),
    )


def _path(found: Any, where: str) -> str:
    if not isinstance(found, str):
        raise _wrong(f"{where}.path is {_show(found)}, wanted a relative path")
    if not _is_plain(found):
        raise NodeError(
            f"{where}.path is {_show(found)}, wanted a relative path of plain names without '..'",
            reason="FILE_FORBIDDEN",
            repair=_REPAIR,
        )
    if not is_allowed(found):
        allowed = ", ".join(f"*{suffix}" for suffix in _ALLOWED_SUFFIXES) + ", " + ", ".join(_ALLOWED_NAMES)
        raise NodeError(
            f"{where}.path is {_show(found)}, allowed are {allowed}", reason="FILE_FORBIDDEN", repair=_REPAIR
        )
    return found


def _check_together(files: tuple[File, ...]) -> None:
    paths = {file.path for file in files}
    if len(paths) != len(files):
        twice = next(p for p in sorted(paths) if sum(file.path == p for file in files) > 1)
        raise _wrong(f"it names {twice!r} twice")
    for path in sorted(paths):
        parts = path.split("/")
        above = next(("/".join(parts[:n]) for n in range(1, len(parts)) if "/".join(parts[:n]) in paths), None)
        if above is not None:
            raise _wrong(f"{above!r} is a file and also the folder of {path!r}")
    blobs: dict[str, File] = {}
    for file in files:
        other = blobs.setdefault(file.blob, file)
        if (other.size, other.sha256) != (file.size, file.sha256):
            raise _wrong(f"{other.path!r} and {file.path!r} have the same hash but differ in size or sha256")


def _repo_id(found: Any) -> str:
    if not isinstance(found, str) or len(found) > 96:
        raise _wrong(f"repo_id is {_show(found)}, wanted ORG/NAME")
    segments = found.split("/")
    # The Hub forbids `--` and `..` in names; here `--` would make two repositories share a folder.
    if len(segments) > 2 or not all(_SEGMENT.fullmatch(s) for s in segments) or "--" in found or ".." in found:
        raise _wrong(f"repo_id is {_show(found)}, wanted ORG/NAME")
    return found


def is_revision(text: str) -> bool:
    """Return whether this can be the name of a branch, tag or commit."""
    parts = text.split("/")
    return len(text) <= 200 and bool(_REVISION.fullmatch(text)) and not any(p == "" or p.startswith(".") for p in parts)


def _revision(found: Any) -> str:
    if not isinstance(found, str) or not is_revision(found):
        raise _wrong(f"revision is {_show(found)}, wanted a branch, tag or commit")
    return found


def _quantization(found: Any) -> str | None:
    if found is not None and (not isinstance(found, str) or not _QUANTIZATION.fullmatch(found)):
        raise _wrong(f"quantization is {_show(found)}, wanted a method such as awq, or none")
    return found


def _hex(found: Any, length: int, where: str) -> str:
    if not isinstance(found, str) or not _HEX[length].fullmatch(found):
        raise _wrong(f"{where} is {_show(found)}, wanted {length} lower-case hex digits")
    return found


def _check_keys(found: Any, keys: set[str], where: str, optional: frozenset[str] | set[str] = frozenset()) -> None:
    if not isinstance(found, dict):
        raise _wrong(f"{where} is {_show(found)}, wanted an object")
    unknown = sorted(set(found) - keys)
    if unknown:
        raise _wrong(f"{where} has the unknown key {_show(unknown[0])}, allowed are {', '.join(sorted(keys))}")
    missing = sorted(keys - set(found) - set(optional))
    if missing:
        raise _wrong(f"{where} has no {missing[0]!r}")


def _show(found: Any) -> str:
    """Return a value short enough for one line of a message."""
    try:
        text = ascii(found)
    except (ValueError, RecursionError):  # an int beyond the digit limit of str(), nesting beyond the stack
        text = f"a very large {type(found).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _wrong(message: str) -> NodeError:
    return NodeError(f"the manifest is not usable: {message}", repair=_REPAIR)
