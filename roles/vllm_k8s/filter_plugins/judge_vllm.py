"""Filters that give the role vLLM's arguments; what they decide is in judge_bootstrap.core.vllm_arguments and gpus."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

# In a checkout; an installed judge-bootstrap has its packages on the path.
sys.path.append(str(Path(__file__).resolve().parents[3] / "pytool"))


def _asked(function: Callable[[], Any]) -> Any:
    from judge_bootstrap.core.errors import BootstrapError

    try:
        return function()
    except BootstrapError as error:
        raise AnsibleFilterError(error.for_module()["msg"]) from error


def judge_vllm_arguments(options: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `vllm serve` for these options (those of core.vllm_arguments.serve_arguments)."""
    from judge_bootstrap.core.vllm_arguments import serve_arguments

    return _asked(lambda: serve_arguments(**options))


def judge_vllm_environment(extra: Mapping[str, Any]) -> dict[str, str]:
    """Return the operator's environment with what holds the server to its arguments; refuses what would undo them."""
    from judge_bootstrap.core.vllm_arguments import environment

    return _asked(lambda: environment(extra))


def judge_vllm_remarks(tag: str | None, gpus: Iterable[str] = ()) -> list[str]:
    """Return sentences about an image's tag and GPUs that are accepted and still worth knowing."""
    from judge_bootstrap.core.vllm_arguments import remarks

    return _asked(lambda: remarks(tag, list(gpus)))


def judge_gpus(instance_types: Iterable[str]) -> list[str]:
    """Return the GPUs' names of these EC2 instance types."""
    from judge_bootstrap.core.gpus import gpus_of

    return _asked(lambda: gpus_of(instance_types))


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "judge_vllm_arguments": judge_vllm_arguments,
            "judge_vllm_environment": judge_vllm_environment,
            "judge_vllm_remarks": judge_vllm_remarks,
            "judge_gpus": judge_gpus,
        }
