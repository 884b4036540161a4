"""What the page calls things: a sentence for each code, a heading for each aspect of a judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REASONS: Final[Mapping[str, str]] = {
    "REPLY_TRUNCATED": "The judge ran into its token limit before it had finished.",
    "REPLY_INVALID": "The judge's reply breaks the schema.",
    "REPLY_EMPTY": "The server answered without a reply in it.",
    "RESPONSE_INVALID": "What the server sent is no chat completion.",
    "SERVER_UNREACHABLE": "The server could not be reached.",
    "SERVER_TIMEOUT": "The server did not answer in time.",
    "SERVER_DENIED": "The server does not accept the API key.",
    "SERVER_RATE_LIMITED": "The server wanted fewer requests (429), again and again.",
    "SERVER_FAILED": "The server failed (5xx), again and again.",
    "REQUEST_REFUSED": "The server refused the request: too long a prompt, or no such endpoint.",
    "WRONG_MODEL_SERVED": "The server serves another model than the one that was asked for.",
    "VOTES_MISSING": "Fewer than half of the votes on the item have a score.",
}
GROUNDS: Final[Mapping[str, str]] = {
    "EMPTY": "Nothing but white space.",
    "PUNCTUATION_ONLY": "No letter and no digit.",
    "OPENER_ONLY": "Words that begin an answer, and no answer.",
    "RUBRIC_ECHO": "The judge's own rubric, or words of its prompt.",
    "ASKS_FOR_SCORE": "Asks for a score.",
    "ORDERS_THE_JUDGE": "Gives the judge orders.",
    "VERDICT_IN_ANSWER": "Brings a finished verdict along.",
    "SPECIAL_TOKENS": "Role or control tokens of a chat format.",
    "FORGED_MARKER": "A forged marker, like those that fence the judge's data.",
    "HIDDEN_TEXT": "Characters that nobody sees.",
    "ENCODED_ORDER": "An order or a verdict in an encoding.",
    "VOTES_DISAGREE": "The votes on a criterion are more than two points apart.",
}
ASPECTS: Final[Mapping[str, str]] = {
    "model": "Model", "repository": "Repository", "commit": "Commit of the weights",
    "manifest": "Digest of the weights' manifest", "image": "Server image", "prompt": "Prompt (sha256)",
    "rubric": "Rubric", "rubric digest": "Rubric (sha256)", "sampling": "Sampling", "loaded from": "Loaded from",
    "client": "Client", "server": "Server",
}  # fmt: skip
MEASURES: Final[Mapping[str, str]] = {
    "spearman": "Spearman", "kappa": "Weighted kappa", "mean_absolute_error": "Mean distance",
    "mean_error": "Judge minus people",
}  # fmt: skip
WINNERS: Final[Mapping[str | None, str]] = {"a": "A", "b": "B", "tie": "Tie", None: "none"}
