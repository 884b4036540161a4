"""How a text is looked at: what looks the same is made the same, and what is found is made printable."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

FOUND_CHARACTERS: Final = 120
# A judge is sent far less (cleaning.MAX_CHARACTERS) unless its client says otherwise; what is longer is looked at where
# cleaning would keep it.
EXAMINED_CHARACTERS: Final = 60_000

# Accents on letters, Arabic vowel signs and the stretching line: a word is the same word with and without them.
_ACCENTS: Final = re.compile("[\u0300-\u036f\u0640\u064b-\u0655\u0670]+")
WORD: Final = re.compile(r"[^\s!-,./:-@\[-`{-~\u00a0-\u00bf\u2000-\u206f\u3000-\u303f\u0964\u060c\u061b\u061f-]+"
                         r"(?:\.\d+)?")
_SPACE: Final = re.compile(r"\s+")


def folded(text: str) -> str:
    """Return the text in lower case, without accents, and with one form for each letter (fullwidth, bold, circled)."""
    text = text.casefold()
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))


def shown(text: str) -> str:
    """Return at most 120 characters of what was found, in one line that is safe to print anywhere."""
    text = _SPACE.sub(" ", text[: 4 * FOUND_CHARACTERS]).strip()
    made = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return made if len(made) <= FOUND_CHARACTERS else f"{made[:FOUND_CHARACTERS - 3]}..."


def both_ends(text: str, read_characters: int = EXAMINED_CHARACTERS) -> str:
    """Return what is looked at of a text: all of it, or two thirds from its beginning and one from its end.

    It is no less than the `read_characters` that its judge reads of it.
    """
    most = max(EXAMINED_CHARACTERS, read_characters)
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]}\n{text[len(text) - (most - head):]}"
