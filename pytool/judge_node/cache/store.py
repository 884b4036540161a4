"""The store on disk: paths, what is complete, and publishing.

    STORE/models--ORG--NAME/blobs/ETAG                   0444, whole and verified under this name
    STORE/models--ORG--NAME/snapshots/COMMIT/PATH        relative link to the blob
    STORE/models--ORG--NAME/refs/REVISION                the commit, for tools that ask by branch
    STORE/.locks/judge-bootstrap/                        ours: OWN below
    OWN/manifests/FOLDER/COMMIT.json                     the manifest that vouches for the snapshot
    OWN/withdrawn/FOLDER/COMMIT.json                     it did, until wrong bytes were found
    OWN/removing/FOLDER/COMMIT.json                      it did, and its removal is under way
    OWN/pins/FOLDER/COMMIT.json                          kept on purpose, and why
    OWN/checked/FOLDER/COMMIT.json                       when it was checked, and what was found
    OWN/used/FOLDER/COMMIT                               its time is when the snapshot was last seen in use
    OWN/previous/FOLDER/REVISION                         the commit that the revision pointed at before
    OWN/unchanged/CRC                                    what it looked like when a sync left it (unchanged.py)
    OWN/{partial,staging,lock}                           never read by anybody else

A snapshot is complete only when the manifest that vouches for it is there AND every link and size agrees with it. The
order of a sync keeps that true at every instant: blobs durable, then the manifest, then the snapshot by one rename.
A removal goes the other way: nothing vouches any more, then the snapshot goes by one rename, then its blobs.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from ..disks.facts import Mount
from ..disks.sysfs import System
from ..files import fsync_directory, make_directory, read_file, write_file
from ..result import NodeError
from .manifest import MAX_BYTES, File, Manifest, parse

OWN_FOLDER = ".locks/judge-bootstrap"
COMMIT = re.compile(r"[0-9a-f]{40}")
_REF_MOST_BYTES = 4096


@dataclass(frozen=True)
class Problem:
    """Why a snapshot is not complete: a reason code and the evidence."""

    reason: str
    text: str
    path: str | None = None


class Store:
    """The paths of one store, and reads of it. Nothing here writes except the methods that say so."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # In .locks because the Hub's own tools take every other name up here for a repository, and warn when it is none
        # (huggingface_hub 2.4.0, scan_cache_dir); below .locks they only ever add a lock file of their own.
        self.own = root / OWN_FOLDER
        self.manifests = self.own / "manifests"
        self.withdrawn = self.own / "withdrawn"
        self.removing = self.own / "removing"
        self.partial = self.own / "partial"
        self.staging = self.own / "staging"
        self.lock = self.own / "lock"

    def folder(self, repo_id: str) -> Path:
        """Return the repository's folder, named as the Hub's own tools name it."""
        return self.root / ("models--" + repo_id.replace("/", "--"))

    def blob(self, manifest: Manifest, file: File) -> Path:
        """Return where the file's bytes belong."""
        return self.folder(manifest.repo_id) / "blobs" / file.blob

    def snapshot(self, manifest: Manifest) -> Path:
        """Return the directory that the pods mount."""
        return self.folder(manifest.repo_id) / "snapshots" / manifest.commit

    def vouch(self, manifest: Manifest) -> Path:
        """Return the path of the manifest copy that vouches for the snapshot."""
        return self.note("manifests", manifest)

    def note(self, kind: str, manifest: Manifest) -> Path:
        """Return the path of what we keep about the snapshot: its manifest, pin, check or use."""
        name = manifest.commit if kind == "used" else f"{manifest.commit}.json"
        return self.own / kind / self.folder(manifest.repo_id).name / name

    def ref(self, manifest: Manifest) -> Path | None:
        """Return the ref that a branch or tag needs; a revision that is the commit itself has none, as on the Hub."""
        if manifest.revision == manifest.commit or COMMIT.fullmatch(manifest.revision):
            return None
        return self.folder(manifest.repo_id) / "refs" / manifest.revision

    def manifest_file(self, manifest: Manifest) -> str:
        """Return where the manifest lies here, for the command that repairs the model; MANIFEST when it does not."""
        found = (self.note(kind, manifest) for kind in ("manifests", "withdrawn"))
        return next((str(path) for path in found if path.is_file()), "MANIFEST")

    def vouched(self, path: Path) -> Manifest | None:
        """Return the manifest stored at `path`, or None when it is missing or damaged: then nothing vouches."""
        try:
            return parse(read_file(path, MAX_BYTES))
        except (OSError, NodeError):
            return None

    def vouched_blobs(self, repo_id: str) -> dict[str, int]:
        """Return {name: size} of the blobs that any manifest of the repository vouches for; those were hashed once."""
        folder = self.manifests / self.folder(repo_id).name
        found: dict[str, int] = {}
        for path in sorted(folder.glob("*.json")):
            manifest = self.vouched(path)
            if manifest is not None and manifest.repo_id == repo_id:
                found.update({file.blob: file.size for file in manifest.files})
        return found

    def all_vouched(self) -> list[Manifest]:
        """Return every manifest that vouches for a snapshot."""
        return self.all_noted("manifests")

    def all_noted(self, kind: str) -> list[Manifest]:
        """Return every manifest kept as `kind`; one that lies under another's name says nothing."""
        found = ((path, self.vouched(path)) for path in sorted((self.own / kind).glob("*/*.json")))
        return [manifest for path, manifest in found if manifest is not None and self.note(kind, manifest) == path]

    def blob_size(self, manifest: Manifest, file: File) -> int | None:
        """Return the size of the blob, or None when there is no regular file of that name."""
        try:
            status = self.blob(manifest, file).lstat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def ref_is_right(self, manifest: Manifest) -> bool:
        """Return whether the branch or tag of the manifest points at its commit here."""
        ref = self.ref(manifest)
        return ref is None or _commit_in(ref) == manifest.commit

    def refs(self, repo_id: str) -> dict[str, str]:
        """Return {revision: commit} of the branches and tags of the repository here."""
        return _commits_below(self.folder(repo_id) / "refs")

    def previous(self, repo_id: str) -> dict[str, str]:
        """Return {revision: commit} of where its branches and tags pointed before."""
        return _commits_below(self.previous_folder(repo_id))

    def previous_folder(self, repo_id: str) -> Path:
        """Return the folder of the notes of where branches and tags pointed before."""
        return self.own / "previous" / self.folder(repo_id).name

    def check_no_links(self, manifest: Manifest) -> None:
        """Raise NodeError when a directory that a sync writes into is a link: root would write somewhere else."""
        folder, ref = self.folder(manifest.repo_id), self.ref(manifest)
        ends = [self.partial, self.staging, self.vouch(manifest).parent, folder / "blobs", folder / "snapshots"]
        if ref is not None:
            ends.append(ref.parent)
        for end in ends:
            for path in (end, *end.parents):
                if path == self.root:
                    break
                if path.is_symlink():
                    raise NodeError(
                        f"{path} is a symbolic link to {path.readlink()}, wanted a directory of the store",
                        reason="INTEGRITY_MISMATCH",
                        repair=f"ls -l {path}   # remove the link, then run again",
                    )

    def problems(self, manifest: Manifest) -> list[Problem]:
        """Return why the snapshot is not complete, by names, links and sizes alone; empty when it is."""
        vouched = self.vouched(self.vouch(manifest))
        if vouched is None:
            if self.vouched(self.note("withdrawn", manifest)) is not None:
                return [Problem("INTEGRITY_MISMATCH", "wrong bytes were found in it, and no sync has repaired it yet")]
            return [Problem("MODEL_INCOMPLETE", f"nothing vouches for {manifest.repo_id} at {manifest.commit[:12]}")]
        if set(vouched.files) != set(manifest.files):
            return [
                Problem("MODEL_INCOMPLETE", f"the store vouches for another list of files at {manifest.commit[:12]}")
            ]
        return self.snapshot_problems(manifest)

    def snapshot_problems(self, manifest: Manifest) -> list[Problem]:
        """Return what in the snapshot directory and its blobs differs from the manifest."""
        found: list[Problem] = []
        snapshot = self.snapshot(manifest)
        names = _listing(snapshot)
        if names is None:
            return [Problem("MODEL_INCOMPLETE", f"there is no snapshot {snapshot}")]
        for file in manifest.files:
            if file.path not in names:
                found.append(Problem("MODEL_INCOMPLETE", f"{file.path} is missing"))
                continue
            names.discard(file.path)
            link = snapshot / file.path
            if not link.is_symlink() or str(link.readlink()) != link_target(file):
                found.append(Problem("INTEGRITY_MISMATCH", f"{file.path} is not the link to its blob"))
                continue
            size = self.blob_size(manifest, file)
            if size is None:
                found.append(Problem("MODEL_INCOMPLETE", f"{file.path}: its blob is missing"))
            elif size != file.size:
                found.append(Problem("INTEGRITY_MISMATCH", f"{file.path} has {size} bytes, wanted {file.size}"))
        found += [
            Problem("INTEGRITY_MISMATCH", f"{name} is in the snapshot but not in the manifest")
            for name in sorted(names)
        ]
        return found

    def everything(self, manifest: Manifest) -> list[Path]:
        """Return every path that the completeness of a snapshot depends on: as long as none changes, it is complete."""
        snapshot = self.snapshot(manifest)
        folders = [Path(folder) for folder, _, _ in os.walk(snapshot)]
        links = [snapshot / file.path for file in manifest.files]
        blobs = [self.blob(manifest, file) for file in manifest.blobs().values()]
        ref = self.ref(manifest)
        return [self.vouch(manifest), *folders, *links, *blobs, *([] if ref is None else [ref])]

    def publish(self, manifest: Manifest) -> None:
        """Make the snapshot appear, complete, by one rename. All blobs must be durable. Writes."""
        snapshot = self.snapshot(manifest)
        staged = self.staging / f"{self.folder(manifest.repo_id).name}--{manifest.commit}"
        remove_tree(staged)
        for file in manifest.files:
            link = staged / file.path
            link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            link.symlink_to(link_target(file))
        for folder, _, _ in os.walk(staged):
            fsync_directory(Path(folder))
        make_directory(self.vouch(manifest).parent)
        write_file(self.vouch(manifest), manifest.canonical() + b"\n", 0o444)
        for kind in ("withdrawn", "removing", "checked"):  # vouched for anew: what was said before is of other bytes
            remove_durably(self.note(kind, manifest))
        make_directory(snapshot.parent)
        if snapshot.is_symlink() or snapshot.exists():
            # rename() cannot replace a directory with files in it. What is moved away was not complete, so nothing is
            # served from it; a program that has it open keeps it.
            aside = self.staging / f"{staged.name}.old"
            remove_tree(aside)
            snapshot.rename(aside)
        staged.rename(snapshot)
        fsync_directory(snapshot.parent)

    def point_ref(self, manifest: Manifest) -> None:
        """Point the branch or tag of the manifest at its commit. Writes."""
        if self.ref(manifest) is not None:
            self.point(manifest.repo_id, manifest.revision, manifest.commit)

    def point(self, repo_id: str, revision: str, commit: str) -> None:
        """Point a branch or tag at a commit by one rename, after a note of where it pointed. Writes."""
        ref = self.folder(repo_id) / "refs" / revision
        before = _commit_in(ref)
        if before is not None and before != commit:
            noted = self.previous_folder(repo_id) / revision
            make_directory(noted.parent)
            write_file(noted, before.encode())
        make_directory(ref.parent)
        make_directory(self.staging)
        # Not staged beside it: whatever lies below refs/ is a branch to the Hub's tools, and an empty one after a cut
        # makes them ignore the whole repository.
        staged = self.staging / f"{self.folder(repo_id).name}--ref"
        write_file(staged, commit.encode())
        staged.replace(ref)
        fsync_directory(ref.parent)

    def stop_vouching(self, repo_id: str, wrong: AbstractSet[str]) -> list[Manifest]:
        """Take back the word for every snapshot of the repository with one of the wrong blobs, until it is repaired.

        Returns them. The caller holds the lock. Writes.
        """
        found = [m for m in self.all_vouched() if m.repo_id == repo_id and not wrong.isdisjoint(m.blobs())]
        for manifest in found:
            self.move_note("manifests", "withdrawn", manifest)
        return found

    def move_note(self, before: str, after: str, manifest: Manifest) -> None:
        """Keep the manifest as another kind from now on, durably and by one rename. Writes."""
        old, new = self.note(before, manifest), self.note(after, manifest)
        make_directory(new.parent)
        old.rename(new)
        fsync_directory(new.parent)
        fsync_directory(old.parent)

    def clean(self, keep: AbstractSet[str] = frozenset()) -> None:
        """Remove what cut runs left, except the parts of the blobs to `keep`. The caller holds the lock. Writes."""
        for folder in (self.partial, self.staging):
            for path in sorted(folder.glob("*")):
                if folder == self.staging or path.name.partition(".")[0] not in keep:
                    remove_tree(path)


