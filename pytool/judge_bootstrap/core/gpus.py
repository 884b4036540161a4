"""The GPUs of EC2's instance families, as far as vLLM's arguments depend on them.

Sources: AWS's instance type pages (families, cards, memory), NVIDIA's list of compute capabilities; bfloat16 needs 8.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from judge_bootstrap.core.errors import UsageProblem


@dataclass(frozen=True)
class Gpu:
    """One card: compute capability as (major, minor), memory in GiB as it is sold."""

    capability: tuple[int, int]
    memory_gib: int

    @property
    def bfloat16(self) -> bool:
        return self.capability >= (8, 0)


GPUS = {
    "t4": Gpu((7, 5), 16),
    "t4g": Gpu((7, 5), 16),
    "a100": Gpu((8, 0), 40),
    "a100-80gb": Gpu((8, 0), 80),
    "a10g": Gpu((8, 6), 24),
    "l4": Gpu((8, 9), 24),
    "l40s": Gpu((8, 9), 48),
    "h100": Gpu((9, 0), 80),
    "h200": Gpu((9, 0), 141),
    "b200": Gpu((10, 0), 179),
    "b300": Gpu((10, 3), 268),
    "rtx-pro-6000": Gpu((12, 0), 96),
}

FAMILIES = {
    "g4dn": "t4",
    "g5": "a10g",
    "g5g": "t4g",
    "g6": "l4",
    "gr6": "l4",
    "g6e": "l40s",
    "g7e": "rtx-pro-6000",
    "p4d": "a100",
    "p4de": "a100-80gb",
    "p5": "h100",
    "p5e": "h200",
    "p5en": "h200",
    "p6-b200": "b200",
    "p6-b300": "b300",
}

# Families with a GPU that vLLM does not serve on, and why.
REFUSED_FAMILIES = {
    "p2": "its K80 is too old",
    "p3": "its V100 has compute capability 7.0, vLLM needs 7.5",
    "p3dn": "its V100 has compute capability 7.0, vLLM needs 7.5",
    "g3": "its M60 has compute capability 5.2, vLLM needs 7.5",
    "g3s": "its M60 has compute capability 5.2, vLLM needs 7.5",
    "g4ad": "its GPU is AMD's",
    "g6f": "it has a share of a GPU only",
    "gr6f": "it has a share of a GPU only",
}


def gpus_of(instance_types: Iterable[str]) -> list[str]:
    """Return the GPUs of these instance types (`g5.xlarge`), by the names of GPUS, each once and sorted.

    Raises UsageProblem for a type that has none, or none that is known here.
    """
    found = set()
    for instance_type in sorted(set(instance_types)):
        family = instance_type.partition(".")[0]
        if family not in FAMILIES:
            why = REFUSED_FAMILIES.get(family, "it is no GPU instance type that is known here")
            raise UsageProblem(
                f"vLLM cannot serve on {instance_type}: {why}",
                hint=f"use a family of {', '.join(sorted(FAMILIES))}, or set vllm_k8s_gpu",
            )
        found.add(FAMILIES[family])
    return sorted(found)
