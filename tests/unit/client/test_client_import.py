"""What `import judge_client` costs: applications pay for it whether they judge or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PYTOOL = Path(__file__).parents[3] / "pytool"
HEAVY = {"openai", "httpx", "httpx2", "pydantic", "asyncio", "ssl", "boto3", "ansible", "scipy", "sklearn", "pyarrow",
         "jinja2", "click", "rich", "judge_bootstrap", "judge_node"}


def python(code: str) -> tuple[str, float]:
    """Run code in a bare interpreter; return what it printed, and the user's CPU seconds it took."""
    before = os.times().children_user
    found = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(PYTOOL)}, capture_output=True,
                           text=True, check=True)
    return found.stdout.strip(), os.times().children_user - before


def test_importing_the_client_loads_nothing_heavy() -> None:
    code = "import sys; bare = set(sys.modules); import judge_client; print(*(set(sys.modules) - bare))"
    loaded = {name.partition(".")[0] for name in python(code)[0].split()}
    assert "judge_client" in loaded
    assert loaded & HEAVY == set()


def test_making_a_client_loads_nothing_heavy() -> None:
    code = ("import sys, judge_client as j; j.JudgeClient('http://judge'); j.JudgeInferenceClient(); "
            "j.build_judge_prompt('q', 'a'); print(*sys.modules)")
    assert {name.partition(".")[0] for name in python(code)[0].split()} & HEAVY == set()


def test_importing_the_client_takes_well_under_a_tenth_of_a_second() -> None:
    # The least of several, and CPU time: other processes make a run slower, never faster.
    with_it = min(python("import judge_client")[1] for _ in range(5))
    without = min(python("pass")[1] for _ in range(5))
    assert with_it - without < 0.1


def test_all_that_is_promised_can_be_imported() -> None:
    code = "from judge_client import *; import judge_client as j; print(all(hasattr(j, name) for name in j.__all__))"
    assert python(code)[0] == "True"
