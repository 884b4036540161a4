"""Read YAML and JSON that people wrote, strictly: one mapping, no key twice, and every failure as one line."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any, NoReturn

import yaml

# AppConfig allows 2 MB, but all settings together are below 2 kB: a larger body is some other document.
LARGEST_DOCUMENT_BYTES = 65_536


class InvalidDocument(Exception):
    """A text is not the document it should be; the message says what was found, in one line."""


class Vaulted:
    """A value that Ansible decrypts (`!vault`): present, and not ours to read."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with Ansible's tags, which refuses a key that stands twice (PyYAML keeps the last in silence)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice",
                                               problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _vaulted(_loader: _Loader, _node: yaml.Node) -> Vaulted:
    return Vaulted()


def _plain(loader: _Loader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None


for _tag in ("!vault", "!vault-encrypted"):
    _Loader.add_constructor(_tag, _vaulted)
_Loader.add_constructor("!unsafe", _plain)


def read_yaml_mapping(text: str) -> dict[str, Any]:
    """Return the mapping that the YAML `text` holds ({} for an empty file).

    Raises InvalidDocument for anything else.
    """
    try:
        # As Ansible does: what is JSON is read as JSON, where 1e3 is a number and a tab is a space.
        document = _json_of(text) if text.lstrip().startswith("{") else None
        if document is None:
            document = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InvalidDocument(f"{line}{_one_line(error.problem or error)}") from error
    except RecursionError as error:
        raise InvalidDocument("it is nested too deeply") from error
    # PyYAML lets through what its constructors raise: ValueError for the date 2001-99-99, KeyError for `!!bool x`, ...
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise InvalidDocument(f"it is not YAML that can be read ({_one_line(error)})") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidDocument(f"it holds a {type(document).__name__}, wanted: variables as `name: value`")
    odd = next((key for key in document if not isinstance(key, str)), None)
    if odd is not None:
        raise InvalidDocument(f"the name {_one_line(odd)} is no text, wanted: variables as `name: value`")
    return document


def _json_of(text: str) -> dict[str, Any] | None:
    """Return the JSON object that `text` holds, None when it is none."""
    try:
        found = json.loads(text, object_pairs_hook=_no_key_twice)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def read_json_object(body: bytes, *, largest: int = LARGEST_DOCUMENT_BYTES) -> dict[str, Any]:
    """Return the one JSON object that `body` holds. Raises InvalidDocument for anything else, a repeated key too."""
    if len(body) > largest:
        raise InvalidDocument(f"it has {len(body)} bytes, wanted: at most {largest}")
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InvalidDocument(f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InvalidDocument(f"it is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise InvalidDocument("it is nested too deeply") from error
    except ValueError as error:  # an integer of more than 4300 digits
        raise InvalidDocument(f"it has a number that cannot be read ({_one_line(error)})") from error
    if not isinstance(document, dict):
        raise InvalidDocument(f"it holds {_json_type(document)}, wanted: an object")
    return document


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidDocument(f"the key {key[:60]!a} stands twice in one object")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise InvalidDocument(f"{name} is not a JSON number")


def _json_type(value: object) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _one_line(value: object) -> str:
    return " ".join(ascii(str(value))[1:-1].replace("\\n", " ").split())[:160]
