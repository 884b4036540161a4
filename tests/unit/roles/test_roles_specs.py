"""The typed interface of a role and its defaults say the same, and every default is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[3] / "roles"
WITH_VARIABLES = ("nvme", "model_cache", "vllm_k8s")
TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "list": (list,), "dict": (dict,),
    # What may also be null, and has another default: Ansible takes null for no other type then.
    "raw": (object,),
}


def defaults(role: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROLES / role / "defaults/main.yml").read_text())
    return loaded


def specs(role: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return loaded


@pytest.mark.parametrize("role", WITH_VARIABLES)
def test_every_entry_point_declares_exactly_the_defaults_values_included(role: str) -> None:
    for entry, spec in specs(role).items():
        declared = {name: option["default"] for name, option in spec["options"].items()}
        assert declared == defaults(role), f"{role}, entry point {entry}"


@pytest.mark.parametrize("role", WITH_VARIABLES)
def test_every_default_has_the_declared_type(role: str) -> None:
    for name, option in specs(role)["main"]["options"].items():
        value = defaults(role)[name]
        assert value is None or isinstance(value, TYPES[option["type"]]), f"{name} is {value!r}, not {option['type']}"
        assert value is None or value in option.get("choices", [value])


@pytest.mark.parametrize("role", WITH_VARIABLES)
def test_every_variable_carries_the_name_of_its_role(role: str) -> None:
    assert [name for name in defaults(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", WITH_VARIABLES)
def test_every_default_is_explained_by_a_sentence_above_it(role: str) -> None:
    explained = False
    for line in (ROLES / role / "defaults/main.yml").read_text().splitlines():
        if line.startswith("#"):
            explained = True
        elif not line:
            explained = False
        elif line[0].isalpha():
            assert explained, f"{role}: no sentence above {line!r}"


@pytest.mark.parametrize("role", WITH_VARIABLES)
def test_every_tasks_file_that_others_call_is_an_entry_point(role: str) -> None:
    # include_role with tasks_from checks the arguments of an entry point of that name only.
    assert {"main", "preflight", "verify"} <= set(specs(role))
    assert {entry for entry in specs(role) if not (ROLES / role / f"tasks/{entry}.yml").is_file()} == set()


@pytest.mark.parametrize("role", [path.name for path in sorted(ROLES.iterdir())])
def test_every_role_has_a_readme_that_names_its_variables(role: str) -> None:
    text = (ROLES / role / "README.md").read_text()
    names = defaults(role) if role in WITH_VARIABLES else {}
    assert [name for name in names if f"`{name}`" not in text] == []
