"""Ask a self-hosted judge model for a verdict on an answer.

from judge_client import JudgeClient

with JudgeClient("http://judge-inference-service:8000") as judge:
    verdict = judge.judge("What is the capital of France?", "Paris.")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from judge_client.client import JudgeClient
from judge_client.inference_client import JudgeInferenceClient
from judge_client.pairs import Comparison, Winner
from judge_client.prompts import JUDGE_SYSTEM_PROMPT, JUDGE_USER_PROMPT_TEMPLATE, build_judge_prompt
from judge_client.rubric import CRITERIA, DEFAULT_RUBRIC, RESPONSE_SCHEMA, Criterion, Rubric
from judge_client.verdict import Ground, GroundCode, Provenance, Reason, Status, Verdict

if TYPE_CHECKING:
    from judge_client.async_client import AsyncJudgeClient

__version__ = "0.1.0"

__all__ = [
    "CRITERIA",
    "DEFAULT_RUBRIC",
    "JUDGE_SYSTEM_PROMPT",
    "JUDGE_USER_PROMPT_TEMPLATE",
    "RESPONSE_SCHEMA",
    "AsyncJudgeClient",
    "Comparison",
    "Criterion",
    "Ground",
    "GroundCode",
    "JudgeClient",
    "JudgeInferenceClient",
    "Provenance",
    "Reason",
    "Rubric",
    "Status",
    "Verdict",
    "Winner",
    "build_judge_prompt",
]


def __getattr__(name: str) -> Any:
    # asyncio takes a third of the import's time; who judges from threads never needs it.
    if name == "AsyncJudgeClient":
        from judge_client.async_client import AsyncJudgeClient

        return AsyncJudgeClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
