"""Reading a rubric of one's own from a JSON or TOML file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from judge_client.errors import InputProblem
from judge_client.rubric import DEFAULT_RUBRIC, OVERALL, Criterion, Rubric, RubricProblem

REASON: Final = "RUBRIC_UNUSABLE"
HINT: Final = "docs/judge.md (A rubric of your own) shows one that works"
MAX_BYTES: Final = 64 * 1024

# A whole rubric file, as the documentation shows it.
EXAMPLE: Final = """\
# Which criteria the judge scores from 1 to 10, and how much each counts in the weighted score.
name = "support-replies"

[[criteria]]
name = "resolution"
question = "Does it solve the customer's problem?"
weight = 3
[criteria.levels]
1 = "solves nothing, or makes it worse"
5 = "a part of the problem is left"
10 = "the problem is solved"

[[criteria]]
name = "tone"
question = "Is it friendly and plain?"
[criteria.levels]
1 = "rude, or hard to understand"
10 = "friendly, short and clear"

# Optional: what the judge's score for the whole means. Its weight never counts.
[overall]
question = "Would you send it?"
[overall.levels]
1 = "no"
10 = "as it is"
"""

_RUBRIC_KEYS: Final = ("name", "criteria", "overall")
_CRITERION_KEYS: Final = ("name", "question", "weight", "levels")
_OVERALL_KEYS: Final = ("question", "levels")


def load_rubric(path: str | Path) -> Rubric:
    """Return the rubric in a file that ends in .json or .toml.

    Raises InputProblem (RUBRIC_UNUSABLE), which names file, key, what was found and what was wanted.
    """
    path = Path(path)
    try:
        return _rubric(_document(path))
    except RubricProblem as problem:
        raise InputProblem(f"{path}: {problem}", reason=REASON, hint=HINT) from None


def _document(path: Path) -> Mapping[str, Any]:
    """Return what the file says. Raises RubricProblem, InputProblem."""
    if path.suffix.lower() not in (".json", ".toml"):
        raise RubricProblem("the file's name", f"{path.name!r}, wanted one that ends in .json or .toml")
    text = _text(path)
    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        document = json.loads(text, object_pairs_hook=_unique)
    except RubricProblem:
        raise
    except RecursionError:
        raise RubricProblem("the file", "nested too deeply to be read, wanted a rubric") from None
    except ValueError as error:
        found = f"no {path.suffix[1:].upper()} ({error})"
        raise RubricProblem("the file", f"{found}, wanted a rubric") from None
    return _object("the file", document)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device, or a log, would not end
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        message = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise InputProblem(message, reason=REASON, hint="give the path of a rubric file") from None
    if len(content) > MAX_BYTES:
        raise RubricProblem("the file", f"longer than {MAX_BYTES} bytes, wanted a rubric")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RubricProblem("the file", f"no UTF-8 (byte {error.start} is 0x{content[error.start]:02x})") from None


def _rubric(document: Mapping[str, Any]) -> Rubric:
    _only(_RUBRIC_KEYS, document, "")
    criteria = _needed("criteria", document, "")
    if not isinstance(criteria, list):
        raise RubricProblem("criteria", f"{_kind(criteria)}, wanted a list")
    overall = DEFAULT_RUBRIC.overall
    if "overall" in document:
        told = _object("overall", document["overall"])
        _only(_OVERALL_KEYS, told, "overall.")
        overall = _criterion({**told, "name": OVERALL}, "overall")
    return Rubric(_needed("name", document, ""),
                  tuple(_criterion(_object(f"criteria[{position}]", one), f"criteria[{position}]")
                        for position, one in enumerate(criteria)),
                  replace(overall, weight=1.0))


def _criterion(document: Mapping[str, Any], place: str) -> Criterion:
    _only(_CRITERION_KEYS, document, f"{place}.")
    levels = _object(f"{place}.levels", _needed("levels", document, f"{place}."))
    try:
        return Criterion(_needed("name", document, f"{place}."), _needed("question", document, f"{place}."),
                         {_score(key): meaning for key, meaning in levels.items()}, document.get("weight", 1.0))
    except RubricProblem as problem:
        inner = problem.key if problem.key.startswith(place) else f"{place}.{problem.key}"
        raise RubricProblem(inner, problem.found) from None


def _score(key: str) -> Any:
    """Return the score that a key of `levels` stands for; any other key as it is, for Criterion to refuse."""
    return int(key) if key in {str(score) for score in range(1, 11)} else key


def _needed(key: str, document: Mapping[str, Any], place: str) -> Any:
    if key not in document:
        raise RubricProblem(f"{place}{key}", "not there, wanted it")
    return document[key]


def _only(known: tuple[str, ...], document: Mapping[str, Any], place: str) -> None:
    for key in document:
        if key not in known:
            raise RubricProblem(f"{place}{ascii(key)[1:-1][:40]}", f"no key of a rubric, wanted {', '.join(known)}")


def _object(key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RubricProblem(key, f"{_kind(value)}, wanted keys with values")
    return value


def _kind(value: object) -> str:
    kinds = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for position, key in enumerate(keys) if key in keys[:position])
        raise RubricProblem(ascii(twice)[1:-1][:40], "there twice, wanted once")
    return found
