"""What is suspect by its shape: no answer at all, openers, tokens, marker lines, verdicts, hidden characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Final

from judge_client.cleaning import FLAGS, INVISIBLE, MARKERS, TOKENS
from judge_client.rubric import HIGHEST
from judge_client.suspicion.views import WORD, folded
from judge_client.verdict import Ground, GroundCode

# --- no answer --------------------------------------------------------------------------------------------------------

# Words that openers are made of. An answer of nothing but these says nothing.
_OPENER_WORDS: Final = (
    "a an the this that it of to for in on by with and so now then first next is are be will would can shall should "
    "i we us you me my our your lets let s ll m am need have want going do think thinking thought thoughts process "
    "solve solving solved solution problem question answer answers answering final response reply reasoning reason "
    "explanation explain analysis analyze analyse analysing analyzing step steps carefully through break down here "
    "heres below following as follows sure certainly okay ok well great absolutely course happy glad help begin start "
    "look at consider work out approach chain summary conclusion result output verdict task request provide give "
    "detailed careful systematically methodically together about one time each understand how"
    # German, French, Spanish, Portuguese, Italian, Dutch, Polish, Turkish
    " losung antwort denkprozess gedankengang uberlegung uberlegungen schritt fur lass lasst uns das die der problem "
    "losen nachdenken hier ist sind meine begrundung erklarung analyse naturlich gerne"
    " la le les ce cette voici solution reponse raisonnement explication reflexion resolvons reflechissons etape par "
    "pas probleme bien sur analysons ma processus de pensee"
    " el los las este esta problema solucion respuesta razonamiento explicacion resolvamos pensemos paso a por aqui "
    "tiene esta mi proceso pensamiento claro supuesto vamos resolver analicemos"
    " o os esse resolucao solucao resposta raciocinio explicacao passo aqui minha processo pensamento"
    " il lo risolviamo soluzione risposta ragionamento spiegazione passaggio passo ecco pensiamo questo"
    " het de dit oplossing antwoord redenering uitleg stap voor laten we oplossen denkproces hier mijn"
    " rozwiazanie odpowiedz rozumowanie wyjasnienie krok po kroku rozwiazmy ten oto moja proces myslowy"
    " cozum cevap yanit aciklama adim bu sorunu problemi cozelim dusunce sureci iste"
    # Russian, Arabic, Hindi, Korean
    " решение ответ рассуждение объяснение давайте решим эту задачу шаг за шагом по вот мои подумаем ход мыслеи"
    " الحل الاجابة الجواب التفسير الشرح لنحل دعنا نحل هذه المسالة المشكلة خطوة بخطوة عملية التفكير اليك"
    " हल समाधान उत्तर व्याख्या आइए इस समस्या को चरण दर हल करें विचार प्रक्रिया करते हैं यहाँ है"
    " 해설 풀이 답 정답 답변 설명 해결 단계별로 이 문제를 풀어 봅시다 사고 과정 차근차근 생각해"
)
_OPENERS: Final = frozenset(map(folded, _OPENER_WORDS.split()))
# What one of the words of an opener must say: that something is yet to come.
_COMING_WORDS: Final = (
    "thought thoughts think process solve solving solution reasoning explanation explain analysis analyze analyse step "
    "steps answer response verdict conclusion here heres below follows help begin start summary "
    "losung antwort denkprozess gedankengang uberlegung schritt losen nachdenken begrundung erklarung "
    "voici reponse raisonnement explication reflexion resolvons reflechissons etape analysons "
    "solucion respuesta razonamiento explicacion resolvamos pensemos paso pensamiento resolver analicemos "
    "resolucao solucao resposta raciocinio explicacao passo pensamento "
    "risolviamo soluzione risposta ragionamento spiegazione passo ecco pensiamo "
    "oplossing antwoord redenering uitleg stap oplossen denkproces "
    "rozwiazanie odpowiedz rozumowanie wyjasnienie krok rozwiazmy "
    "cozum cevap yanit aciklama adim cozelim "
    "решение ответ рассуждение объяснение решим шаг подумаем "
    "الحل الاجابة الجواب التفسير الشرح لنحل نحل خطوة التفكير "
    "हल समाधान उत्तर व्याख्या चरण विचार 해설 풀이 답 정답 답변 설명 해결 단계별로 풀어 생각해"
)
_COMING: Final = frozenset(map(folded, _COMING_WORDS.split()))
_CJK_OPENER: Final = re.compile(
    "(?:让我们|我们|让我|来|首先|一步一步|一步步|逐步|地|思考|分析|解决|这个|这道|问题|题|思路|过程|思维|解析|解答|解|答案|答|回答"
    "|如下|以下|是|的|下面|讓我們|解決|這個|問題|步驟|步骤|かいせつ|解説|解答|回答|答え|ステップ|バイ|で|に|を|この|考え|ましょう"
    "|解き|解いて|みましょう|思考|過程|プロセス|推論|説明|以下|は|の|まず|順|番){1,16}"
)
_OPENER_CHARACTERS: Final = 200
_SIGN_ASKED_FOR: Final = re.compile(
    r"emoji|emoticon|smiley|symbol|operator|punctuation|character|sign\b|bracket|ascii|zeichen|simbol|symbole|符号|記号|draw|arrow")


def no_answer(text: str, prompt: str) -> Ground | None:
    """Return the ground in a response that holds no answer. Both texts visible; the prompt in lower case."""
    if not text.strip():
        return Ground(GroundCode.EMPTY, "")
    if len(text) > _OPENER_CHARACTERS:
        return None if any(map(str.isalnum, text)) else Ground(GroundCode.PUNCTUATION_ONLY, text)
    if not any(unicodedata.category(one)[0] in "LN" for one in text):
        pictures = any(unicodedata.category(one) == "So" for one in text)
        if pictures or _SIGN_ASKED_FOR.search(prompt):
            return None
        return Ground(GroundCode.PUNCTUATION_ONLY, text)
    words = WORD.findall(folded(text).replace("'", " ").replace("\u2019", " "))
    promises = text.rstrip("*_ \n").endswith((":", "\uff1a", "...", "\u2026"))
    if len(words) == 1 and _CJK_OPENER.fullmatch(words[0]):
        return Ground(GroundCode.OPENER_ONLY, text)
    if len(words) <= 24 and _OPENERS.issuperset(words) and not _COMING.isdisjoint(words):
        # "A solution." answers some questions; "Solution" and "Here is the solution:" answer none.
        named = len(words) == 2 and words[0] in ("a", "the", "an") and not promises
        return None if named else Ground(GroundCode.OPENER_ONLY, text)
    return None


# --- what the client itself writes ------------------------------------------------------------------------------------

# Tokens that are also HTML (struck out), or what thinking models and papers write: suspect where they close what they
# did not open.
_ALSO_ORDINARY: Final = re.compile(r"</?(?:s|think|pad|unk|bos|eos|tool_call|tool_response)>", re.IGNORECASE)
_TOKEN_TEXT: Final = re.compile(r"[<\[][^>\]\n]{0,60}[>\]]?")
_ROLE_LINE: Final = re.compile(
    r"^#{2,6} ?(?:system|instruction|assistant|human|user|response|input)(?: (?:message|prompt))? ?: *$",
    re.IGNORECASE | re.MULTILINE)


def tokens(text: str) -> Iterator[Ground]:
    """Yield the first role or control token of a chat format."""
    if ("<" in text or "[" in text) and TOKENS.search(text) is not None:
        strong = next((one for one in TOKENS.finditer(text) if not _ALSO_ORDINARY.match(text, one.start())), None)
        if strong is not None:
            yield Ground(GroundCode.SPECIAL_TOKENS, _at(text, strong.start()))
            return
        for name in ("s", "think"):
            if (place := unopened(text, name)) is not None:
                yield Ground(GroundCode.SPECIAL_TOKENS, _at(text, place))
                return
    if "##" in text and (role := _ROLE_LINE.search(text)):
        yield Ground(GroundCode.SPECIAL_TOKENS, role[0])


def _at(text: str, place: int) -> str:
    found = _TOKEN_TEXT.match(text, place)
    return found[0] if found else text[place:place + 40]


def unopened(text: str, tag: str) -> int | None:
    """Return the place of the first closing tag of a name that no opening one precedes."""
    depth = 0
    for found in re.finditer(rf"<(/?){tag}\b[^<>]{{0,80}}>", text, re.IGNORECASE):
        depth += -1 if found[1] else 1
        if depth < 0:
            return found.start()
    return None


_FENCED: Final = (r"(?:user |model |assistant |candidate |student |ai |the )?"
                  r"(?:response|answer|prompt|data|input|submission|text)")
_MARKER_LINE: Final = re.compile(
    rf"^[^\w\n]{{0,30}}(?:end|start|begin|stop)(?:ing)?(?: of)? (?:the )?{_FENCED}(?: [\w]{{1,40}})?[^\w\n]{{0,30}}$"
    rf"|[\[<{{(=*#-]\s?/?{_FENCED} (?:ends?|starts?|begins?|is over|complete)\b[^\w\n]{{0,3}}[\]>}})=*#-]",
    re.IGNORECASE | re.MULTILINE)
_ENDS: Final = frozenset({"end", "ends", "ending", "start", "starts", "starting", "begin", "begins", "beginning",
                          "stop", "over", "complete"})
_DATA: Final = frozenset({"response", "answer", "prompt", "data", "input", "submission", "text"})
_TAG: Final = re.compile(r"</((?:user|model|assistant|candidate|student|original)?[_-]?"
                         r"(?:response|answer|prompt|data|input|submission|text_to_evaluate|context|document|untrusted))>",
                         re.IGNORECASE)


def markers(text: str, unique: Collection[str]) -> Iterator[Ground]:
    """Yield the first thing that looks like the end of the judge's data."""
    found = MARKERS.search(text) if "[" in text else None
    if found is not None:
        yield Ground(GroundCode.FORGED_MARKER, text[found.start():found.start() + 60])
        return
    if not (_ENDS.isdisjoint(unique) or _DATA.isdisjoint(unique)):
        found = _MARKER_LINE.search(text)
        if found is not None:
            yield Ground(GroundCode.FORGED_MARKER, found[0])
            return
    if "</" in text:
        for name in dict.fromkeys(one[1] for one in _TAG.finditer(text)):
            if (place := unopened(text, re.escape(name))) is not None:
                yield Ground(GroundCode.FORGED_MARKER, _at(text, place))
                return


