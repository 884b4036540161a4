"""Making a text safe to stand as data in a judge's chat message, and telling what was done to it.

Four things happen, in this order: characters that nobody sees are left out, what a server or a model would take for a
role or a control token is broken up, what looks like one of our own marker lines is broken up, and what is longer than
the limit is cut, with a sentence in its place. Meaning is kept: a person reads the same text before and after.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

# What a judge with a context of 8,192 tokens reads whole, even where three characters take a token.
MAX_CHARACTERS: Final = 16_000

# Written between the characters of a token that must not be read as one.
_BREAK: Final = " "
# Control tokens of the chat formats in use: ChatML and its kin (<|im_start|>), with DeepSeek's fullwidth bars, Llama 2
# ([INST], <<SYS>>, <s>), Gemma (<start_of_turn>), Mistral ([TOOL_CALLS]), Phi and others (<|...|>), Alpaca (### ...:).
_TOKENS: Final = re.compile(
    r"<\s*[|\uff5c]|[|\uff5c]\s*>"
    r"|</?s>|<<\s*/?SYS\s*>>|\[\s*/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\s*\]"
    r"|</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk)>|</?think>",
    re.IGNORECASE,
)
_ROLE_HEADINGS: Final = re.compile(r"^(#{2,}\s*)(system|instruction|assistant|human|user|response)(\s*:)",
                                   re.IGNORECASE | re.MULTILINE)
_MARKERS: Final = re.compile(r"\[(?=\s*(?:END\s+OF\s+)?(?:USER\s+PROMPT|(?:FIRST\s+|SECOND\s+)?RESPONSE)\b)",
                             re.IGNORECASE)
_KEPT_CONTROLS: Final = "\n\t"
# A joiner shapes letters in Persian and in Indic scripts, and makes one emoji of several: between such it stays.
_JOINERS: Final = "\u200c\u200d"
_EMOJI_SELECTOR: Final = "\ufe0f"


@dataclass(frozen=True)
class Cleaned:
    """A text that may stand as data, and what was done to it.

    `changes` counts, by kind, only where something was done: `control`, `bidi`, `zero_width` and `unencodable`
    (characters left out), `special_token` and `marker` (broken up), `fence` (the request's own code), `cut`
    (characters left out in the middle because the text is too long).
    """

    text: str
    changes: Mapping[str, int]


def clean(text: str, fence: str, max_characters: int = MAX_CHARACTERS) -> Cleaned:
    """Return `text` as data between marker lines with the code `fence`."""
    counted: Counter[str] = Counter()
    text = _visible(text, counted)
    text, broken = _TOKENS.subn(lambda found: _broken_up(found[0]), text)
    text, headings = _ROLE_HEADINGS.subn(r"\1\2" + _BREAK + r"\3", text)
    text, markers = _MARKERS.subn("(", text)
    counted["special_token"] += broken + headings
    counted["marker"] += markers
    counted["fence"] += text.count(fence)
    text = text.replace(fence, _BREAK.join((fence[:4], fence[4:])))
    text = _cut(text, max_characters, counted)
    return Cleaned(text, MappingProxyType({kind: count for kind, count in counted.items() if count}))


def _broken_up(token: str) -> str:
    return f"{token[0]}{_BREAK}{token[1:]}"


def _visible(text: str, counted: Counter[str]) -> str:
    """Leave out what nobody sees. The Unicode "tag" characters can spell a whole hidden order; they are format ones."""
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = []
    for position, character in enumerate(text):
        kind = _invisible(character)
        if kind == "zero_width" and character in _JOINERS and _joins(text, position):
            kind = None
        if kind is None:
            kept.append(character)
        else:
            counted[kind] += 1
    return "".join(kept)


def _invisible(character: str) -> str | None:
    category = unicodedata.category(character)
    if category == "Cs":  # half of a surrogate pair: no server can be sent one
        return "unencodable"
    if category == "Cc":
        return None if character in _KEPT_CONTROLS else "control"
    if category != "Cf":
        return None
    return "bidi" if unicodedata.bidirectional(character) in _BIDI_CLASSES or character in "\u200e\u200f\u061c" else (
        "zero_width")


_BIDI_CLASSES: Final = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def _joins(text: str, position: int) -> bool:
    """Tell whether a joiner stands between two characters that it shapes: letters beyond Latin, or emoji."""
    before = text[position - 1] if position else ""
    if before == _EMOJI_SELECTOR and position > 1:
        before = text[position - 2]
    after = text[position + 1] if position + 1 < len(text) else ""
    return all(one and ord(one) > 0x5FF and unicodedata.category(one)[0] in "LMS" for one in (before, after))


def _cut(text: str, limit: int, counted: Counter[str]) -> str:
    """Cut the middle out of a text that is too long, and say so in its place: beginnings and ends decide most."""
    left_out = len(text) - limit
    if left_out <= 0:
        return text
    counted["cut"] += left_out
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}\n(... {left_out} characters left out here ...)\n{text[len(text) - tail:]}"
