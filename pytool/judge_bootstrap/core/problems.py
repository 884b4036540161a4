"""What is wrong with a settings document, in words: the key's path, what was found, what is wanted, the nearest key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from judge_bootstrap.core.redact import redactor
from judge_bootstrap.core.schema import FIELDS, ROOT, SECTIONS, Document

_SHOWN_CHARACTERS = 60
_SHOWN_PROBLEMS = 3
_TYPE_WORDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "a text"),
    (type(None), "null"), (Mapping, "an object"), ((list, tuple), "a list"))


def shown(value: Any) -> str:
    """Return `value` as JSON in one line of plain signs, cut to a readable length, with credentials masked."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = f"({type_words(value)})"
    # Masked before it is cut: half a token no longer looks like one.
    text = redactor().clean(text)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def one_line(value: object, longest: int = 300) -> str:
    """Return a foreign message as one line of `longest` characters at most, without signs that a terminal obeys."""
    text = " ".join(str(value).split()) or type(value).__name__
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text[:longest + 1])
    return text if len(text) <= longest else text[:longest] + "..."


def type_words(value: Any) -> str:
    """Return the name of a value's type as a person says it."""
    return next((word for kind, word in _TYPE_WORDS if isinstance(value, kind)), f"a {type(value).__name__}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest of `known`, or an empty text."""
    close = get_close_matches(word[:200], list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a document: the path of the key below `judge_inference`, and what a person reads."""

    path: str
    text: str


def in_one_line(problems: list[Problem]) -> str:
    """Return the first problems as one line, with a count of the others."""
    more = len(problems) - _SHOWN_PROBLEMS
    line = " | ".join(problem.text for problem in problems[:_SHOWN_PROBLEMS])
    return f"{line} | and {more} more" if more > 0 else line


def find_problems(document: Any) -> list[Problem]:
    """Return what is wrong with `document` ({"judge_inference": {...}}); a key that is left out is not wrong."""
    try:
        Document.model_validate(document)
    except ValidationError as error:
        return [_problem(item["type"], item["loc"], item["input"])
                for item in error.errors(include_url=False, include_context=False) if item["type"] != "missing"]
    return []


def _problem(kind: str, loc: tuple[int | str, ...], value: Any) -> Problem:
    names = [part if isinstance(part, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part) else shown(part)
             for part in loc]
    where = ".".join(names) or "the document"
    path = ".".join(names[1:]) if names[:1] == [ROOT] else where
    known = _keys_below(names)
    if kind in ("extra_forbidden", "invalid_key"):
        # The value is not shown: what stands under a key that nobody knows may be a secret.
        known = _keys_below(names[:-1])
        return Problem(path, f"unknown key {where} ({type_words(value)}), wanted: {_one_of(known)}"
                             f"{nearest(names[-1], known)}")
    if kind == "store_off_disk":
        store, mount = shown(value.get("models_dir")), shown(value.get("nvme_mount_path"))
        return Problem(f"{path}.models_dir", f"{where}.models_dir is {store}, wanted: a path below "
                                             f"{where}.nvme_mount_path, which is {mount}")
    if path in FIELDS:
        return Problem(path, f"{where} is {shown(value)} ({type_words(value)}), wanted: {FIELDS[path].wanted}")
    if isinstance(value, Mapping):
        return Problem(path, f"{where} has a key that is no proper text, wanted: {_one_of(known)}")
    return Problem(path, f"{where} is {type_words(value)}, wanted: an object with {', '.join(known)}")


def _one_of(known: list[str]) -> str:
    return known[0] if len(known) == 1 else "one of " + ", ".join(known)


def _keys_below(names: list[str]) -> list[str]:
    if len(names) < 2:
        return [list(SECTIONS), [ROOT]][not names]
    prefix = names[1] + "."
    return [path.removeprefix(prefix) for path in FIELDS if path.startswith(prefix)]
