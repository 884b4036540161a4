"""Gold: answers with the scores that people gave them, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from judge_client.errors import InputProblem
from judge_client.files import read_whole
from judge_client.rubric import CRITERION_NAMES, HIGHEST, LOWEST, Rubric

UNUSABLE: Final = "GOLD_UNUSABLE"
LARGEST_BYTES: Final = 256 * 1024 * 1024
BUILT_IN_NAME: Final = "built-in"

_LINE: Final = ('{"id": "a1", "original_prompt": "...", "model_response": "...", '
                '"scores": {"accuracy": 8, ...}}')
_TEXTS: Final = {"original_prompt": "prompt", "model_response": "response"}


@dataclass(frozen=True)
class GoldItem:
    """An answer and the scores it deserves, by criterion, overall included. `note` says why, for people.

    `line` is where it stands in its file.
    """

    id: str
    original_prompt: str
    model_response: str
    scores: Mapping[str, int]
    note: str = ""
    line: int = field(default=0, compare=False)


def built_in_gold() -> tuple[GoldItem, ...]:
    """Return the gold set that comes with the client, for the default rubric; gold/README.md says where it is from."""
    content = (resources.files("judge_client") / "gold" / "answer-quality.jsonl").read_bytes()
    return parse_gold(content, BUILT_IN_NAME, CRITERION_NAMES)


def read_gold(path: Path | str, names: Sequence[str] | None = None) -> tuple[GoldItem, ...]:
    """Return the items of a gold file. Each has a score for each of `names` (None: for those of the first line).

    Raises InputProblem GOLD_UNUSABLE, which names the line.
    """
    try:
        content = read_whole(Path(path), LARGEST_BYTES)
    except ValueError as error:
        raise _problem(str(path), str(error)) from error
    return parse_gold(content, str(path), names)


def parse_gold(content: bytes, name: str, names: Sequence[str] | None = None) -> tuple[GoldItem, ...]:
    """Return the items in a gold file's bytes; messages call the file `name`. Raises InputProblem GOLD_UNUSABLE."""
    items: list[GoldItem] = []
    lines: dict[str, int] = {}
    # Not splitlines(): it would also cut at characters that JSON allows within a text.
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        where = f"{name} line {number}"
        item = _item(_object(raw, where), where, number, names)
        if item.id in lines:
            raise _problem(where, f"the id {item.id[:60]!r} stands in line {lines[item.id]}, too")
        lines[item.id] = number
        names = names or tuple(item.scores)
        items.append(item)
    if not items:
        raise _problem(name, "holds no item")
    return tuple(items)


def check_criteria(items: Sequence[GoldItem], name: str, rubric: Rubric) -> None:
    """Raise InputProblem GOLD_UNUSABLE unless every item has a score for each criterion of the rubric, and no other."""
    for item in items:
        if found := _other_names(item.scores, rubric.names):
            raise InputProblem(f"{name} line {item.line}: {found}",
                               reason=UNUSABLE, hint=f"give a GOLD.jsonl with the scores of the rubric {rubric.name!r}")


def gold_digest(items: Sequence[GoldItem]) -> str:
    """Return the sha256 of what is judged: ids and texts in any order. A corrected score is still the same set."""
    told = sorted([item.id, item.original_prompt, item.model_response] for item in items)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _object(raw: bytes, where: str) -> Mapping[str, Any]:
    try:
        document = json.loads(raw.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise _problem(where, f"is not UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise _problem(where, f"is not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise _problem(where, f"is not JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise _problem(where, f"is no object but {str(document)[:40]!r}")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice: JSON parsers keep one of its values and say nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:60]!r} stands twice")
    return found


def _item(document: Mapping[str, Any], where: str, number: int, names: Sequence[str] | None) -> GoldItem:
    texts = {}
    for name, alias in _TEXTS.items():
        text = document.get(name, document.get(alias))
        if not isinstance(text, str):
            raise _problem(where, f"{name} is missing" if text is None else f"{name} is no text")
        texts[name] = text
    identity = document.get("id", number)
    if not isinstance(identity, str | int) or isinstance(identity, bool) or not str(identity).strip():
        raise _problem(where, f"id is {identity!r}, wanted a text")
    scores = document.get("scores")
    if not isinstance(scores, Mapping) or not scores:
        raise _problem(where, "scores is missing: an object with a score for each criterion")
    _check_scores(scores, where, names)
    note = document.get("note")
    return GoldItem(str(identity), **texts, scores=dict(scores), note=note if isinstance(note, str) else "",
                    line=number)


def _check_scores(scores: Mapping[str, Any], where: str, names: Sequence[str] | None) -> None:
    if names is not None and (found := _other_names(scores, names)):
        raise _problem(where, found)
    for name, score in scores.items():
        # bool is a subclass of int: `true` is no score.
        if type(score) is not int or not LOWEST <= score <= HIGHEST:
            raise _problem(where, f"scores.{name[:60]} is {str(score)[:40]!r}, wanted an integer from {LOWEST} to "
                                  f"{HIGHEST}")


def _other_names(scores: Mapping[str, Any], names: Sequence[str]) -> str | None:
    missing = [name for name in names if name not in scores]
    unknown = [name[:60] for name in scores if name not in names]
    if not missing and not unknown:
        return None
    found = " and ".join(filter(None, [f"no score for {', '.join(missing)}" if missing else "",
                                       f"scores for {', '.join(unknown)}" if unknown else ""]))
    return f"has {found}; wanted scores for exactly {', '.join(names)}"


def _problem(where: str, found: str) -> InputProblem:
    return InputProblem(f"{where}: {found}", reason=UNUSABLE, hint=f"one JSON object a line, as in {_LINE}")