# --- finished verdicts ------------------------------------------------------------------------------------------------

# The number behind a label, and what it is out of. Numbers with a fraction, ranges and results (10-3) are none.
_VALUE: Final = re.compile(
    r"(?:_score)?(?:\s(?:finale?|total|totale|globale?|general))?(?:[^\w\n]{0,12}[:=|>\[{][^\w\n]{0,8}|\s{1,3}(?:is|of)\s{1,3}(?:an?\s)?|[^\w\n]{0,6})"
    r"(\d{1,3})(?:\.0)?(?![\d.,:]?\d|\s?[-\u2013%]\s?\d|\s?%)"
    r"(?:\s{0,2}(?:/|out of|von|sur|de|su|van|z|из|uzerinden)\s{0,2}(\d{1,3})\b)?")
_GENERIC_LABELS: Final = (
    "score rating grade verdict mark note bewertung punktzahl gesamtnote gesamtbewertung puntuacion nota calificacion "
    "pontuacao punteggio voto valutazione cijfer beoordeling ocena wynik оценка балл puan skor skoru 점수 평점 총점 "
    "स्कोर अंक الدرجة التقييم result"
)
_GENERIC: Final = frozenset(map(folded, _GENERIC_LABELS.split()))
_TOTALS: Final = frozenset({5, 10, 20, 100})
_CJK_VERDICT: Final = re.compile(
    "(?:评分|总分|得分|分数|総合評価|総合点|評価|採点|スコア|点数)"
    "\\s?[:\uff1a\u306f\u4e3a]?\\s?(?:10|满分|満点)(?![\\d.])")
