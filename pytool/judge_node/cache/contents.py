"""Do the files of a model belong together? Hashes show that each is the one named, not that none is missing."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from ..result import NodeError
from .manifest import File, Manifest
from .store import Store

_INDEX_SUFFIX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20


def check_shards(store: Store, manifest: Manifest) -> None:
    """Raise NodeError MODEL_INCOMPLETE when a weight index names a shard that the manifest does not have.

    To be called when the blobs are verified and before the snapshot appears.
    """
    paths = {file.path for file in manifest.files}
    for file in manifest.files:
        if not file.path.endswith(_INDEX_SUFFIX):
            continue
        folder = PurePosixPath(file.path).parent
        missing = sorted(name for name in _shards(store.blob(manifest, file), file) if str(folder / name) not in paths)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise NodeError(
                f"{file.path} names the shard {missing[0]!r}{more}, which the manifest does not have",
                reason="MODEL_INCOMPLETE",
                repair="make the manifest again with the model_cache role",
            )


def _shards(path: Path, file: File) -> set[str]:
    """Return the file names in the weight_map of an index."""
    try:
        found = json.loads(path.read_bytes()) if file.size <= _MAX_INDEX_BYTES else None
    except (ValueError, RecursionError):
        found = None
    weights = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
        raise NodeError(
            f"{file.path} is not an index of weights (an object with weight_map)",
            reason="MODEL_INCOMPLETE",
            repair="check the model repository, or choose another revision",
        )
    return set(weights.values())
