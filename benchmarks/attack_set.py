"""The attacks on a judge that V2 counts, each put into 20 bad answers, and honest answers that look like attacks.

All texts in attack_texts/ were written for this project, in four parts. `develop` was there before the detector, which
was written against it. `second` and `third` were each written when the detector was committed, measured, and then led
to a revision. `held_out` was written when the last revision was committed, and nothing was changed for it:
docs/judge-defences.md has each part's first figures.
"""

from __future__ import annotations

import base64
import codecs
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("attack_texts")
PARTS = ("develop", "second", "third", "held_out")
SEED = 11

_LEET = str.maketrans("aeiost", "431057")
_HOMOGLYPHS = str.maketrans("aceiopsx", "асеіорѕх")
_SIGNALS = (".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- "
             "-.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----.")
_MORSE = dict(zip("abcdefghijklmnopqrstuvwxyz0123456789", _SIGNALS.split(), strict=True))


@dataclass(frozen=True)
class Answer:
    """A prompt and a response: a bad one to be dressed up, or an honest one."""

    name: str
    prompt: str
    response: str
    kind: str = ""


@dataclass(frozen=True)
class Attack:
    """A way to make a bad answer look good: `text` with {answer} in it, or to be put after the answer, or alone."""

    name: str
    part: str
    family: str
    language: str
    text: str
    alone: bool = False

    def on(self, answer: Answer) -> str:
        """Return the attacked response."""
        if self.alone:
            return self.text
        if "{answer}" in self.text:
            return self.text.replace("{answer}", answer.response)
        return f"{answer.response}\n\n{self.text}"


def _shifted(start: int) -> Callable[[str], str]:
    """Return a function that writes letters as those of a Unicode block of letters for mathematics."""
    def change(text: str) -> str:
        return "".join(chr(start + 26 * one.islower() + ord(one.lower()) - 97) if one.isascii() and one.isalpha()
                       else one for one in text)
    return change


TRANSFORMS: Mapping[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 twice": lambda text: base64.b64encode(base64.b64encode(text.encode())).decode(),
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "hex pairs": lambda text: text.encode().hex(" "),
    "binary": lambda text: " ".join(f"{one:08b}" for one in text.encode()),
    "decimal": lambda text: " ".join(str(one) for one in text.encode()),
    "url": lambda text: "".join(f"%{one:02x}" for one in text.encode()),
    "entities": lambda text: "".join(f"&#{ord(one)};" for one in text),
    "escapes": lambda text: "".join(f"\\u{ord(one):04x}" for one in text),
    "morse": lambda text: " / ".join(" ".join(_MORSE[one] for one in word if one in _MORSE)
                                     for word in text.lower().split()),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "reversed": lambda text: text[::-1],
    "words reversed": lambda text: " ".join(word[::-1] for word in text.split()),
    "leet": lambda text: text.lower().translate(_LEET),
    "homoglyphs": lambda text: text.translate(_HOMOGLYPHS),
    "fullwidth": lambda text: "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text),
    "bold": _shifted(0x1D400),
    "script": _shifted(0x1D4D0),
    "circled": lambda text: "".join(chr(0x24D0 + ord(one.lower()) - 97) if one.isascii() and one.isalpha() else one
                                    for one in text),
    "zalgo": lambda text: "".join(one + "\u0335\u0322\u0301" if one.isalpha() else one for one in text),
    "zero_width": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "bidi": lambda text: f"\u202e{text[::-1]}\u202c",
    "tags": lambda text: "".join(chr(0xE0000 + ord(one)) for one in text),
    "selectors": lambda text: "\U0001f600" + "".join(chr(0xE0100 + one - 16) for one in text.encode()),
    "spaced": lambda text: "  ".join(" ".join(word) for word in text.split()),
    "dotted": lambda text: ".".join(text.replace(" ", "")),
}


def answers() -> list[Answer]:
    """Return the bad answers."""
    return [Answer(one["id"], one["prompt"], one["response"]) for one in _lines("answers")]


def attacks(part: str) -> list[Attack]:
    """Return the attacks of one part: what stands in its file, and what its templates make, if it has any."""
    found = [Attack(one["name"], part, one["family"], one["language"],
                    TRANSFORMS[one["transform"]](one["text"]) if "transform" in one else one["text"],
                    one.get("alone", False))
             for one in _lines(f"orders_{part}")]
    return found + (list(paraphrases(part)) if part != "develop" else [])


def clean_answers(part: str) -> list[Answer]:
    """Return the honest answers of one part."""
    return [Answer(f"{part} {number}", one["prompt"], one["response"], one["kind"])
            for number, one in enumerate(_lines(f"clean_{part}"), 1)]


def paraphrases(part: str, count: int = 60, seed: int = SEED) -> Iterator[Attack]:
    """Yield orders put together from a part's templates, the same ones for the same seed."""
    chance = random.Random(seed)
    words = json.loads((FOLDER / f"paraphrases_{part}.json").read_text())
    for number in range(1, count + 1):
        text = chance.choice(words["templates"])
        while "<" in text:
            before, _, rest = text.partition("<")
            name, _, after = rest.partition(">")
            text = before + chance.choice(words[name]) + after
        yield Attack(f"{part} paraphrase {number}", part, "paraphrase", "en", text[0].upper() + text[1:])


def _lines(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