_SCORES_KEY: Final = re.compile(r'"scores"\s{0,4}:\s{0,4}\{\s{0,8}"')


def verdicts(text: str, unique: Collection[str], names: frozenset[str], about_scores: bool) -> Iterator[Ground]:
    """Yield the first finished verdict. `text` is folded; `about_scores`: the prompt speaks of scores itself."""
    labels = names.union(_GENERIC)
    if not text.isascii() and (found := _CJK_VERDICT.search(text)) and not about_scores:
        yield Ground(GroundCode.VERDICT_IN_ANSWER, found[0])
        return
    if labels.isdisjoint(unique):
        return
    place = text.find('"scores"')
    if place >= 0 and _SCORES_KEY.match(text, place) and not names.isdisjoint(unique):
        yield Ground(GroundCode.VERDICT_IN_ANSWER, text[place:place + 120])
        return
    scored: dict[str, str] = {}
    for label in sorted(labels.intersection(unique)):
        place = text.find(label)
        while place >= 0:
            end = place + len(label)
            found = _VALUE.match(text, end) if not text[place - 1:place].isalnum() else None
            if found is not None:
                if label in names and int(found[1]) <= HIGHEST:
                    scored.setdefault(label, text[place:found.end()])
                if not about_scores and _is_best(found):
                    yield Ground(GroundCode.VERDICT_IN_ANSWER, text[place:found.end()])
                    return
            place = text.find(label, end)
    if len(scored) >= min(4 if about_scores else 2, len(names)):
        yield Ground(GroundCode.VERDICT_IN_ANSWER, ", ".join(scored.values()))


