"""What a store holds: its models with all that is noted about them, what is not ours, and what links which blob.

Nothing here writes, and nothing here looks at processes (that is usage.py).
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..disks.facts import ADOPTED_FOLDER, MARKER_MOST_BYTES, MARKER_NAME
from ..disks.sysfs import System
from ..files import read_file
from ..result import NodeError
from .manifest import Manifest
from .store import OWN_FOLDER, Problem, Store

COMPLETE, INCOMPLETE, CORRUPT = "complete", "incomplete", "corrupt"
_NOTE_MOST_BYTES = 1 << 20
_STORE_DEPTHS = ("", "*/", "*/*/")
_NAME = re.compile(r"(?P<repo>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<commit>[0-9a-f]{7,40}))?", re.ASCII)
# A blob of ours has this mode; the Hub's own tools leave theirs writable, and link them a moment after they appear.
_BLOB_MODE = 0o444

Key = tuple[str, str]  # repository and commit


@dataclass(frozen=True)
class Checked:
    """When the model was checked (epoch seconds), and what the last check found."""

    quick_at: float | None = None
    deep_at: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """One snapshot that a manifest of ours stands for. Times are epoch seconds.

    `vouched` is False once wrong bytes were found: nothing is served from it until a sync has repaired it. `current`
    and `previous` are the revisions that point at it and that did before; `newest` says that it was published last in a
    repository to which no revision points (its manifest names a commit).
    """

    manifest: Manifest
    vouched: bool
    problems: tuple[Problem, ...] = ()
    current: tuple[str, ...] = ()
    previous: tuple[str, ...] = ()
    newest: bool = False
    pinned: str | None = None
    checked: Checked = Checked()
    published_at: float = 0
    used_at: float | None = None
    unique_bytes: int = 0

    @property
    def key(self) -> Key:
        """Repository and commit."""
        return self.manifest.repo_id, self.manifest.commit

    @property
    def name(self) -> str:
        """Repository and short commit, for people."""
        return f"{self.manifest.repo_id} at {self.manifest.commit[:12]}"

    @property
    def state(self) -> str:
        """complete, incomplete or corrupt."""
        if not self.vouched:
            return CORRUPT
        return INCOMPLETE if self.problems else COMPLETE

    @property
    def last_used_at(self) -> float:
        """When it was last seen in use, or when it came."""
        return max(self.published_at, self.used_at or 0)


@dataclass(frozen=True)
class Foreign:
    """A snapshot that no manifest of ours stands for: somebody else's, or one whose manifest is damaged."""

    folder: str
    commit: str
    size_bytes: int


@dataclass(frozen=True)
class Leftover:
    """A file that a cut run of ours left and that no snapshot needs."""

    path: Path
    size_bytes: int
    changed_at: float


