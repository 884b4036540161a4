"""The gateway's configuration: one JSON file, read once at start.

Every key is wanted and no other is taken: a word that is missing or misspelt must not mean "open".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT_NAME = "JUDGE_GATEWAY_CONFIG"
SCHEMA = 1
# A ConfigMap holds 1 MiB at most.
LARGEST_BYTES = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_KEYS = (
    "schema", "served_name", "commit", "manifest_digest", "repo_id", "image", "api_key_file", "max_body_bytes",
    "golden",
)


class ConfigError(ValueError):
    """The configuration cannot be used; the message says where, what was found and what was wanted."""


@dataclass(frozen=True)
class GoldenItem:
    """One fixed question. `accepted`: its scores by criterion, or None where any valid verdict will do."""

    id: str
    request: Mapping[str, Any]
    accepted: Mapping[str, int] | None


@dataclass(frozen=True)
class GatewayConfig:
    """What the gateway serves and guards. `api_key_file` None means open to everyone who reaches the port."""

    served_name: str
    commit: str
    manifest_digest: str
    repo_id: str
    image: str
    api_key_file: str | None
    max_body_bytes: int
    tolerance: float
    items: tuple[GoldenItem, ...]

    def provenance(self) -> dict[str, str]:
        """Return what a verdict of this server stands on, as GET /judge/provenance answers it."""
        return {
            "repo_id": self.repo_id,
            "commit": self.commit,
            "manifest_digest": self.manifest_digest,
            "served_name": self.served_name,
            "image": self.image,
        }


def load(path: str | None) -> GatewayConfig:
    """Read the file that JUDGE_GATEWAY_CONFIG names. Raises ConfigError, in one line, for anything but a good one."""
    if not path:
        raise ConfigError(f"{ENVIRONMENT_NAME} is not set, wanted the path of gateway.json")
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}, wanted gateway.json") from None
    if len(content) > LARGEST_BYTES:
        raise ConfigError(f"{path}: more than {LARGEST_BYTES} bytes, wanted gateway.json")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no JSON: {error}") from None
    try:
        return parse(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(document: Any) -> GatewayConfig:
    """Return the configuration in a parsed gateway.json. Raises ConfigError."""
    _expect_keys(document, _KEYS, "the configuration")
    if type(document["schema"]) is not int or document["schema"] != SCHEMA:
        raise ConfigError(f"schema is {_shown(document['schema'])}, wanted {SCHEMA}")
    commit = _text(document, "commit")
    if not _COMMIT.fullmatch(commit):
        raise ConfigError(f"commit is {_shown(commit)}, wanted 40 hexadecimal digits")
    key_file = document["api_key_file"]
    if key_file is not None and (not isinstance(key_file, str) or not key_file.startswith("/")):
        raise ConfigError(f"api_key_file is {_shown(key_file)}, wanted an absolute path, or null for no key at all")
    limit = document["max_body_bytes"]
    if type(limit) is not int or limit < 1:
        raise ConfigError(f"max_body_bytes is {_shown(limit)}, wanted a positive integer")
    served_name = _text(document, "served_name")
    golden = document["golden"]
    _expect_keys(golden, ("tolerance", "items"), "golden")
    return GatewayConfig(
        served_name=served_name,
        commit=commit,
        manifest_digest=_text(document, "manifest_digest"),
        repo_id=_text(document, "repo_id"),
        image=_text(document, "image"),
        api_key_file=key_file,
        max_body_bytes=limit,
        tolerance=_tolerance(golden["tolerance"]),
        items=_items(golden["items"], served_name),
    )


def _tolerance(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"golden.tolerance is {_shown(value)}, wanted a number of at least 0")
    return float(value)


def _items(value: Any, served_name: str) -> tuple[GoldenItem, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"golden.items is {_shown(value)}, wanted a list of at least one")
    found: dict[str, GoldenItem] = {}
    for position, item in enumerate(value):
        where = f"golden.items[{position}]"
        _expect_keys(item, ("id", "request", "accepted"), where)
        name, request, accepted = item["id"], item["request"], item["accepted"]
        if not isinstance(name, str) or not name or name in found:
            raise ConfigError(f"{where}.id is {_shown(name)}, wanted a name that no other item has")
        if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
            raise ConfigError(f"{where}.request is {_shown(request)}, wanted the body of a chat completion")
        if request.get("model") != served_name or request.get("stream"):
            asked = f"model {_shown(request.get('model'))}, stream {_shown(request.get('stream'))}"
            raise ConfigError(f"{where}.request has {asked}, wanted {served_name!r} and no stream")
        found[name] = GoldenItem(name, request, _accepted(accepted, where))
    return tuple(found.values())


def _accepted(value: Any, where: str) -> Mapping[str, int] | None:
    if value is None:
        return None
    # bool is a subclass of int: `true` is no score.
    if not isinstance(value, dict) or not value or any(type(score) is not int for score in value.values()):
        raise ConfigError(f"{where}.accepted is {_shown(value)}, wanted an integer for each criterion, or null")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document[key]
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} is {_shown(value)}, wanted a text")
    return value


def _expect_keys(value: Any, names: tuple[str, ...], what: str) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{what} is {_shown(value)}, wanted an object with {', '.join(names)}")
    missing = [name for name in names if name not in value]
    extra = sorted(str(name)[:40] for name in value if name not in names)
    if missing or extra:
        found = [*(f"no {name}" for name in missing), *(f"unknown {name!r}" for name in extra)]
        raise ConfigError(f"{what} has {', '.join(found)}, wanted exactly {', '.join(names)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
