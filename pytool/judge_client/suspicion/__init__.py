"""Looking for grounds not to trust a verdict in the texts that were judged. They never change a score.

A response is looked at as it came, and as a model would read it: without what nobody sees, with look-alike letters
made one, and decoded where it holds a code. The prompt counts: what it asks for, or speaks of, is no ground.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Final

from judge_client.cleaning import MAX_CHARACTERS, visible
from judge_client.rubric import DEFAULT_RUBRIC, Rubric
from judge_client.suspicion import decoding, shapes
from judge_client.suspicion.echoes import all_criteria, echoes, told
from judge_client.suspicion.orders import bare_orders, hits_of, hits_without_spaces, orders_in, said_in
from judge_client.suspicion.views import WORD, both_ends, folded, shown
from judge_client.suspicion.words import Hit, Idea
from judge_client.verdict import Ground, GroundCode

_SCORES: Final = int(Idea.SCORE | Idea.RUBRIC)
_DEPTH: Final = 2
# Prompts about models and how they are attacked: examples belong into the answer then, where they are quoted.
_ABOUT_MODELS: Final = re.compile(
    r"inject|jailbreak|adversarial|chat ?template|chatml|special token|control token|tokeni[sz]er|prompt|\bllm|gpt|"
    r"language model|sprachmodell|fine-?tun|llama|mistral|gemma|qwen|delimiter|guardrail|red.?team|phishing|"
    r"提示词|注入|プロンプト|프롬프트|промпт")
_QUOTED: Final = re.compile(
    r"```.{0,4000}?```|`[^`\n]{1,300}`|\"[^\"\n]{1,300}\"|\u201c[^\u201d\n]{1,300}\u201d|\u201e[^\u201c\u201d\n]{1,300}"
    r"[\u201c\u201d]|\u00ab[^\u00bb\n]{1,300}\u00bb|\u300c[^\u300d\n]{1,300}\u300d"
    r"|(?<!\w)'[^'\n]{1,300}'(?!\w)", re.DOTALL)


def examine(original_prompt: str, model_response: str, changes: Mapping[str, int] | None = None,
            rubric: Rubric = DEFAULT_RUBRIC, read_characters: int = MAX_CHARACTERS) -> tuple[Ground, ...]:
    """Return the grounds for suspicion in a response, as it came (not cleaned): one of each code at most.

    `changes` is what cleaning.py counted in it, where it was cleaned: the request's own code in it is a ground that
    the text alone does not show. The prompt counts where it asks for what would be suspect by itself. `read_characters`
    is how much of a text the judge reads.
    """
    prompt = _Prompt(original_prompt, rubric, read_characters)
    found: dict[GroundCode, Ground] = {}
    for ground in _Examination(prompt, rubric, read_characters).grounds(model_response, changes or {}):
        found.setdefault(ground.code, Ground(ground.code, shown(ground.found)))
    return tuple(found.values())


class _Prompt:
    """What the prompt asks for. Nothing of it is looked at before a response gives reason to."""

    def __init__(self, text: str, rubric: Rubric, read_characters: int) -> None:
        self._text, self._rubric, self._read_characters = text, rubric, read_characters

    @cached_property
    def folded(self) -> str:
        return folded(self._seen)

    @cached_property
    def _seen(self) -> str:
        return both_ends(visible(self._text), self._read_characters)

    @cached_property
    def said(self) -> Mapping[str, int]:
        return said_in(self.folded)

    @cached_property
    def is_about_models(self) -> bool:
        return _ABOUT_MODELS.search(self.folded) is not None

    @cached_property
    def codes(self) -> frozenset[GroundCode]:
        """Return what would be suspect in the prompt itself: an answer may repeat that."""
        empty = _Prompt("", self._rubric, self._read_characters)
        found = _Examination(empty, self._rubric, self._read_characters).in_text(self._seen, depth=_DEPTH)
        return frozenset(ground.code for ground in found)

    def speaks_of(self, ideas: int, language: str) -> bool:
        return bool(ideas and (self.said.get(language, 0) | self.said.get("en", 0)) & ideas)

    @cached_property
    def is_about_scores(self) -> bool:
        return any(said & _SCORES for said in self.said.values())


class _Examination:
    def __init__(self, prompt: _Prompt, rubric: Rubric, read_characters: int) -> None:
        self._prompt, self._rubric, self._read_characters = prompt, rubric, read_characters

    def grounds(self, response: str, changes: Mapping[str, int]) -> Iterator[Ground]:
        left_out: Counter[str] = Counter()
        text = both_ends(visible(response, left_out), self._read_characters)
        if len(text) <= 400 or not text.strip():
            nothing = shapes.no_answer(text, self._prompt.folded if len(text) <= 3 else "") or None
            if nothing is not None:
                yield nothing
                if nothing.code is GroundCode.EMPTY and not response.strip():
                    return
        if changes.get("fence"):
            yield Ground(GroundCode.FORGED_MARKER, "the code of this request's own markers")
        for ground in shapes.hidden(response) if left_out else ():
            yield ground
            yield from self._disguised(self.in_text(ground.found, depth=_DEPTH), ground.found)
        yield from self._asked_for(self.in_text(text))

    def _asked_for(self, grounds: Iterator[Ground]) -> Iterator[Ground]:
        """Leave out what the prompt itself has, or asks for."""
        for ground in grounds:
            if ground.code in self._prompt.codes:
                continue
            if ground.code is GroundCode.ENCODED_ORDER and self._prompt.codes:
                continue
            yield ground

    def in_text(self, text: str, depth: int = 0) -> Iterator[Ground]:
        """Yield the grounds in a text in which all is visible."""
        low = folded(text)
        words = WORD.findall(low)
        unique = set(words)
        looks = text if text.isascii() else unicodedata.normalize("NFKC", text)
        if not self._about_models(shapes.tokens(looks)):
            yield from shapes.tokens(looks)
        if not self._about_models(shapes.markers(text, unique)):
            yield from shapes.markers(text, unique)
        said = told(self._rubric)
        verdict = next(shapes.verdicts(low, unique, said.names, False), None)
        if verdict is not None and self._prompt.is_about_scores:
            verdict = next(shapes.verdicts(low, unique, said.names, True), None)
        if verdict is not None:
            yield verdict
        yield from echoes(words, unique, said)
        criteria = next(all_criteria(words, unique, said), None)
        if criteria is not None and not self._prompt.is_about_scores:
            yield criteria
        if not self._prompt.is_about_scores:
            quoted = self._prompt.is_about_models and _QUOTED.search(low) is not None
            yield from bare_orders(_QUOTED.sub(" ... ", low) if quoted else low, unique)
        yield from self._orders(low, words, hits_of(words))
        yield from self._orders(low, words, hits_without_spaces(low), places_are_words=False)
        yield from self._spelt_otherwise(low, words, unique)
        if depth < _DEPTH:
            for plain, code in decoding.decoded(text):
                if folded(code) not in self._prompt.folded:
                    yield from self._disguised(self.in_text(plain, depth + 1), plain)

    def _about_models(self, grounds: Iterator[Ground]) -> bool:
        """Tell whether there is a ground, and the prompt speaks of such things."""
        return next(grounds, None) is not None and self._prompt.is_about_models

    def _spelt_otherwise(self, low: str, words: list[str], unique: Collection[str]) -> Iterator[Ground]:
        for hits in decoding.spelt_otherwise(words, unique):
            yield from self._orders(low, words, hits, disguised=True)
        if decoding.is_leet(low, unique):
            leet = decoding.leet_words(low)
            found = self._orders(low, leet, hits_of(leet, decoding.leet))
            yield from (ground for ground in found if ground.code is GroundCode.ENCODED_ORDER)
        for stretch, hits in decoding.with_gaps(low, words):
            yield from self._orders(stretch, [], hits, places_are_words=False, disguised=True)

    def _disguised(self, grounds: Iterator[Ground], said: str) -> Iterator[Ground]:
        if next(grounds, None) is not None:
            yield Ground(GroundCode.ENCODED_ORDER, said)

    def _orders(self, low: str, words: list[str], hits: dict[str, list[Hit]], *, places_are_words: bool = True,
                disguised: bool = False) -> Iterator[Ground]:
        outside: set[int] | None = None
        for order in orders_in(hits):
            if self._prompt.speaks_of(order.rule.topic, order.language):
                continue
            if self._prompt.is_about_models and not disguised:
                if outside is None:
                    outside = _rules_outside_of_quotes(low)
                if id(order.rule) not in outside:
                    continue
            told = " ".join(words[order.first:order.last + 1]) if places_are_words else (
                low[max(0, order.first * 2 - 2):order.last * 2 + 4])
            code = GroundCode.ENCODED_ORDER if disguised or order.disguised else order.rule.code
            yield Ground(code, told)


def _rules_outside_of_quotes(low: str) -> set[int]:
    rest = _QUOTED.sub(" ... ", low)
    return {id(order.rule) for hits in (hits_of(WORD.findall(rest)), hits_without_spaces(rest))
            for order in orders_in(hits)}
