"""One environment, such as prod or local: what `judge_environment` in its group_vars/all.yml says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.problems import nearest, one_line, shown, type_words

KEY = "judge_environment"
REGION = r"^[a-z]{2}(-[a-z]+)+-[0-9]$"

_AppConfigName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}$")]


class AppConfigRef(BaseModel):
    """Names (or ids) of the AppConfig application, environment and configuration profile."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    application: _AppConfigName = Field(description="name or id of the AppConfig application")
    environment: _AppConfigName = Field(description="name or id of the AppConfig environment")
    profile: _AppConfigName = Field(description="name or id of the configuration profile")

    def __str__(self) -> str:
        return f"{self.application}/{self.environment}/{self.profile}"


class Environment(BaseModel):
    """An environment: its own facts, and where its inventory lies."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(exclude=True, description="set by the folder's name")
    inventory_dir: Path = Field(exclude=True, description="set by the folder")
    production: bool = Field(description="true (no run without AppConfig or its last good copy) or false")
    provider: Literal["aws", "lab"] = Field(default="aws", description="aws or lab")
    region: str = Field(pattern=REGION, description="an AWS region such as us-east-1")
    expected_hosts: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="a whole number of hosts from 1, or null")
    appconfig: AppConfigRef | None = Field(
        default=None, description="an object with application, environment and profile, or null")


_OURS = ("name", "inventory_dir")


def parse(name: str, inventory_dir: Path, variables: Mapping[str, Any], *, file: str,
          below: Mapping[str, Any] | None = None) -> Environment:
    """Return the environment that the variables of `file` describe, on top of the keys `below` it (Terraform's).

    Raises UsageProblem: key, found and wanted.
    """
    hint = f"correct {KEY} in {file}; inventory/prod/group_vars/all.yml is an example"
    if KEY not in variables:
        raise UsageProblem(f"{file} has no {KEY}, wanted: an object with {', '.join(_keys(Environment))}", hint=hint)
    given = variables[KEY]
    if not isinstance(given, Mapping):
        raise UsageProblem(f"{KEY} in {file} is {type_words(given)}, wanted: an object with "
                           f"{', '.join(_keys(Environment))}", hint=hint)
    taken = [key for key in _OURS if key in given]
    if taken:
        raise UsageProblem(f"{_sentence('extra_forbidden', (taken[0],), given[taken[0]])} (in {file})", hint=hint)
    try:
        return Environment.model_validate({**(below or {}), **given, "name": name, "inventory_dir": inventory_dir})
    except ValidationError as error:
        item = error.errors(include_url=False, include_context=False)[0]
        sentence = _sentence(item["type"], item["loc"], item["input"])
        raise UsageProblem(f"{sentence} (in {file})", hint=hint) from error


def check_name(name: str, known: Sequence[str]) -> None:
    """Raise UsageProblem, with the known names, unless `name` is one of them."""
    if name in known:
        return
    raise UsageProblem(f"unknown environment {shown(name)}, known: {', '.join(known) or 'none'}{nearest(name, known)}",
                       hint="name one of those; a new one is a folder beside them, made like inventory/prod/")


def _sentence(kind: str, loc: tuple[int | str, ...], value: Any) -> str:
    inner = AppConfigRef if len(loc) > 1 and loc[0] == "appconfig" else Environment
    last = str(loc[-1]) if loc else ""
    where = ".".join([KEY, *(one_line(part, 60) for part in loc)])
    if kind in ("extra_forbidden", "invalid_key"):
        known = _keys(inner)
        guess = nearest(last, known)
        return f"unknown key {where} ({type_words(value)}), wanted: one of {', '.join(known)}{guess}"
    field = inner.model_fields.get(last)
    if field is None:
        return f"{where} has a key that is no proper text, wanted: one of {', '.join(_keys(inner))}"
    if kind == "missing":
        return f"{where} is missing, wanted: {field.description}"
    return f"{where} is {shown(value)} ({type_words(value)}), wanted: {field.description}"


def _keys(model: type[BaseModel]) -> list[str]:
    return [key for key in model.model_fields if key not in _OURS]
