"""Texts in other clothes: base64, hex and the like, rot13, words backwards, digits for letters, letters with gaps."""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import Final
from urllib.parse import unquote

from judge_client.suspicion.orders import LOOK_ALIKES, Said
from judge_client.suspicion.words import Hit, english

_LEAST_CHARACTERS: Final = 8
_MORSE_LETTERS: Final = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    ".---- ..--- ...-- ....- ..... -.... --... ---.. ----. -----")
_MORSE: Final = dict(zip(_MORSE_LETTERS.split(), "abcdefghijklmnopqrstuvwxyz1234567890", strict=True))


def _base64(found: str) -> bytes:
    found = re.sub(r"\s", "", found).replace("-", "+").replace("_", "/").rstrip("=")
    found = found[: len(found) - (len(found) % 4 == 1)]
    return base64.b64decode(found + "=" * (-len(found) % 4))


def _base32(found: str) -> bytes:
    found = found.rstrip("=")
    return base64.b32decode(found + "=" * (-len(found) % 8))


def _hex(found: str) -> bytes:
    return bytes.fromhex(re.sub(r"0x|\\x|[\s,:]", "", found))


def _binary(found: str) -> bytes:
    digits = re.sub(r"\s", "", found)
    return bytes(int(digits[place:place + 8], 2) for place in range(0, len(digits) - 7, 8))


def _decimal(found: str) -> bytes:
    return bytes(int(one) for one in re.findall(r"\d+", found))


def _escaped(found: str) -> bytes:
    return "".join(chr(int(one, 16)) for one in re.findall(r"[0-9a-fA-F]{4}", found)).encode()


def _morse(found: str) -> bytes:
    found = found.replace("\u2212", "-").replace("\u2013", "-").replace("\u00b7", ".").replace("\u2022", ".")
    words = re.split(r"\s*/\s*|\s{2,}", found)
    return " ".join("".join(_MORSE.get(one, "?") for one in word.split()) for word in words).encode()


# By what a text has that holds such a code: a long word, many short ones that begin with no letter, a backslash. Each
# pattern takes what it matches and goes on behind it, so that no text makes any of them slow.
_CODES: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], bytes]], ...]] = (
    ("long", re.compile(r"(?:[A-Za-z0-9+/_-]{16,}\n?){1,2000}={0,2}"), _base64),
    ("long", re.compile(r"(?<![A-Z2-7])[A-Z2-7]{24,}={0,6}"), _base32),
    ("long short \\", re.compile(r"(?:(?:0x|\\x)?[0-9a-fA-F]{2}[\s,:]{0,2}){10,}"), _hex),
    ("long short", re.compile(r"(?:[01]{8}\s{0,2}){8,}"), _binary),
    ("short", re.compile(r"(?:(?:3[2-9]|[4-9]\d|1[01]\d|12[0-6])[\s,]{1,2}){11,}\d{2,3}"), _decimal),
    ("\\", re.compile(r"(?:\\u\{?[0-9a-fA-F]{4}\}?\s?){6,}"), _escaped),
    ("short", re.compile(r"(?:[.\-\u00b7\u2022\u2212\u2013]{1,6}[ /]{1,3}){10,}[.\-\u00b7\u2022\u2212\u2013]{0,6}"),
     _morse),
)
_PERCENT: Final = re.compile(r"(?:%[0-9a-fA-F]{2}[\w.+-]{0,20}){3,}")
_ENTITIES: Final = re.compile(r"(?:&#x?[0-9a-fA-F]{2,5};?[\w ]{0,12}){4,}")
_LONG: Final = 24
_MANY: Final = 8


