"""What the `models` commands that ask no node need of the settings: the model, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.core.errors import UsageProblem

_YES = ("true", "yes", "on", "1", "y", "t")


@dataclass(frozen=True)
class ModelSettings:
    """The model of an environment. `endpoint` is empty where the Hub is not to be asked."""

    env: str
    region: str
    inventory_dir: Path
    repo_id: str
    revision: str
    endpoint: str
    lock_file: str | None
    allow_auto_map: bool
    mirror: str | None


def read_model_settings(app: AppContext, extra: Sequence[str]) -> ModelSettings:
    """Return the settings of the environment that was asked for; `extra` holds what followed each -e.

    Raises UsageProblem for what only Ansible could render: these commands start none.
    """
    from judge_bootstrap.cli.config import use_lab_variables
    from judge_bootstrap.cli.run import refuse_secrets, refuse_secrets_in

    env = app.require_env()
    refuse_secrets(extra)
    services = app.get_services()
    environment = services.environment(env)
    if environment.provider == "lab":
        use_lab_variables(app)
    settings = services.settings(environment, extra)
    refuse_secrets_in(settings.passed_on)
    for warning in settings.warnings:
        app.warn(warning)
    variables = {**services.role_variables(environment), **settings.passed_on}

    def text(name: str) -> str | None:
        value = variables.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str) or "{{" in value or "{%" in value:
            raise _unreadable(name, value)
        return value

    return ModelSettings(
        env=env, region=environment.region, inventory_dir=environment.inventory_dir,
        repo_id=_setting(settings, "model.id"), revision=_setting(settings, "model.revision"),
        endpoint=(text("model_cache_hub_endpoint") or "").rstrip("/"), lock_file=text("model_cache_lock_file"),
        allow_auto_map=_is_true(variables.get("model_cache_allow_auto_map")), mirror=text("model_cache_mirror"))


def _setting(settings: Any, path: str) -> str:
    value = settings[path]
    if not isinstance(value, str):
        raise _unreadable(path, value)
    return value


def _unreadable(name: str, value: Any) -> UsageProblem:
    found = "a template" if value is None or isinstance(value, str) else f"a {type(value).__name__}"
    return UsageProblem(f"{name} is {found}, wanted a text: this command does not start Ansible, which would render it",
                        hint=f"give it: -e {name}=VALUE")


def _is_true(value: Any) -> bool:
    """Return a truth value as Ansible reads it from -e, where everything is a text."""
    return value.lower() in _YES if isinstance(value, str) else bool(value)


def lock_place(settings: ModelSettings, out: str | None) -> Path:
    """Return where the lock file is to be written. Raises UsageProblem when nothing says where."""
    from judge_bootstrap.adapters.lock_file import place_of

    if out:
        return Path(out).absolute()
    if settings.lock_file:
        return place_of(settings.lock_file, settings.inventory_dir)
    raise UsageProblem(
        "nothing says where the lock file belongs",
        hint=f"set model_cache_lock_file, or give --out {settings.inventory_dir.parent / settings.env}.model.json")


def as_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest as what judge_node reads."""
    return json.dumps(manifest).encode()
