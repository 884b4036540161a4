"""The settings of one run: a value for every path, and where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from judge_bootstrap.core.schema import FIELDS

LayerName = Literal["default", "terraform", "inventory", "appconfig", "env", "flag"]
ABOVE_THE_INVENTORY: tuple[LayerName, ...] = ("appconfig", "env", "flag")
TEMPLATED = "(templated, not shown)"


class Source(BaseModel):
    """Where a value came from.

    `detail` names the file, the AppConfig document, the variable or the flag. `version`, `age_seconds` (since it was
    fetched) and `live` (False: the last good copy) are AppConfig's and None elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: LayerName
    detail: str
    version: str | None = None
    age_seconds: int | None = None
    live: bool | None = None

    def __str__(self) -> str:
        copy = ", last good copy" if self.live is False else ""
        version = f" version {self.version}" if self.version else ""
        return f"{self.layer}: {self.detail}{version}{copy}"


class Value(BaseModel):
    """One setting's value. A templated one is Ansible's to render: not checked, not shown, and `value` is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str | int | float | None
    source: Source
    templated: bool = False

    @property
    def shown(self) -> str | int | float | None:
        """The value as people and JSON see it."""
        return TEMPLATED if self.templated else self.value


class Settings(BaseModel):
    """The settings of one run, made by `layers.merge`; `warnings` are lines that the operator has to see."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str
    values: Mapping[str, Value]
    passed_on: Mapping[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __getitem__(self, path: str) -> str | int | float | None:
        """Return the value at `path` (`vllm.port`), None where it is templated. Raises KeyError for an unknown path."""
        return self.values[path].value

    def extra_vars(self) -> dict[str, Any]:
        """Return, by role variable, what was set above the inventory, and the -e values that are no settings."""
        above = {FIELDS[path].variable.name: item.value for path, item in self.values.items()
                 if item.source.layer in ABOVE_THE_INVENTORY}
        return {**self.passed_on, **above}
