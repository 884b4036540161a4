"""Kubernetes objects as files in a directory of their own, in the order in which they must be applied."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_bootstrap.core.errors import BootstrapError

# By this line a file is recognised as ours: any other file in the directory is left alone.
HEADER = "# Written by judge-bootstrap (role vllm_k8s); the next run writes over it.\n"


@dataclass(frozen=True)
class FileChange:
    """One file that is not as it should be; `before` None = it is not there, `after` None = it has to go."""

    path: Path
    before: str | None
    after: str | None


def contents(objects: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return {file name: YAML} of the objects. The number in front keeps their order for `kubectl apply -f DIR`."""
    import yaml

    return {
        f"{number:02d}-{item['kind'].lower()}-{item['metadata']['name']}.yaml":
            HEADER + yaml.safe_dump(dict(item), sort_keys=False)
        for number, item in enumerate(objects, start=1)
    }


def plan(directory: Path, wanted: Mapping[str, str]) -> list[FileChange]:
    """Return what has to change in `directory`; files of ours that are no longer wanted have to go. Writes nothing.

    Raises BootstrapError when the directory, or a file in it that is in our way, cannot be read or is not ours.
    """
    try:
        there = {path.name: path.read_text() for path in sorted(directory.glob("*.yaml"))} if directory.exists() else {}
    except (OSError, ValueError) as error:
        raise BootstrapError(f"cannot read {directory}: {error}", hint=f"ls -l {directory}") from error
    for name in wanted:
        if name in there and not there[name].startswith(HEADER):
            raise BootstrapError(f"{directory / name} is there and was not written by judge-bootstrap, wanted a "
                                 "directory for its manifests alone", hint="set vllm_k8s_render_dir to another one")
    changes = [FileChange(directory / name, there.get(name), text) for name, text in wanted.items()
               if there.get(name) != text]
    return changes + [FileChange(directory / name, text, None) for name, text in there.items()
                      if name not in wanted and text.startswith(HEADER)]


def apply(changes: Sequence[FileChange]) -> None:
    """Write the changes, each file in one step. Raises BootstrapError, naming the file, when one cannot be written."""
    for change in changes:
        staging = change.path.with_name(f".{change.path.name}.new")
        try:
            if change.after is None:
                change.path.unlink(missing_ok=True)
                continue
            change.path.parent.mkdir(parents=True, exist_ok=True)
            with staging.open("w") as file:
                file.write(change.after)
                file.flush()
                os.fsync(file.fileno())
            staging.replace(change.path)
        except OSError as error:
            raise BootstrapError(f"cannot write {change.path}: {error.strerror}",
                                 hint=f"ls -ld {change.path.parent}; df -h {change.path.parent}") from error
