"""The texts that `judge score` and `judge compare` are given: as an option, in a file, or through stdin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from judge_bootstrap.core.errors import UsageProblem

# Far more than any judge reads (judge_client cuts at 16,000 characters), far less than a wrong file may hold.
LARGEST_BYTES = 4 << 20
UNUSABLE = "ITEMS_UNUSABLE"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True)
class Text:
    """One text that is wanted: the option's name without dashes (`response-a`), and what it was given as."""

    name: str
    text: str | None = None
    file: str | None = None


def text_options(name: str, what: str) -> Callable[[Decorated], Decorated]:
    """Add --NAME and --NAME-file, which come as `name` and `name_file`."""
    def add(function: Decorated) -> Decorated:
        from_file = click.option(f"--{name}-file", metavar="FILE", help=f"File with {what}; - is stdin.")
        return click.option(f"--{name}", metavar="TEXT", help=f"{what[0].upper()}{what[1:]}.")(from_file(function))

    return add


def read_texts(wanted: Sequence[Text]) -> list[str]:
    """Return the texts. Raises UsageProblem for one that is missing, given twice, or cannot be read as text.

    A prompt must say something; a response may be empty, for that is what some models answer.
    """
    for one in wanted:
        if one.text is not None and one.file is not None:
            raise UsageProblem(f"--{one.name} and --{one.name}-file are both given, wanted one of them",
                               hint=f"--{one.name} TEXT, or --{one.name}-file FILE")
        if one.text is None and one.file is None:
            raise UsageProblem(f"no {one.name} is given", hint=f"--{one.name} TEXT, or --{one.name}-file FILE")
    piped = [one.name for one in wanted if one.file == "-"]
    if len(piped) > 1:
        raise UsageProblem(f"stdin cannot be {' and '.join(piped)} at once", hint=f"--{piped[0]}-file FILE")
    found = []
    for one in wanted:
        text = one.text if one.text is not None else _read(one)
        if one.name == "prompt" and not text.strip():
            raise UsageProblem("the prompt is empty, wanted what the response answers", reason=UNUSABLE,
                               hint="--prompt TEXT, or --prompt-file FILE")
        found.append(text)
    return found


def _read(one: Text) -> str:
    place = "stdin" if one.file == "-" else str(one.file)
    hint = f"--{one.name}-file FILE, a text in UTF-8; ls -l {place}" if place != "stdin" else \
        f"--{one.name}-file - < FILE, a text in UTF-8"
    try:
        data = _bytes(one)
    except OSError as error:
        raise UsageProblem(f"cannot read the {one.name} from {place}: {error.strerror or error}", reason=UNUSABLE,
                           hint=hint) from error
    if len(data) > LARGEST_BYTES:
        raise UsageProblem(f"{place} is larger than {LARGEST_BYTES >> 20} MiB, wanted one {one.name}", reason=UNUSABLE,
                           hint="judge-bootstrap judge batch FILE --out OUT   # for a file of many")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{place} is no text: byte {error.start} is no UTF-8", reason=UNUSABLE, hint=hint) from None
    if "\0" in text:
        raise UsageProblem(f"{place} is no text: byte {data.index(0)} is a NUL", reason=UNUSABLE, hint=hint)
    return text


def _bytes(one: Text) -> bytes:
    """Return what the file holds, and no more than one byte beyond the limit."""
    if one.file == "-":
        return sys.stdin.buffer.read(LARGEST_BYTES + 1)
    with Path(str(one.file)).open("rb") as file:
        return file.read(LARGEST_BYTES + 1)
