"""Load an environment and its settings from the files, variables and services that they come from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters import appconfig
from judge_bootstrap.adapters.appconfig import AppConfigLayer, AppConfigSource
from judge_bootstrap.adapters.places import inventory_roots, known_environments
from judge_bootstrap.adapters.state import LastGoodFile, state_dir
from judge_bootstrap.content import content_root
from judge_bootstrap.core import environment as core_environment
from judge_bootstrap.core import layers
from judge_bootstrap.core.documents import InvalidDocument, read_yaml_mapping
from judge_bootstrap.core.environment import AppConfigRef, Environment
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.layers import NamedText
from judge_bootstrap.core.settings import Settings

_GROUP = "gpu_nodes"
# Ansible's own, in its order (YAML_FILENAME_EXTENSIONS).
_ENDINGS = (".yml", ".yaml", ".json")


def load_environment(name: str, inventory: Path | None = None) -> Environment:
    """Return the environment `name`.

    Raises UsageProblem for an unknown name, with the known ones, and for a missing or wrong `judge_environment`.
    """
    core_environment.check_name(name, known_environments(inventory))
    # The first folder of that name, whole or not: going on to the program's own would be another cluster.
    folder = next(root / name for root in inventory_roots(inventory) if (root / name).is_dir())
    files = _group_vars(folder, "all")
    if not files:
        raise UsageProblem(f"{folder}/group_vars/all.yml is not there",
                           hint="make it like inventory/prod/group_vars/all.yml")
    for file in reversed(files):
        try:
            variables = read_yaml_mapping(file.text)
        except InvalidDocument as error:
            raise UsageProblem(f"{file.name}: {error}", hint=f"correct {file.name}") from error
        if core_environment.KEY in variables:
            return core_environment.parse(name, folder, variables, file=file.name)
    _refuse_unread(folder)
    return core_environment.parse(name, folder, {}, file=files[0].name)


def _refuse_unread(folder: Path) -> None:
    """Raise UsageProblem where a group_vars/all.yml stands there that Ansible does not read."""
    chosen = folder / "group_vars" / "all"
    beside = next((path for ending in _ENDINGS if (path := chosen.with_name(f"all{ending}")).is_file()), None)
    if chosen.exists() and beside is not None:
        raise UsageProblem(f"{_short(beside)} is not read: Ansible takes group_vars/all, which stands beside it, and "
                           f"that has no {core_environment.KEY}", hint=f"mv {_short(beside)} {_short(chosen)}/main.yml")


@dataclass(frozen=True)
class Loaded:
    """The settings of an environment, and how AppConfig took part."""

    environment: Environment
    settings: Settings
    appconfig: AppConfigLayer


def load(environment: Environment, extra: Sequence[str] = (), *, environ: Mapping[str, str] | None = None,
         source: Callable[[AppConfigRef, str], AppConfigSource] = appconfig.AwsAppConfig,
         now: Callable[[], float] = time.time) -> Loaded:
    """Return the settings of `environment` from all layers; `extra` holds what followed each -e.

    Raises UsageProblem, naming the place, for the first thing that is wrong in any of them.
    """
    environ = os.environ if environ is None else environ
    defaults_files, role_variables = _role_defaults()
    defaults = layers.from_role_defaults(defaults_files)
    inventory = layers.from_inventory([*_group_vars(environment.inventory_dir, "all"),
                                       *_group_vars(environment.inventory_dir, _GROUP)])
    # Flags and variables are checked before AWS is asked: a typing error needs no network to be found.
    variables = layers.from_environment(environ)
    flags, warnings = layers.from_flags(extra, read_file=_read_vars_file, role_variables=role_variables)
    below = {**defaults, **inventory}
    if environment.appconfig is None:
        live = AppConfigLayer("absent")
    else:
        live = appconfig.read(environment, below, source(environment.appconfig, environment.region),
                              LastGoodFile(state_dir(environment.name)), now=now)
    settings = layers.merge(environment.name, [below, live.values, variables, flags.values],
                            passed_on=flags.passed_on, warnings=[*live.warnings, *warnings])
    return Loaded(environment, settings, live)


def load_settings(name: str, extra: Sequence[str] = (), inventory: Path | None = None) -> Settings:
    """Return the settings of the environment `name`. Raises UsageProblem."""
    return load(load_environment(name, inventory), extra).settings


def role_variables(environment: Environment) -> dict[str, Any]:
    """Return the roles' variables below AppConfig (defaults, then group_vars) as YAML has them, nothing rendered."""
    files, _ = _role_defaults()
    files += [file for group in ("all", _GROUP) for file in _group_vars(environment.inventory_dir, group)]
    return {name: value for file in files for name, value in read_yaml_mapping(file.text).items()}


def _role_defaults() -> tuple[list[NamedText], set[str]]:
    root = content_root()
    files = [NamedText(str(path.relative_to(root)), _read(path))
             for path in sorted(root.glob("roles/*/defaults/main.yml"))]
    try:
        names = {name for file in files for name in read_yaml_mapping(file.text)}
    except InvalidDocument as error:
        raise UsageProblem(f"a role's defaults/main.yml below {root} cannot be read: {error}",
                           hint="reinstall judge-bootstrap") from error
    return files, names


def _group_vars(folder: Path, group: str) -> list[NamedText]:
    """Return the variable files of a group that Ansible reads, in the order in which it lets a later one win."""
    base = folder / "group_vars"
    try:
        # As DataLoader.find_vars_files: the first of these that is there counts, and those behind it are not read.
        for place in (base / group, *(base / f"{group}{ending}" for ending in _ENDINGS)):
            if place.exists():
                return [NamedText(_short(path), _read(path)) for path in _variable_files(place)]
    except OSError as error:
        where = Path(error.filename or base)
        raise UsageProblem(f"{_short(where)} cannot be read: {error.strerror}", hint=f"ls -ld {where}") from error
    return []


def _variable_files(place: Path) -> list[Path]:
    """Return the file itself, or those that Ansible reads in a folder: none hidden, none of another kind."""
    if not place.is_dir():
        return [place]
    found: list[Path] = []
    for path in sorted(place.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.name.endswith("~"):
            continue
        if path.is_dir() and "." not in path.name:
            found += _variable_files(path)
        elif path.is_file() and ("." not in path.name or path.name.endswith(_ENDINGS)):
            found.append(path)
    return found


def _short(path: Path) -> str:
    """Return the path as people type it: relative where it lies below the working directory or the content."""
    for root in (Path.cwd(), content_root()):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{_short(path)} is not UTF-8 (byte {error.start})", hint="store it as UTF-8") from error
    except OSError as error:
        raise UsageProblem(f"{_short(path)} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error
    # A file that ansible-vault encrypted as a whole holds nothing that we may read.
    return "" if text.startswith("$ANSIBLE_VAULT;") else text


def _read_vars_file(name: str) -> str:
    try:
        path = Path(name).expanduser()  # as Ansible does: no shell expands the ~ behind an @
        if not path.is_file() and not path.is_char_device() and not path.is_fifo():
            raise UsageProblem(f"-e @{ascii(name)[1:-1]}: no such file", hint="write -e @FILE, a file of YAML or JSON")
        return _read(path)
    except (ValueError, RuntimeError) as error:  # a NUL byte in the name; ~ of a user that there is not
        raise UsageProblem(f"-e @{name!a}: no such file", hint="write -e @FILE, a file of YAML or JSON") from error
