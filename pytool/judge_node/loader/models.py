"""The models that the cluster wants on its nodes: manifests in a folder, which a ConfigMap fills and changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..cache.manifest import MAX_BYTES, Manifest, parse
from ..result import NodeError

WANTED, NEXT, PREVIOUS = "wanted.json", "next.json", "previous.json"


@dataclass(frozen=True)
class Models:
    """What to serve; what to have ready beside it; and what was served before, which is kept but not fetched."""

    wanted: Manifest
    next: Manifest | None = None
    previous: Manifest | None = None

    def listed(self) -> list[Manifest]:
        """Return them, the one to serve first, each commit once."""
        found = [m for m in (self.wanted, self.next, self.previous) if m is not None]
        return list({manifest.commit: manifest for manifest in reversed(found)}.values())[::-1]


class Folder:
    """The folder. Its files are links that kubelet switches all at once; a few small files are read at each look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, bytes] | None = None

    def changed(self) -> bool:
        """Return whether the files differ from those that read() took up last."""
        return self._contents() != self._seen

    def read(self) -> Models:
        """Return the models. Raises NodeError for what is no manifest; the same contents are read again at will."""
        self._seen = self._contents()
        if WANTED not in self._seen:
            raise NodeError(
                f"there is no {self._path / WANTED}",
                repair="kubectl get configmap judge-loader-models -o yaml   # the vllm_k8s role writes it",
            )
        found = {name: self._parse(name, data) for name, data in self._seen.items()}
        return Models(found[WANTED], found.get(NEXT), found.get(PREVIOUS))

    def _parse(self, name: str, data: bytes) -> Manifest:
        try:
            return parse(data)
        except NodeError as error:
            raise NodeError(f"{self._path / name}: {error.message}", reason=error.reason, repair=error.repair) from None

    def _contents(self) -> dict[str, bytes]:
        found = {}
        for name in (WANTED, NEXT, PREVIOUS):
            try:
                with (self._path / name).open("rb") as file:
                    found[name] = file.read(MAX_BYTES + 1)
            except FileNotFoundError:
                continue
        return found
