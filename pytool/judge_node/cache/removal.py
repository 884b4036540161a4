"""How a snapshot goes: nothing vouches for it, then it disappears by one rename, then the blobs that only it had.

A cut at any point leaves a note in removing/, and the next removal finishes what the note says. The caller holds the
lock of the store.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..files import fsync_directory, make_directory
from .catalog import Model
from .manifest import Manifest
from .store import Store, blobs_linked, remove_durably, remove_tree


def take_away(store: Store, model: Model) -> None:
    """Let nothing vouch for the model any more: from here on no new pod is served from it."""
    store.check_no_links(model.manifest)
    store.move_note("manifests" if model.vouched else "withdrawn", "removing", model.manifest)


def put_back(store: Store, model: Model) -> None:
    """Undo take_away()."""
    store.move_note("removing", "manifests" if model.vouched else "withdrawn", model.manifest)


def finish(store: Store, manifest: Manifest) -> int:
    """Remove the snapshot that was taken away, and what only it needed. Returns the bytes of the blobs that went."""
    folder = store.folder(manifest.repo_id)
    if store.vouched(store.vouch(manifest)) is not None:
        remove_durably(store.note("removing", manifest))  # a sync has brought it back since the cut
        return 0
    store.check_no_links(manifest)
    for notes, pointing in (
        (folder / "refs", store.refs(manifest.repo_id)),
        (store.previous_folder(manifest.repo_id), store.previous(manifest.repo_id)),
    ):
        for revision, commit in pointing.items():
            if commit == manifest.commit:
                remove_durably(notes / revision)
    snapshot = store.snapshot(manifest)
    if snapshot.is_dir():
        make_directory(store.staging)
        gone = store.staging / f"{folder.name}--{manifest.commit}.gone"
        remove_tree(gone)
        snapshot.rename(gone)
        fsync_directory(snapshot.parent)
        remove_tree(gone)
    freed = _remove_blobs(store, manifest)
    for kind in ("pins", "checked", "used"):
        remove_durably(store.note(kind, manifest))
    remove_durably(store.note("removing", manifest))
    _remove_empty(store, folder)
    return freed


def finish_all(store: Store) -> None:
    """Finish the removals that were cut."""
    for manifest in store.all_noted("removing"):
        finish(store, manifest)


def _remove_blobs(store: Store, manifest: Manifest) -> int:
    """Remove the blobs that no other snapshot links, ours or anybody's, and no other manifest names."""
    folder = store.folder(manifest.repo_id)
    needed = blobs_linked(folder)
    for other in (*store.all_vouched(), *store.all_noted("withdrawn")):
        if other.repo_id == manifest.repo_id:
            needed |= set(other.blobs())
    freed = 0
    for name, file in manifest.blobs().items():
        size = store.blob_size(manifest, file)
        if name not in needed and size is not None:
            store.blob(manifest, file).unlink()
            freed += size
    if (folder / "blobs").is_dir():
        fsync_directory(folder / "blobs")
    return freed


def _remove_empty(store: Store, folder: Path) -> None:
    """Remove the directories that nothing is in any more."""
    kinds = ("manifests", "withdrawn", "removing", "pins", "checked", "used", "previous")
    below = [path for kind in kinds for path in _folders(store.own / kind / folder.name)]
    for path in (*below, *_folders(folder / "refs"), folder / "snapshots", folder / "blobs", folder):
        with contextlib.suppress(OSError):
            path.rmdir()


def _folders(folder: Path) -> list[Path]:
    """Return the folder and those in it, the deepest first."""
    return [*sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True), folder]
