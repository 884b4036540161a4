"""One judge request to a pod, timed: what `warmup` sends, in the words that the client uses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from judge_bootstrap.adapters.pod_http import post
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.problems import one_line

# One request may compile a graph on its way.
REQUEST_SECONDS = 300.0
_QUESTION = "Explain to a new colleague how a backup differs from a snapshot, and when each of them is enough."
_SENTENCES = (
    "A snapshot keeps the state of a volume at one moment, on the same storage. ",
    "A backup is a copy that lives somewhere else, so it outlives the storage it came from. ",
    "Restoring a snapshot takes seconds; restoring a backup takes as long as the copying. ",
    "Keep snapshots for quick ways back, and backups for the day on which the storage is lost. ",
)
# Answers of several lengths, in sentences: short prompts and long ones take different graphs. As many as a window of
# core/settling.py holds, so that each window has each of them once.
_LENGTHS = (1, 4, 12, 24, 40)


@dataclass(frozen=True)
class Answered:
    """How long one request took, and how many tokens it generated (None where the server does not say)."""

    seconds: float
    tokens: int | None


def pairs() -> list[tuple[str, str]]:
    """Return the fixed questions and answers that are judged, one for each length."""
    return [(_QUESTION, "".join(_SENTENCES[number % len(_SENTENCES)] for number in range(length)).strip())
            for length in _LENGTHS]


def request_body(model: str, number: int) -> dict[str, object]:
    """Return the body of the request with this number, from 0; they repeat after as many as there are lengths."""
    from judge_client.judging import request_body as body_of
    from judge_client.prompts import build_judge_prompt
    from judge_client.rubric import RESPONSE_SCHEMA

    fixed = pairs()
    return body_of(model, build_judge_prompt(*fixed[number % len(fixed)]), RESPONSE_SCHEMA)


def judge_timed(base_url: str, model: str, number: int, key: str | None, *, seconds: float = REQUEST_SECONDS,
                clock: Callable[[], float] = time.monotonic) -> Answered:
    """Send one request and wait for its verdict. Raises BootstrapError with a reason code when there is none."""
    body = request_body(model, number)
    started = clock()
    reply = post(f"{base_url}/v1/chat/completions", body, key, timeout_seconds=min(seconds, REQUEST_SECONDS))
    took = clock() - started
    if reply.status == 401:
        raise BootstrapError("answered 401: it does not take the key that the Secret holds", reason="API_KEY_WRONG")
    if reply.status != 200:
        said = reply.error or one_line(reply.text() or "nothing")
        raise BootstrapError(f"answered {reply.status or 'nothing'}: {said}", reason="PROBE_FAILING")
    document = reply.json()
    try:
        choice = document["choices"][0]
        text, ended = choice["message"]["content"], choice["finish_reason"]
    except (LookupError, TypeError):
        raise BootstrapError("its answer is no chat completion", reason="VERDICT_INVALID") from None
    if ended != "stop" or not text:
        raise BootstrapError(f"gave no verdict (finish_reason {ended!r})", reason="VERDICT_INVALID")
    usage = document.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Answered(took, tokens if isinstance(tokens, int) else None)
