"""The tags that playbooks have. Ansible takes an unknown one without a word, and a run of no task is green."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.problems import nearest, shown

# Ansible's own: https://docs.ansible.com/ansible/latest/playbook_guide/playbooks_tags.html
SPECIAL = frozenset({"all", "always", "never", "tagged", "untagged"})


def check_tags(root: Path, playbooks: Sequence[Path], given: Iterable[str | None]) -> None:
    """Raise UsageProblem, naming the known tags, for a tag in one of the comma-separated lists that no task has."""
    wanted = [tag.strip() for text in given if text is not None for tag in text.split(",")]
    if not wanted:
        return
    known = known_tags(root, playbooks)
    for tag in wanted:
        if tag not in known and tag not in SPECIAL:
            names = ", ".join(playbook.stem for playbook in playbooks)
            raise UsageProblem(f"unknown tag {shown(tag)}; {names} has {', '.join(sorted(known)) or 'no tags'}"
                               f"{nearest(tag, known)}",
                               hint="leave the tags out, or name single links: judge-bootstrap run --help")


def known_tags(root: Path, playbooks: Iterable[Path]) -> set[str]:
    """Return the tags of the playbooks, of those that they import, and of all roles' tasks."""
    found: set[str] = set()
    waiting, seen = [*playbooks, *root.glob("roles/*/tasks/*.yml")], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for item in _mappings(_load(path)):
            tags = item.get("tags") or []
            found |= {str(tag).strip() for text in (tags if isinstance(tags, list) else [tags])
                      for tag in str(text).split(",")}
            imported = item.get("ansible.builtin.import_playbook") or item.get("import_playbook")
            if isinstance(imported, str):
                waiting.append(path.parent / imported)
    return found - SPECIAL


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # Ansible says what is wrong with it


def _mappings(value: Any) -> Iterator[dict[Any, Any]]:
    """Yield every mapping in a document: plays, tasks, blocks."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _mappings(item)
