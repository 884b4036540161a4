"""Small questions about Kubernetes objects in their JSON form. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def many(number: int, word: str) -> str:
    """Return a number of things in words: `1 pod`, `2 pods`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def name_of(item: Mapping[str, Any]) -> str:
    """Return the object's name."""
    return str(item["metadata"]["name"])


def conditions_of(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the conditions in the object's status."""
    return list((item.get("status") or {}).get("conditions") or [])


def condition(item: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """Return one condition of the object's status, None where it has none of that type."""
    return next((found for found in conditions_of(item) if found.get("type") == kind), None)


def moment(text: Any) -> datetime | None:
    """Return a time as the API server writes it, None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def seconds_since(text: Any, now: datetime) -> float | None:
    """Return the seconds from a time as the API server writes it until `now`, None where it is no time."""
    found = moment(text)
    return None if found is None else max(0.0, (now - found).total_seconds())
