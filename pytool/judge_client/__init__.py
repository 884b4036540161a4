"""Ask a self-hosted judge model for a verdict on an answer.

from judge_client import JudgeClient

with JudgeClient("http://judge-inference-service:8000") as judge:
    verdict = judge.judge("What is the capital of France?", "Paris.")
"""

from judge_client.client import JudgeClient
from judge_client.prompts import JUDGE_SYSTEM_PROMPT, JUDGE_USER_PROMPT_TEMPLATE, build_judge_prompt
from judge_client.rubric import CRITERIA, RESPONSE_SCHEMA
from judge_client.verdict import Reason, Status, Verdict

__version__ = "0.1.0"

__all__ = [
    "CRITERIA",
    "JUDGE_SYSTEM_PROMPT",
    "JUDGE_USER_PROMPT_TEMPLATE",
    "RESPONSE_SCHEMA",
    "JudgeClient",
    "Reason",
    "Status",
    "Verdict",
    "build_judge_prompt",
]