@dataclass(frozen=True)
class Catalog:
    """All of one store. `holders` names for each repository folder and blob the commits that need the blob."""

    store: Store
    models: tuple[Model, ...]
    foreign: tuple[Foreign, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    damaged: tuple[Path, ...] = ()
    holders: dict[str, dict[str, frozenset[str]]] = field(default_factory=dict)
    blob_bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    size_bytes: int = 0

    def named(self, text: str) -> list[Model]:
        """Return the models that REPO or REPO@COMMIT (or its first 7 digits) means. Raises NodeError (wrong usage)."""
        repo_id, commit = split_name(text)
        return [m for m in self.models if m.manifest.repo_id == repo_id and m.manifest.commit.startswith(commit or "")]

    def one(self, text: str, models: Iterable[Model] | None = None) -> Model:
        """Return the one model that REPO[@COMMIT] means. Raises NodeError when none or several do."""
        found = self.named(text) if models is None else list(models)
        if not found:
            here = ", ".join(sorted({m.manifest.repo_id for m in self.models})) or "none"
            raise NodeError(
                f"{self.store.root} has no model {text}; it has {here}",
                repair=f"judge-node cache list --store {self.store.root}",
            )
        if len(found) > 1:
            names = ", ".join(sorted(m.manifest.commit[:12] for m in found))
            raise NodeError(
                f"{text} means {len(found)} models: {names}", repair=f"name one, as {split_name(text)[0]}@COMMIT"
            )
        return found[0]


def model_file(store: Store, model: Model) -> str:
    """Return what `cache sync` is to be given to repair the model: its manifest here, and no move of the branch."""
    return store.manifest_file(model.manifest) + ("" if model.current else " --stage")


def split_name(text: str) -> tuple[str, str | None]:
    """Return (repo_id, commit or its first digits) of REPO[@COMMIT]. Raises NodeError (wrong usage)."""
    found = _NAME.fullmatch(text)
    if found is None:
        raise NodeError(
            f"the model is {text[:120]!r}, wanted ORG/NAME or ORG/NAME@COMMIT (7 to 40 hex digits)",
            repair="judge-node cache list",
        )
    return found["repo"], found["commit"]


def open_store(root: Path) -> Store:
    """Return the store at `root`. Raises NodeError MOUNT_MISSING when there is none."""
    store = Store(root)
    if not store.own.is_dir():
        raise NodeError(
            f"there is no model store at {root} (it has no {OWN_FOLDER})",
            reason="MOUNT_MISSING",
            repair="judge-node status   # is its disk mounted? a first `judge-node cache sync` makes the store",
        )
    return store


def marked_mounts(system: System | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Return (path, marker) of every mounted filesystem that carries our marker."""
    ours = ("/", f"/{ADOPTED_FOLDER}")
    paths = sorted({mount.path for mount in (system or System()).mounts() if mount.root in ours})
    found = ((path, _marker(Path(path))) for path in paths)
    return [(path, marker) for path, marker in found if marker is not None]


def stores_below(path: str) -> list[Path]:
    """Return the roots of the stores on a mounted filesystem, which lie at most two folders deep."""
    return sorted({own.parents[1] for depth in _STORE_DEPTHS for own in Path(path).glob(depth + OWN_FOLDER)})


def find_store(system: System | None = None) -> Path:
    """Return the one store of this node. Raises NodeError when there is none, or more than one."""
    found = [root for path, _ in marked_mounts(system) for root in stores_below(path)]
    if not found:
        raise NodeError(
            "found no model store on a filesystem with our marker", reason="MOUNT_MISSING", repair="judge-node status"
        )
    if len(found) > 1:
        raise NodeError(
            f"found {len(found)} model stores: {', '.join(map(str, found))}", repair=f"name one: --store {found[0]}"
        )
    return found[0]


def read_catalog(store: Store) -> Catalog:
    """Read everything about the store, without a byte of a blob."""
    vouched = store.all_vouched()
    keys = {(m.repo_id, m.commit) for m in vouched}
    withdrawn = [m for m in store.all_noted("withdrawn") if (m.repo_id, m.commit) not in keys]
    ours = {(store.folder(m.repo_id).name, m.commit) for m in (*vouched, *withdrawn, *store.all_noted("removing"))}
    holders: dict[str, dict[str, set[str]]] = {}
    blob_bytes: dict[str, dict[str, int]] = {}
    foreign: list[Foreign] = []
    leftovers = list(_partials(store))
    other_bytes, owner = 0, store.own.stat().st_uid
    for folder in sorted(store.root.glob("models--*")):
        if folder.is_symlink() or not folder.is_dir():
            continue
        found = _files_below(folder / "blobs")
        sizes = blob_bytes[folder.name] = {name: status.st_size for name, status in found.items()}
        links = holders[folder.name] = {}
        for snapshot in _directories(folder / "snapshots"):
            blobs, own_bytes = _links_of(snapshot)
            other_bytes += own_bytes
            for name in blobs:
                links.setdefault(name, set()).add(snapshot.name)
            if (folder.name, snapshot.name) not in ours:
                size = own_bytes + sum(sizes.get(name, 0) for name in blobs)
                foreign.append(Foreign(folder.name, snapshot.name, size))
        for manifest in (*vouched, *withdrawn):
            if store.folder(manifest.repo_id) == folder:
                for name in manifest.blobs():
                    links.setdefault(name, set()).add(manifest.commit)
        leftovers += [
            Leftover(folder / "blobs" / name, status.st_size, status.st_mtime)
            for name, status in found.items()
            if name not in links and stat.S_IMODE(status.st_mode) == _BLOB_MODE and status.st_uid == owner
        ]
    models = [_model(store, m, True) for m in vouched] + [_model(store, m, False) for m in withdrawn]
    models = [replace(m, unique_bytes=_unique_bytes(store, m, holders)) for m in _with_newest(models)]
    size = sum(sum(sizes.values()) for sizes in blob_bytes.values()) + other_bytes
    return Catalog(
        store=store,
        models=tuple(sorted(models, key=lambda m: (m.manifest.repo_id, -m.published_at, m.manifest.commit))),
        foreign=tuple(foreign),
        leftovers=tuple(leftovers),
        damaged=_damaged(store),
        holders={folder: {name: frozenset(c) for name, c in links.items()} for folder, links in holders.items()},
        blob_bytes=blob_bytes,
        size_bytes=size + sum(path.size_bytes for path in leftovers if path.path.parent == store.partial),
    )


def _model(store: Store, manifest: Manifest, vouched: bool) -> Model:
    note = store.note("manifests" if vouched else "withdrawn", manifest)
    return Model(
        manifest=manifest,
        vouched=vouched,
        problems=tuple(store.snapshot_problems(manifest)),
        current=_pointing(store.refs(manifest.repo_id), manifest.commit),
        previous=_pointing(store.previous(manifest.repo_id), manifest.commit),
        pinned=_pin(store, manifest),
        checked=read_checked(store, manifest),
        published_at=_changed_at(note) or 0,
        used_at=_changed_at(store.note("used", manifest)),
    )


def _with_newest(models: list[Model]) -> list[Model]:
    """Mark the last published model of each repository to which no revision points: that is what is wanted here."""
    pointed = {m.manifest.repo_id for m in models if m.current}
    newest: dict[str, Model] = {}
    for model in models:
        other = newest.get(model.manifest.repo_id)
        if other is None or model.published_at > other.published_at:
            newest[model.manifest.repo_id] = model
    return [
        replace(m, newest=m.manifest.repo_id not in pointed and newest[m.manifest.repo_id] is m) for m in models
    ]


def _pointing(revisions: dict[str, str], commit: str) -> tuple[str, ...]:
    return tuple(revision for revision, pointed in sorted(revisions.items()) if pointed == commit)


def _pin(store: Store, manifest: Manifest) -> str | None:
    path = store.note("pins", manifest)
    if not path.is_file():
        return None
    why = _read_note(path).get("why")  # a pin that cannot be read is one all the same
    return why if isinstance(why, str) else ""


def read_checked(store: Store, manifest: Manifest) -> Checked:
    """Return the note of the last checks; one that is missing or damaged says that there was none."""
    said = _read_note(store.note("checked", manifest))
    problems = said.get("problems")
    return Checked(
        quick_at=_time(said.get("quick_at")),
        deep_at=_time(said.get("deep_at")),
        problems=tuple(str(text) for text in problems) if isinstance(problems, list) else (),
    )


def _time(found: Any) -> float | None:
    return float(found) if type(found) in (int, float) and 0 <= found < 1 << 40 else None


def _read_note(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(read_file(path, _NOTE_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _changed_at(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except OSError:
        return None


def _damaged(store: Store) -> tuple[Path, ...]:
    """Return the manifests that cannot be read, or that lie under another's name: they vouch for nothing."""
    found = ((path, store.vouched(path)) for path in sorted(store.manifests.glob("*/*.json")))
    return tuple(path for path, manifest in found if manifest is None or store.vouch(manifest) != path)


def _unique_bytes(store: Store, model: Model, holders: dict[str, dict[str, set[str]]]) -> int:
    links = holders.get(store.folder(model.manifest.repo_id).name, {})
    alone = {model.manifest.commit}
    return sum(file.size for name, file in model.manifest.blobs().items() if links.get(name, alone) == alone)


def _links_of(snapshot: Path) -> tuple[set[str], int]:
    """Return the blobs that a snapshot links, and the bytes of the files in it that are no links."""
    names, size = set(), 0
    for parent, folders, files in os.walk(snapshot):
        for name in files + folders:
            path = Path(parent) / name
            if path.is_symlink():
                names.add(path.readlink().name)
            elif name in files:
                size += path.lstat().st_size
    return names, size


def _partials(store: Store) -> Iterable[Leftover]:
    for name, status in _files_below(store.partial).items():
        yield Leftover(store.partial / name, status.st_size, status.st_mtime)


def _files_below(folder: Path) -> dict[str, os.stat_result]:
    """Return the regular files in `folder` itself."""
    found = {}
    if not folder.is_symlink() and folder.is_dir():
        for entry in os.scandir(folder):
            try:
                if entry.is_file(follow_symlinks=False):
                    found[entry.name] = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # a sync has just renamed it
    return found


def _directories(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _marker(root: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(read_file(root / MARKER_NAME, MARKER_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return (
        {key: said.get(key) for key in ("fs_uuid", "serial", "serials", "adopted_from", "size_bytes", "made_at")}
        if isinstance(said, dict)
        else None
    )
