"""What the `models` commands that ask no node need of the settings: the model, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.core.errors import UsageProblem

# (variables, names, inventory folder): the variables of those names, rendered (Services.render).
Render = Callable[[Mapping[str, Any], Iterable[str], Path], dict[str, Any]]
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

    Raises UsageProblem for what is wrong, and for what Ansible cannot render without a host.
    """
    return model_settings_of(app.get_services().render, *effective_variables(app, extra))


def effective_variables(app: AppContext, extra: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Return the environment that was asked for and every role variable of it by name, nothing rendered.

    The order is a run's: role defaults, group_vars, AppConfig, JUDGE_BOOTSTRAP_* variables, -e. Raises UsageProblem.
    """
    from judge_bootstrap.cli.config import use_lab_variables
    from judge_bootstrap.cli.run import refuse_secrets, refuse_secrets_in

    name = app.require_env()
    refuse_secrets(extra)
    services = app.get_services()
    environment = services.environment(name)
    if environment.provider == "lab":
        use_lab_variables(app)
    settings = services.settings(environment, extra)
    refuse_secrets_in(settings.passed_on)
    for warning in settings.warnings:
        app.warn(warning)
    return environment, {**services.role_variables(environment), **settings.extra_vars()}


_NAMES = ("model_cache_repo_id", "model_cache_revision", "model_cache_hub_endpoint", "model_cache_lock_file",
          "model_cache_allow_auto_map", "model_cache_mirror")


def model_settings_of(render: Render, environment: Any, variables: Mapping[str, Any]) -> ModelSettings:
    """Return the model out of all variables of an environment. Raises UsageProblem."""
    values = render(variables, _NAMES, environment.inventory_dir)

    def text(name: str) -> str | None:
        value = values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise UsageProblem(f"{name} is a {type(value).__name__}, wanted a text", hint=f"give it: -e {name}=VALUE")
        return value

    def need(name: str) -> str:
        found = text(name)
        if found is None:
            raise UsageProblem(f"{name} is empty, wanted a text", hint=f"give it: -e {name}=VALUE")
        return found

    return ModelSettings(
        env=environment.name, region=environment.region, inventory_dir=environment.inventory_dir,
        repo_id=need("model_cache_repo_id"), revision=need("model_cache_revision"),
        endpoint=(text("model_cache_hub_endpoint") or "").rstrip("/"), lock_file=text("model_cache_lock_file"),
        allow_auto_map=is_true(values.get("model_cache_allow_auto_map")), mirror=text("model_cache_mirror"))


def is_true(value: Any) -> bool:
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
