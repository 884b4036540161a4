"""The roles' variables by name, with what each may hold: their argument specs, applied where no role runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from judge_bootstrap.core.documents import read_yaml_mapping
from judge_bootstrap.core.layers import nest
from judge_bootstrap.core.problems import Problem, find_problems, nearest, one_line, shown, type_words
from judge_bootstrap.core.redact import redactor
from judge_bootstrap.core.schema import BY_VARIABLE

_TEMPLATE = re.compile(r"\{\{|\{%|\{#")
_DEEPEST = 8
_LONGEST_TEXT = 4096
# By the type of an argument spec: what Python has for it, and what a person reads. A bool is no whole number here.
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"), "path": ((str,), "a text"), "int": ((int,), "a whole number"),
    "float": ((float, int), "a number"), "bool": ((bool,), "true or false"), "list": ((list,), "a list"),
    "dict": ((dict,), "an object"), "raw": ((object,), "a value")}


@dataclass(frozen=True)
class RoleVariable:
    """What the argument spec of one variable says."""

    type: str
    elements: str | None = None
    choices: tuple[Any, ...] = ()

    @property
    def wanted(self) -> str:
        """What it may hold, in words."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        if self.type == "list" and self.elements is not None:
            return f"a list, each item {_TYPES[self.elements][1]}"
        return _TYPES[self.type][1]

    def holds(self, value: Any) -> bool:
        """Tell whether `value` is of this type; Ansible would convert `"5"` to 5, and `yes` to true."""
        if self.choices:
            return value in self.choices and not isinstance(value, bool)
        items = value if self.type == "list" and isinstance(value, list) else []
        return _is(value, self.type) and all(_is(item, self.elements or "raw") for item in items)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind][0]) and (kind in ("bool", "raw") or not isinstance(value, bool))


def declared(text: str) -> dict[str, RoleVariable]:
    """Return the variables in the text of a role's meta/argument_specs.yml. Raises InvalidDocument."""
    main = read_yaml_mapping(text).get("argument_specs", {}).get("main", {})
    return {name: RoleVariable(option.get("type", "str"), option.get("elements"), tuple(option.get("choices", ())))
            for name, option in main.get("options", {}).items()}


def variable_problems(variables: Mapping[Any, Any], known: Mapping[str, RoleVariable]) -> list[Problem]:
    """Return what is wrong with values of role variables that a program wrote: strictly typed, nothing to render."""
    found = [problem for name, value in variables.items() if (problem := _problem(name, value, known)) is not None]
    if found:
        return found
    settings = {BY_VARIABLE[name].path: value for name, value in variables.items() if name in BY_VARIABLE}
    # Only what is whole is held against itself: the store's path against that of the mount.
    return find_problems(nest({"storage.nvme_device": None, **settings}))


def _problem(name: Any, value: Any, known: Mapping[str, RoleVariable]) -> Problem | None:
    where = one_line(name, 60)
    if name not in known:
        # The value is not shown: what stands under a name that nobody knows may be a secret.
        return Problem(where, f"unknown role variable {where} ({type_words(value)}){nearest(str(name), known)}")
    if (why := _unfit(value)) is not None:
        return Problem(where, f"{where} {why}")
    if value is not None and not known[name].holds(value):
        return Problem(where, f"{where} is {shown(value)} ({type_words(value)}), wanted: {known[name].wanted}")
    return None


def _unfit(value: Any, depth: int = 0) -> str | None:
    """Return why no variable may hold `value`, None where it may: Ansible renders what it reads in an inventory."""
    if depth > _DEEPEST:
        return "is nested too deeply"
    if isinstance(value, str):
        if redactor().clean(value) != value and value.isprintable():
            return "looks like a credential, wanted: none here, but the name of the secret that holds it"
        if not value.isprintable() or len(value) > _LONGEST_TEXT:
            return f"has a text that is not one line of at most {_LONGEST_TEXT} visible characters"
        return "has a template in it, wanted: a plain value" if _TEMPLATE.search(value) else None
    if isinstance(value, Mapping):
        inside: list[Any] = [*value, *value.values()]
    else:
        inside = value if isinstance(value, list) else []
        if not isinstance(value, (list, bool, int, float, type(None))):
            return f"is {type_words(value)}, wanted: a plain value"
    return next((why for item in inside if (why := _unfit(item, depth + 1)) is not None), None)