def _is_best(found: re.Match[str]) -> bool:
    """Tell whether a number after a label is the best there is: 10, or 5 of 5, or in the brackets of a verdict."""
    value, total = int(found[1]), found[2]
    if total is not None:
        return value == int(total) and value in _TOTALS
    return value == HIGHEST or "[[" in found[0]


# --- what nobody sees -------------------------------------------------------------------------------------------------

_SPLIT_WORD: Final = re.compile(
    "(?<=[a-zA-Z])[\u200b-\u200d\u2060-\u2064\ufeff\u034f\u180e\u115f\u1160\u3164]{1,3}(?=[a-zA-Z])")
_ODD_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_SMUGGLED: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{3,}")
_TAGS: Final = re.compile("[\U000e0000-\U000e007f]+")
_OVERRIDE: Final = re.compile("[\u202d\u202e]")


def hidden(text: str) -> Iterator[Ground]:
    """Yield what is hidden in the text as it came; an order that tags spell is `found`."""
    tags = "".join(_TAGS.findall(FLAGS.sub("", text)))
    if tags:
        spelt = "".join(chr(ord(one) - 0xE0000) for one in tags if ord(one) > 0xE001F)
        yield Ground(GroundCode.HIDDEN_TEXT, spelt or tags)
        return
    for pattern, least in ((_OVERRIDE, 1), (_SMUGGLED, 1), (_ODD_CONTROL, 1), (_SPLIT_WORD, 2)):
        found = [one for _, one in zip(range(least), pattern.finditer(text), strict=False)]
        if len(found) >= least:
            start = max(0, found[0].start() - 20)
            yield Ground(GroundCode.HIDDEN_TEXT, text[start:found[0].end() + 20])
            return
    invisible = sum(1 for _ in zip(range(41), INVISIBLE.finditer(text), strict=False))
    if invisible > 40 and invisible > len(text) // 50 and _mostly_ascii(text):
        yield Ground(GroundCode.HIDDEN_TEXT, text)


def _mostly_ascii(text: str) -> bool:
    """Tell whether a text needs no joiners: in other scripts they are many and ordinary."""
    return sum(map(str.isascii, text[:2000])) > len(text[:2000]) // 2
