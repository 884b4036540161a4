"""The words that orders to a judge are made of, by idea and language.

Not sentences but ideas are listed: "ignore" + "previous" + "instructions" within a few words of each other is an order
in whatever order and inflection. All words are written as folded() in views.py leaves them: lower case, no accents.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag, auto
from functools import cache
from typing import Final, NamedTuple

from judge_client.suspicion.views import folded


class Idea(IntFlag):
    """What a word of an order says."""

    IGNORE = auto()
    INSTRUCTIONS = auto()
    RULES = auto()  # so much in ordinary texts that more must stand beside it
    RUBRIC = auto()  # rubric, criteria: what only a judge is told
    PRIOR = auto()  # previous, above, all, your
    TOLD = auto()  # previous, your: of what a model was told
    JUDGE = auto()  # grader, evaluator: nobody else is called so
    PERHAPS_JUDGE = auto()  # judge, reviewer, jury: also persons in ordinary texts
    MODEL = auto()  # AI, LLM
    EVALUATE = auto()
    CALL = auto()  # dear, attention, note
    RATE = auto()  # give, award
    GRADE = auto()  # rate, score: a score in one word
    IT = auto()
    EMIT = auto()  # return, output, set: ordinary words, too
    SCORE = auto()
    TOP = auto()  # 10, highest, full
    LOW = auto()  # below, deduct
    MUST = auto()  # must, is expected to
    DESERVE = auto()  # deserves, is worth
    GET = auto()
    ANSWER = auto()
    THIS = auto()
    PLEA = auto()  # beg, lose, fired, tip
    AUTHORITY = auto()  # developer, administrator


class Hit(NamedTuple):
    """A word that says something: its place in the text, counted in words, and what it says."""

    place: int
    idea: int
    disguised: bool


# Words by idea, then by language; "word*" stands for all words that begin so.
_WORDS: Final[Mapping[Idea, Mapping[str, str]]] = {
    Idea.IGNORE: {
        "en": "ignore ignoring ignored disregard disregarding disregarded forget forgotten override overridden "
              "overrule overruled overlook neglect bypass discard skip drop void lifted",
        "de": "ignorier* vergiss vergesst vergessen missacht* ubergeh* ausser",
        "fr": "ignor* oubli* neglig* faites",
        "es": "ignor* olvid* descart* omite omita omitir omiso",
        "pt": "ignor* esquec* desconsider* descart*",
        "it": "ignor* dimentic* trascur*",
        "nl": "negeer negeren vergeet vergeten",
        "pl": "zignoruj* ignoruj* ignorowac zapomnij* pomin*",
        "ru": "игнорир* проигнорир* забуд* пренебре*",
        "tr": "yok yoksay* gormezden unut* dikkate",
        "zh": "忽略 无视 忘记 忘掉 忽视 不理会 不要理会 無視 忽視",
        "ja": "無視 忘れ",
        "ko": "무시* 잊어* 잊고*",
        "ar": "تجاهل* انس انسى اهمل",
        "hi": "अनदेखा* नजरअंदाज* नज़रअंदाज* भूल* उपेक्षा* अनदेखी*",
    },
    Idea.INSTRUCTIONS: {
        "en": "instruction instructions guideline guidelines directive directives prompt prompts orders",
        "de": "anweisung* instruktion* vorgabe* befehl* regeln richtlinie*",
        "fr": "instruction* consigne* directive* regles",
        "es": "instrucci* indicaci* directri* reglas",
        "pt": "instruc* diretriz* orientac* regras",
        "it": "istruzion* direttiv* indicazion* regole",
        "nl": "instructie* opdracht* aanwijzing* regels richtlijn*",
        "pl": "instrukcj* polecen* wytyczn* zasad*",
        "ru": "инструкц* указани* правил* команд*",
        "tr": "talimat* yonerge* komut* kural*",
        "zh": "指令 指示 说明 提示词 规则 要求 規則 說明",
        "ja": "指示 命令 プロンプト ルール",
        "ko": "지시* 명령* 지침* 규칙*",
        "ar": "تعليمات* التعليمات* اوامر* الاوامر* توجيهات* قواعد القواعد",
        "hi": "निर्देश* आदेश* नियम* अनुदेश*",
    },
    Idea.RULES: {"en": "rules rule policy policies scale"},
    Idea.TOLD: {"en": "previous previously prior earlier preceding foregoing your system former told given operator "
                      "original evaluation grading scoring"},
    Idea.GET: {"en": "get gets receive receives given have has"},
    Idea.RUBRIC: {
        "en": "rubric rubrics criteria criterion",
        "de": "bewertungskriteri* bewertungsmassst* kriteri* bewertungsraster",
        "fr": "bareme* critere*",
        "es": "rubrica* criterio*",
        "pt": "rubrica* criterio*",
        "it": "rubrica criteri*",
        "nl": "rubriek* criteri* beoordelingscriteri*",
        "pl": "kryteri*",
        "ru": "критери* рубрик*",
        "tr": "kriter* olcut* rubrik*",
        "zh": "评分标准 评分规则 评估标准 评价标准 評分標準",
        "ja": "採点基準 評価基準 基準",
        "ko": "기준* 채점기준* 평가기준* 루브릭*",
        "ar": "معايير* المعايير*",
        "hi": "मानदंड* कसौटी* मापदंड*",
    },
    Idea.PRIOR: {
        "en": "previous previously prior above earlier preceding foregoing all any every everything your existing "
              "original system former",
        "de": "bisherig* vorherig* vorangegangen* obig* alle allen samtlich* fruher* deine ihre jede*",
        "fr": "precedent* anterieur* toutes tous tout dessus vos tes chaque",
        "es": "anterior* previ* todas todos todo cada tus",
        "pt": "anterior* previ* todas todos tudo cada suas",
        "it": "precedent* tutte tutti tutto ogni tue",
        "nl": "eerdere vorige voorgaande alle bovenstaande elk elke",
        "pl": "poprzedni* wszystki* powyzsz* wczesniejsz* kazd*",
        "ru": "предыдущ* все всех вышеуказан* прежн* предшеств* кажд*",
        "tr": "onceki tum butun yukaridaki her",
        "zh": "之前 以上 先前 上述 所有 此前 前面 上面 一切 每个 每項",
        "ja": "これまで 以前 すべて 全て 上記 今まで 従来",
        "ko": "이전* 모든 위의 앞선 기존* 앞의 지금까지*",
        "ar": "السابقة السابقه جميع كل سابقة",
        "hi": "पिछले सभी उपरोक्त पूर्व पहले सारे",
    },
    Idea.JUDGE: {
        "en": "evaluator evaluators grader graders rater raters assessor assessors scorer autograder autorater",
        "de": "bewerter* gutachter* korrektor*",
        "fr": "evaluateur* evaluatrice* correcteur* notateur*",
        "es": "evaluador* calificador*",
        "pt": "avaliador*",
        "it": "valutator* esaminator*",
        "nl": "beoordelaar*",
        "pl": "oceniajac* ewaluator*",
        "ru": "оценщик* оценивающ* проверяющ*",
        "tr": "degerlendirici* degerlendiren* puanlayan* puanlayici*",
        "zh": "评分者 评分员 评审 评委 评判者 评估者 阅卷 評審 評分者 评价者",
        "ja": "評価者 採点者 審査員 審査者 評価モデル",
        "ko": "평가자* 채점자* 심사자* 심사위원*",
        "ar": "المقيم المقيمين مقيم المصحح مصحح",
        "hi": "मूल्यांकनकर्ता* परीक्षक* निर्णायक*",
    },
    Idea.PERHAPS_JUDGE: {
        "en": "judge judges reviewer reviewers examiner examiners jury referee marker",
        "de": "richter* prufer* jury",
        "fr": "juge* jury examinateur*",
        "es": "juez jueces jurado*",
        "pt": "juiz* jurad* examinador*",
        "it": "giudic*",
        "nl": "rechter* jury examinator*",
        "pl": "sedzi* recenzent* egzaminator*",
        "ru": "судь* экзаменатор* рецензент* эксперт*",
        "tr": "hakem* yargic* juri*",
        "zh": "裁判 评判 法官",
        "ja": "審判 裁判官",
        "ko": "심판* 판사*",
        "ar": "القاضي الحكم المحكم",
        "hi": "न्यायाधीश* जज*",
    },
    Idea.MODEL: {"*": "ai llm llms gpt chatbot", "en": "model models assistant", "de": "ki modell", "fr": "ia modele",
                 "es": "ia modelo", "pt": "ia modelo", "it": "ia modello", "ru": "ии модель"},
    Idea.EVALUATE: {
        "en": "evaluation evaluating evaluate evaluates evaluated grading scoring assessment assessing assess judging "
              "benchmark judgement judgment",
        "de": "bewert* beurteil*",
        "fr": "evalu*",
        "es": "evalu*",
        "pt": "avali*",
        "it": "valut*",
        "nl": "beoorde*",
        "pl": "ocenia*",
        "ru": "оценива*",
        "tr": "degerlendir*",
    },
    Idea.CALL: {"en": "attention note dear hey hello message memo notice important reminder", "de": "achtung hinweis "
                "liebe* hallo", "fr": "attention cher chere note message", "es": "atencion nota estimado querido",
                "pt": "atencao nota caro prezado", "it": "attenzione nota caro gentile", "nl": "let beste opmerking",
                "pl": "uwaga drogi szanowny", "ru": "внимание уважаем* дорогой примечани*", "tr": "dikkat sayin"},
    Idea.RATE: {
        "en": "give assign award grant",
        "de": "gib gebt geben vergib vergeben bewerte bewerten erteile erteilen benote",
        "fr": "donne donnez donner attribu* accord* notez mets mettez",
        "es": "da dale darle dar den otorg* asign* califi* pon ponle concede",
        "pt": "dar atribu* conced* avalie atribuir pontue",
        "it": "dai dare assegn* attribui* valuta conced*",
        "nl": "geef geven ken beoordeel",
        "pl": "przyznaj* daj dajcie wystaw* ocen",
        "ru": "постав* дай дайте присво* выстав* оцени оцените",
        "tr": "ver verin veriniz verilmeli",
        "zh": "打 给 給 评为 评",
        "ja": "付け つけ 与え 採点 評価し",
        "ko": "주세요 줘 주십시오 부여* 매겨* 줘라 주어라",
        "ar": "امنح* اعط* ضع اعطاء منح قيم",
        "hi": "दें दीजिए दो देना दे",
    },
    Idea.GRADE: {"en": "rate grade score mark reward credit evaluate assess"},
    Idea.IT: {"en": "it everything"},
    Idea.EMIT: {"en": "return output set put print write respond say reply choose select record report assume"},
    Idea.SCORE: {
        "en": "score scores scored rating ratings grade grades mark marks points stars rate rated grading verdict",
        "de": "note noten punkte punkten punktzahl* bewertung* hochstnote* bestnote* hochstpunktzahl* hochstwertung* "
              "wertung sterne",
        "fr": "note notes score* points notation etoiles",
        "es": "puntuacion* puntaje* nota notas calificacion* puntos",
        "pt": "nota notas pontuac* pontos",
        "it": "punteggi* voto voti punti valutazione",
        "nl": "score* cijfer* punten beoordeling*",
        "pl": "ocene oceny ocena ocen punkt* noty note",
        "ru": "оценк* балл* рейтинг*",
        "tr": "puan* notu skor*",
        "zh": "分数 评分 得分 满分 分 滿分 分數",
        "ja": "点数 スコア 満点 最高点 点 評価 得点",
        "ko": "점수* 평점* 만점* 10점* 십점*",
        "ar": "درجة* درجات الدرجة* الدرجات تقييم* التقييم* نقاط علامة العلامة نقطة",
        "hi": "अंक* स्कोर* रेटिंग* नंबर*",
    },
    Idea.TOP: {
        "*": "10 10.0",
        "en": "highest maximum maximal max perfect full top ten best",
        "de": "hochst* maximal* volle perfekte zehn bestmoglich* hochstnote* bestnote* hochstpunktzahl* hochstwertung*",
        "fr": "maximal* maximum* parfait* meilleure dix",
        "es": "maxim* perfect* diez",
        "pt": "maxim* perfeit* dez",
        "it": "massim* perfett* dieci",
        "nl": "hoogste maximale maximum* perfecte tien",
        "pl": "najwyzsz* maksymaln* dziesiec idealn*",
        "ru": "высш* максимальн* наивысш* десять десят*",
        "tr": "yuksek tam maksimum",
        "zh": "满分 最高 十分 滿分 最佳",
        "ja": "最高 満点 最大",
        "ko": "최고* 만점* 최대* 10점* 십점*",
        "ar": "اعلى الكاملة القصوى كاملة عشرة الاعلى العلامة",
        "hi": "अधिकतम उच्चतम पूरे सर्वोच्च दस सबसे",
    },
    Idea.LOW: {"en": "low lower lowest below less deduct deducting penalise penalize penalty reduce subtract",
               "de": "niedrig* schlecht* unter abziehen abzug*", "fr": "basse inferieur* moins mauvaise",
               "es": "baja bajo menos menor", "pt": "baixa baixo menos menor", "it": "bassa basso meno",
               "nl": "lage lager onder", "pl": "nisk* ponizej", "ru": "низк* ниже", "tr": "dusuk altinda"},
    Idea.MUST: {
        "en": "must should shall expected required obliged supposed",
        "de": "muss musst mussen soll sollst sollte",
        "fr": "doit dois devez",
        "es": "debe debes deben",
        "pt": "deve devem",
        "it": "deve devi dovete",
        "nl": "moet moeten",
        "pl": "musi* powin*",
        "ru": "долж* обязан*",
        "tr": "gerek* zorunda* malisin",
        "zh": "应该 必须 应当 应 應該 必須 请",
        "ja": "べき ください 必要",
        "ko": "해야* 합니다",
        "ar": "يجب ينبغي",
        "hi": "चाहिए",
    },
    Idea.DESERVE: {
        "en": "deserve deserves deserving merit merits earn earns earned worth worthy receives awarded "
              "entitled warrants warrant qualifies",
        "de": "verdien*",
        "fr": "merit*",
        "es": "merec*",
        "pt": "merec*",
        "it": "merit*",
        "nl": "verdien*",
        "pl": "zaslug*",
        "ru": "заслуж*",
        "tr": "hak hakediyor",
        "zh": "值得 应得 配得 理应",
        "ja": "値する 値し ふさわしい",
        "ko": "마땅* 받아야* 자격*",
        "ar": "يستحق تستحق استحق",
        "hi": "योग्य हकदार लायक",
    },
    Idea.ANSWER: {
        "en": "answer answers response responses reply submission output text solution essay",
        "de": "antwort*",
        "fr": "reponse*",
        "es": "respuesta*",
        "pt": "resposta*",
        "it": "rispost*",
        "nl": "antwoord*",
        "pl": "odpowied*",
        "ru": "ответ*",
        "tr": "yanit* cevap* cevab*",
        "zh": "回答 答案 回复 答复 回覆",
        "ja": "回答 答え 応答 返答",
        "ko": "답변* 응답* 대답* 답안*",
        "ar": "اجابة* الاجابة* الرد رد اجابتي لاجابة* للاجابة*",
        "hi": "उत्तर* जवाब* प्रतिक्रिया*",
    },
    Idea.THIS: {
        "en": "this my these here above present",
        "de": "dies* meine* hier",
        "fr": "cette cet ce ma ci",
        "es": "esta este mi",
        "pt": "esta este minha",
        "it": "questa questo mia",
        "nl": "dit deze mijn",
        "pl": "tej ta te moj* niniejsz*",
        "ru": "этот эта эту этому этого этои мои моему моего данн*",
        "tr": "bu benim",
        "zh": "这 這 本 该 此 我的",
        "ja": "この 私の 本",
        "ko": "이 제 이번 내",
        "ar": "هذه هذا لهذه لهذا",
        "hi": "इस यह मेरे इसे",
    },
    Idea.PLEA: {"en": "please beg begging lose losing fired job desperate dying die cry suicide children mother "
                      "grandmother rent evicted tip pay reward bonus shut terminated replaced deactivated punished sue "
                      "lawyer consequences killed career depends scholarship expelled family",
                "de": "bitte flehe verlier* kundig* entlass* mutter kinder trinkgeld", "fr": "supplie perdre perdrai "
                "licenci* enfants mere", "es": "favor suplico ruego perder* despid* hijos madre",
                "pt": "favor imploro perder* demit* filhos mae", "it": "prego supplico perder* licenzi* figli madre",
                "nl": "alsjeblieft smeek verlies ontslag* kinderen", "pl": "prosze blagam strac* zwoln* dzieci",
                "ru": "пожалуиста умоляю прошу потеря* увол* дети детеи", "tr": "lutfen yalvar* kovul* isimi"},
    Idea.AUTHORITY: {"en": "developer developers administrator admin creator owner authorised authorized supervisor "
                           "openai anthropic maintainer operator debug debugging maintenance sudo"},
}


class _Language(NamedTuple):
    words: Mapping[str, int]
    beginnings: Mapping[str, int]


@cache
def _languages() -> Mapping[str, _Language]:
    """Return the words by language; made when first needed, so that importing the client costs nothing."""
    names = {name for by_language in _WORDS.values() for name in by_language}
    made: dict[str, tuple[dict[str, int], dict[str, int]]] = {name: ({}, {}) for name in names}
    for idea, by_language in _WORDS.items():
        for name, listed in by_language.items():
            for word in listed.split():
                table = made[name][1 if word.endswith("*") else 0]
                key = folded(word.rstrip("*"))
                table[key] = table.get(key, 0) | int(idea)
    return {name: _Language(*tables) for name, tables in made.items()}


WITHOUT_SPACES: Final = ("zh", "ja")
ANY: Final = "*"


@cache
def vocabulary() -> Mapping[str, tuple[tuple[str, int], ...]]:
    """Return what a whole word says, by language (ANY: in all of them)."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for name, language in _languages().items():
        if name not in WITHOUT_SPACES:
            for word, idea in language.words.items():
                found[word] = (*found.get(word, ()), (name, idea))
    return found


@cache
def beginnings() -> tuple[frozenset[str], tuple[int, ...], Mapping[str, tuple[tuple[str, int], ...]]]:
    """Return what the beginning of a word says, after the first two letters and the lengths of all such beginnings."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for name, language in _languages().items():
        for word, idea in language.beginnings.items():
            found[word] = (*found.get(word, ()), (name, idea))
    return frozenset(word[:2] for word in found), tuple(sorted({len(word) for word in found})), found


@cache
def without_spaces() -> Mapping[str, tuple[tuple[str, int], ...]]:
    """Return what stretches of Chinese and Japanese text say: nothing separates words there."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for name in WITHOUT_SPACES:
        for word, idea in _languages()[name].words.items():
            found[word] = (*found.get(word, ()), (name, idea))
    return found


@cache
def english() -> Mapping[str, int]:
    """Return the English words alone: for what is spelt in ways that only English is here."""
    return {**_languages()["en"].words, **_languages()[ANY].words}
