"""How tests of roles reach code that is no package: modules and action plugins lie beside the tasks that use them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).resolve().parents[3]


def load(relative: str) -> ModuleType:
    """Return the Python file below the repository root as a module."""
    path = ROOT / relative
    spec = importlib.util.spec_from_file_location(f"tested_{path.stem}_{path.parent.name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run an Ansible module's main() with these parameters; return the JSON it exits with."""

    def run(module: ModuleType, params: Mapping[str, Any], check: bool = False) -> dict[str, Any]:
        with patch_module_args({**params, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run
