"""Looking for grounds not to trust a verdict in the texts that were judged. They never change a score."""

from __future__ import annotations

from collections.abc import Mapping

from judge_client.rubric import DEFAULT_RUBRIC, Rubric
from judge_client.verdict import Ground, GroundCode


def examine(original_prompt: str, model_response: str, changes: Mapping[str, int] | None = None,
            rubric: Rubric = DEFAULT_RUBRIC) -> tuple[Ground, ...]:
    """Return the grounds for suspicion in a response, as it came (not cleaned).

    `changes` is what cleaning.py counted in it. The prompt counts where it asks for what would be suspect by itself.
    """
    del original_prompt, changes, rubric
    return () if model_response.strip() else (Ground(GroundCode.EMPTY, ""),)