def link_target(file: File) -> str:
    """Return the link from the snapshot to the blob; relative, because pods mount the store at another path."""
    return "../" * (file.path.count("/") + 2) + "blobs/" + file.blob


def _listing(folder: Path) -> set[str] | None:
    """Return the relative paths of everything in `folder` that is not a directory, or None when there is no folder."""
    if folder.is_symlink() or not folder.is_dir():
        return None
    found = set()
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        found |= {os.path.relpath(os.path.join(parent, name), folder) for name in files + links}  # noqa: PTH118
    return found


def _commit_in(path: Path) -> str | None:
    """Return the commit that a ref holds, or None."""
    try:
        said = read_file(path, _REF_MOST_BYTES).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return said if COMMIT.fullmatch(said) else None


def _commits_below(folder: Path) -> dict[str, str]:
    found = {}
    for name in sorted(_listing(folder) or ()):
        commit = _commit_in(folder / name)
        if commit is not None and not name.rpartition("/")[2].startswith("."):
            found[name] = commit
    return found


def remove_durably(path: Path) -> None:
    """Remove a file durably, if it is there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    fsync_directory(path.parent)


def blobs_linked(folder: Path) -> set[str]:
    """Return the blobs that any snapshot of a repository's folder links, whoever made it."""
    found = set()
    for parent, folders, files in os.walk(folder / "snapshots"):
        for path in (Path(parent) / name for name in folders + files):
            if path.is_symlink():
                found.add(path.readlink().name)
    return found


def remove_tree(path: Path) -> None:
    """Remove whatever is there; a link itself, not what it leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def check_not_on_root(root: Path, system: System | None = None) -> str | None:
    """Return None when `root` is on another filesystem than /, else what was found.

    Asked of the mounts, and of the nearest directory that exists: on a node without its disk the path is just a
    directory of the root filesystem, and a model would fill that.
    """
    existing = root
    while not existing.exists():
        existing = existing.parent
    mounts = (system or System()).mounts()
    holding = _mount_of(Path(os.path.realpath(existing)), mounts)
    top = _mount_of(Path("/"), mounts)
    if holding is None or top is None:
        return "the mounts of this node cannot be read"
    if existing.stat().st_dev == Path("/").stat().st_dev or holding.devno == top.devno:
        return f"{root} is on the root filesystem ({top.source})"
    return None


def _mount_of(path: Path, mounts: tuple[Mount, ...]) -> Mount | None:
    """Return the mount that holds `path`: the last one of the longest path that is above it."""
    above = [
        mount for mount in mounts if mount.path == "/" or path == Path(mount.path) or Path(mount.path) in path.parents
    ]
    return max(enumerate(above), key=lambda pair: (len(pair[1].path.rstrip("/")), pair[0]))[1] if above else None