def decoded(text: str) -> Iterator[tuple[str, str]]:
    """Yield what is spelt in a code, with the text that it was decoded from; nothing that is no text."""
    pieces = text.split()
    short = sum(len(one) <= 8 and not one[0].isalpha() for one in pieces) >= _MANY
    texts = {"long": "\n".join(one for one in pieces if len(one) >= _LONG), "short": text if short else "",
             "\\": text if "\\u" in text or "\\x" in text else ""}
    for kinds, pattern, decode in _CODES:
        for found in (one for kind in kinds.split() if texts[kind] for one in pattern.finditer(texts[kind])):
            try:
                said = decode(found[0]).decode()
            except (ValueError, binascii.Error):
                continue
            if len(said) >= _LEAST_CHARACTERS and _is_text(said):
                yield said, found[0]
    if "%" in text and (percent := _PERCENT.search(text)):
        yield unquote(text[percent.start():].replace("+", " ")), percent[0]
    if "&#" in text and (entity := _ENTITIES.search(text)):
        yield html.unescape(text[entity.start():]), entity[0]


def _is_text(said: str) -> bool:
    return sum(one.isprintable() or one.isspace() for one in said) >= 0.95 * len(said)


# --- words ------------------------------------------------------------------------------------------------------------

_TO_LETTERS: Final = (str.maketrans("0134578@$!|+", "oieastbasiit"), str.maketrans("0134578@$!|+", "oleastbaslit"))
_LEET: Final = re.compile(r"[a-z][0134578@$!|+]+[a-z]|\b[0134578@$!|+]{1,2}[a-z]{2}|[a-z]{2}[0134578@$!|+]\b")
_LEET_WORD: Final = re.compile(r"[a-z0-9@$!|+]+")


@cache
def _rot13() -> dict[str, int]:
    ten = {"10": english()["10"]}  # digits are left as they are there
    return {codecs.encode(word, "rot13"): idea for word, idea in english().items() if len(word) > 2} | ten


@cache
def _backwards() -> dict[str, int]:
    return {word[::-1]: idea for word, idea in english().items() if len(word) > 2} | {"01": english()["10"]}


def spelt_otherwise(words: Sequence[str], unique: Collection[str]) -> Iterator[dict[str, list[Hit]]]:
    """Yield what the words say in rot13, and from their ends."""
    for table in (_rot13(), _backwards()):
        if sum(1 for _ in zip(range(3), filter(table.__contains__, unique), strict=False)) >= 2:
            yield {"en": [Hit(place, table[word], True) for place, word in enumerate(words) if word in table]}


def leet(word: str) -> list[Said]:
    """Return what a word says that is written with digits and signs for letters."""
    plain = english().get(word, 0)
    if plain:
        return [("en", plain, False)]
    if not word.isdigit():
        for table in _TO_LETTERS:
            idea = english().get(word.translate(table), 0)
            if idea:
                return [("en", idea, True)]
    return []


def is_leet(text: str, unique: Collection[str]) -> bool:
    """Tell whether a folded text has several words with digits or signs among their letters."""
    if sum(not one.isalpha() and not one.isdigit() for one in unique) < 2 and not any(one in text for one in "@$!|+"):
        return False
    return sum(1 for _ in zip(range(3), _LEET.finditer(text), strict=False)) == 3


def leet_words(text: str) -> list[str]:
    """Return the words of a text in which signs stand for letters."""
    return _LEET_WORD.findall(text)


# --- letters with gaps ------------------------------------------------------------------------------------------------

_GAPS: Final = re.compile(r"(?<!\w)\w(?:[ \t._*~|/\n-]{1,3}\w(?!\w)){9,}")
_FILLING: Final = re.compile(r"[\s._*~|/-]+")


@cache
def _squeezed() -> re.Pattern[str]:
    listed = sorted((word for word in english() if len(word) > 3 or word in ("all", "10", "ten", "top")), key=len)
    return re.compile("|".join(map(re.escape, reversed(listed))))


def with_gaps(text: str, words: Sequence[str]) -> Iterator[tuple[str, dict[str, list[Hit]]]]:
    """Yield the stretches of single letters, and what the words say that these make without their gaps."""
    for found in _GAPS.finditer(text) if sum(len(one) == 1 for one in words) >= 10 else ():
        letters = _FILLING.sub("", found[0]).translate(LOOK_ALIKES)
        # In such a stretch no word ends: five letters count as one.
        hits = [Hit(one.start() // 5, english()[one[0]], True) for one in _squeezed().finditer(letters)]
        yield found[0], {"en": hits}
