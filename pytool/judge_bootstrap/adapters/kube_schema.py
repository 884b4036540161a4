"""Are these Kubernetes objects well-formed? Asked of the Kubernetes client's own models, where no API server can be."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from judge_bootstrap.adapters.objects import is_custom
from judge_bootstrap.core.problems import nearest

# The API server takes numbers for these, though the models call them strings.
_QUANTITIES = frozenset({"capacity", "limits", "requests", "sizeLimit"})
_PLAIN: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a string"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "datetime": ((str, datetime), "a time"),
}


def problems(objects: Sequence[Any]) -> list[str]:
    """Return every field that the API server would refuse: unknown ones, wrong types, required ones that are missing.

    Each is one line: the object, the path in it, what was found and what was wanted. No network is used. What only a
    cluster can tell (admission, quotas, values out of range) is not found here.
    """
    return [problem for index, item in enumerate(objects) for problem in _of_object(item, index)]


def _of_object(item: Any, index: int) -> list[str]:
    if not isinstance(item, Mapping):
        return [f"object {index + 1}: found {_shown(item)}, wanted an object"]
    version, kind = str(item.get("apiVersion")), str(item.get("kind"))
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    label = f"{kind}/{name}" if name else f"{kind} (object {index + 1}, without a name)"
    model = _model(version, kind)
    if model is None and is_custom(version):
        return [] if name else [f"{label}: metadata.name is missing"]  # only its own operator knows its fields
    if model is None:
        return [f"{label}: found apiVersion {version} with kind {kind}, which the Kubernetes API does not have"]
    missing = [] if name else [f"{label}: metadata.name is missing"]
    return missing + [f"{label}: {problem}" for problem in _of_model(item, model, "")]


def _model(version: str, kind: str) -> Any:
    """Return the client's model of a kind; None when that API version has no such kind."""
    from kubernetes import client  # lazy: 0.3 s

    group, _, version = version.rpartition("/")
    title = "".join(part.capitalize() for part in (group.removesuffix(".k8s.io") or "core").split("."))
    api = getattr(client, f"{title}{version.capitalize()}Api", None)
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
    if not any(hasattr(api, f"create_{scope}{snake}") for scope in ("", "namespaced_")):
        return None
    return getattr(client, f"{version.capitalize()}{kind}", None)


def _of_model(value: Mapping[str, Any], model: Any, path: str) -> list[str]:
    fields = {wire: name for name, wire in model.attribute_map.items()}
    found = []
    for key, content in value.items():
        if key not in fields:
            found.append(f"unknown field {path}{key}{nearest(str(key), fields)}")
        elif content is not None:  # the API server takes null for absent
            wanted = "object" if key in _QUANTITIES else model.openapi_types[fields[key]]
            found += _of_type(content, wanted, f"{path}{key}")
    return found + [f"{path}{wire} is missing" for wire in _required(model) if value.get(wire) is None]


@functools.cache
def _required(model: Any) -> tuple[str, ...]:
    """Return the fields that an object of this model must have: only the setters know them, by refusing None."""
    from kubernetes import client

    probe = object.__new__(model)
    probe.local_vars_configuration = client.Configuration()
    required = []
    for name, wire in model.attribute_map.items():
        try:
            setattr(probe, name, None)
        except ValueError:
            required.append(wire)
    return tuple(required)


def _of_type(value: Any, wanted: str, path: str) -> list[str]:
    from kubernetes import client

    container = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.+)[\])]", wanted)
    if container and container[1] == "list":
        if not isinstance(value, list):
            return [_wrong(path, value, "a list")]
        return [problem for at, entry in enumerate(value) for problem in _of_type(entry, container[2], f"{path}[{at}]")]
    if container:
        if not isinstance(value, Mapping):
            return [_wrong(path, value, "a mapping")]
        return [problem for key, entry in value.items() for problem in _of_type(entry, container[2], f"{path}.{key}")]
    if wanted in _PLAIN:
        types, words = _PLAIN[wanted]
        # To Python true is a number; to the API server it is not.
        fits = isinstance(value, types) and (wanted == "bool" or not isinstance(value, bool))
        return [] if fits else [_wrong(path, value, words)]
    if wanted == "object":
        return []
    if not isinstance(value, Mapping):
        return [_wrong(path, value, "a mapping")]
    return _of_model(value, getattr(client, wanted), f"{path}.")


def _wrong(path: str, value: Any, wanted: str) -> str:
    return f"{path}: found {_shown(value)}, wanted {wanted}"


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"
