"""Do the files of a model belong together? Hashes show that each is the one named, not that they make a model."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from ..result import NodeError
from .headers import HeaderWrong, tensor_names
from .manifest import File, Manifest
from .store import Problem, Store

WEIGHTS_SUFFIX = ".safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20


def check_contents(store: Store, manifest: Manifest) -> None:
    """Raise NodeError MODEL_INCOMPLETE when the files make no model: weights that are none, a shard that is missing.

    To be called when the blobs are verified and before the snapshot appears.
    """
    found = content_problems(store, manifest, raise_unreadable=True)
    if found:
        raise NodeError(
            found[0].text,
            reason="MODEL_INCOMPLETE",
            repair="check the model repository, or choose another revision; then make the manifest again",
        )


def content_problems(store: Store, manifest: Manifest, *, raise_unreadable: bool = False) -> list[Problem]:
    """Return what is wrong with the weight files' headers and indexes. Reads those, and no weights.

    A file that cannot be read is a problem, or raises OSError: right after its bytes were verified it is the disk's.
    """
    found: list[Problem] = []
    tensors: dict[str, frozenset[str]] = {}
    for file in manifest.files:
        if file.path.endswith(WEIGHTS_SUFFIX):
            try:
                tensors[file.path] = tensor_names(store.blob(manifest, file))
            except HeaderWrong as error:
                found.append(Problem("INTEGRITY_MISMATCH", f"{file.path} is no weight file: {error}", file.path))
            except OSError as error:
                if raise_unreadable:
                    raise
                found.append(_unreadable(file, error))
    paths = {file.path for file in manifest.files}
    for file in manifest.files:
        if file.path.endswith(_INDEX_SUFFIX):
            try:
                found += _index_problems(store.blob(manifest, file), file, paths, tensors)
            except OSError as error:
                if raise_unreadable:
                    raise
                found.append(_unreadable(file, error))
    return found


def _unreadable(file: File, error: OSError) -> Problem:
    return Problem("INTEGRITY_MISMATCH", f"{file.path} cannot be read: {error.strerror}", file.path)


def _index_problems(path: Path, file: File, paths: set[str], tensors: dict[str, frozenset[str]]) -> list[Problem]:
    weights = _weight_map(path, file)
    if weights is None:
        text = f"{file.path} is not an index of weights (an object with weight_map)"
        return [Problem("MODEL_INCOMPLETE", text)]
    folder = PurePosixPath(file.path).parent
    missing = sorted({shard for shard in weights.values() if str(folder / shard) not in paths})
    if missing:
        text = f"{file.path} names the shard {missing[0]!r}{_more(missing)}, which the manifest does not have"
        return [Problem("MODEL_INCOMPLETE", text)]
    absent = sorted(
        name
        for name, shard in weights.items()
        if str(folder / shard) in tensors and name not in tensors[str(folder / shard)]
    )
    if absent:
        where = weights[absent[0]]
        text = f"{file.path} looks for the tensor {absent[0]!r}{_more(absent)} in {where}, which does not have it"
        return [Problem("MODEL_INCOMPLETE", text)]
    return []


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _weight_map(path: Path, file: File) -> dict[str, str] | None:
    """Return {tensor: shard} of an index, or None when it is none."""
    try:
        found = json.loads(path.read_bytes()) if file.size <= _MAX_INDEX_BYTES else None
    except (ValueError, RecursionError):
        return None
    weights = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
        return None
    return weights
