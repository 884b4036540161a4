"""Load an environment and its settings from the files, variables and services that they come from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters import appconfig, terraform
from judge_bootstrap.adapters.appconfig import AppConfigLayer, AppConfigSource
from judge_bootstrap.adapters.places import folder_of, known_environments, short_name
from judge_bootstrap.adapters.state import LastGoodFile, state_dir
from judge_bootstrap.adapters.terraform import TerraformFile
from judge_bootstrap.content import content_root
from judge_bootstrap.core import environment as core_environment
from judge_bootstrap.core import layers
from judge_bootstrap.core import terraform as core_terraform
from judge_bootstrap.core.documents import InvalidDocument, read_yaml_mapping
from judge_bootstrap.core.environment import AppConfigRef, Environment
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.layers import NamedText
from judge_bootstrap.core.settings import Settings
from judge_bootstrap.core.terraform import Difference, TerraformOutput

_GROUP = "gpu_nodes"
# Ansible's own, in its order (YAML_FILENAME_EXTENSIONS).
_ENDINGS = (".yml", ".yaml", ".json")


def load_environment(name: str, inventory: Path | None = None) -> Environment:
    """Return the environment `name`.

    Raises UsageProblem for an unknown name, with the known ones, and for a missing or wrong `judge_environment`.
    """
    core_environment.check_name(name, known_environments(inventory))
    folder = folder_of(name, inventory)
    files = _group_vars(folder, "all")
    if not files:
        raise UsageProblem(f"{folder}/group_vars/all.yml is not there",
                           hint="make it like inventory/prod/group_vars/all.yml")
    made = terraform.read_file(folder)
    below = made.output.judge_environment if made else {}
    if (own := _own_environment(files)) is not None:
        file, variables = own
        return core_environment.parse(name, folder, variables, file=file, below=below)
    _refuse_unread(folder)
    return core_environment.parse(name, folder, {}, file=files[0].name)


def _refuse_unread(folder: Path) -> None:
    """Raise UsageProblem where a group_vars/all.yml stands there that Ansible does not read."""
    chosen = folder / "group_vars" / "all"
    beside = next((path for ending in _ENDINGS if (path := chosen.with_name(f"all{ending}")).is_file()), None)
    if chosen.exists() and beside is not None:
        raise UsageProblem(f"{short_name(beside)} is not read: Ansible takes group_vars/all, which stands beside it, "
                           f"and that has no {core_environment.KEY}",
                           hint=f"mv {short_name(beside)} {short_name(chosen)}/main.yml")


@dataclass(frozen=True)
class Loaded:
    """The settings of an environment, and how AppConfig and Terraform took part.

    `overridden` names the group_vars file that wins over something that Terraform says: a variable of a role, or a key
    of judge_environment as `judge_environment.region`.
    """

    environment: Environment
    settings: Settings
    appconfig: AppConfigLayer
    terraform: TerraformFile | None = None
    overridden: Mapping[str, str] = field(default_factory=dict)


def load(environment: Environment, extra: Sequence[str] = (), *, environ: Mapping[str, str] | None = None,
         source: Callable[[AppConfigRef, str], AppConfigSource] = appconfig.AwsAppConfig,
         now: Callable[[], float] = time.time) -> Loaded:
    """Return the settings of `environment` from all layers; `extra` holds what followed each -e.

    Raises UsageProblem, naming the place, for the first thing that is wrong in any of them.
    """
    environ = os.environ if environ is None else environ
    defaults_files, role_variables = _role_defaults()
    defaults = layers.from_role_defaults(defaults_files)
    made = terraform.read_file(environment.inventory_dir)
    from_terraform = layers.from_terraform(made.output.variables, made.name) if made else {}
    files = [file for group in ("all", _GROUP) for file in _group_vars(environment.inventory_dir, group)]
    inventory = layers.from_inventory(files)
    # Flags and variables are checked before AWS is asked: a typing error needs no network to be found.
    variables = layers.from_environment(environ)
    flags, warnings = layers.from_flags(extra, read_file=_read_vars_file, role_variables=role_variables)
    below = {**defaults, **from_terraform, **inventory}
    if environment.appconfig is None:
        live = AppConfigLayer("absent")
    else:
        live = appconfig.read(environment, below, source(environment.appconfig, environment.region),
                              LastGoodFile(state_dir(environment.name)), now=now)
    settings = layers.merge(environment.name, [below, live.values, variables, flags.values],
                            passed_on=flags.passed_on, warnings=[*live.warnings, *warnings])
    return Loaded(environment, settings, live, made, _overridden(made, environment.inventory_dir) if made else {})


def _overridden(made: TerraformFile, folder: Path) -> dict[str, str]:
    """Return what Terraform says and group_vars say too, by name, with the file that wins."""
    winners: dict[str, str] = {}
    keys: dict[str, str] = {}
    for group in ("all", _GROUP):
        for file in _group_vars(folder, group):
            variables = read_yaml_mapping(file.text)
            winners |= dict.fromkeys(variables, file.name)
            ours = variables.get(core_environment.KEY)
            if group == "all" and isinstance(ours, Mapping):
                # Ansible replaces an object as a whole, and so do we among files of group_vars.
                keys = {f"{core_environment.KEY}.{key}": file.name for key in ours}
    said = {*made.output.variables, *(f"{core_environment.KEY}.{key}" for key in made.output.judge_environment)}
    return {name: file for name, file in {**winners, **keys}.items() if name in said}


def compare_environment(folder: Path, output: TerraformOutput) -> list[Difference]:
    """Return where the environment's own group_vars lead elsewhere than to what Terraform made, and win.

    Raises UsageProblem for a file that cannot be read.
    """
    own = _own_environment(_group_vars(folder, "all"))
    if own is None:
        return []
    file, variables = own
    return core_terraform.compare_environment(output, file, variables[core_environment.KEY])


def _own_environment(files: Sequence[NamedText]) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the variables of the file whose judge_environment counts; None where no file has one.

    Raises UsageProblem for a file that cannot be read.
    """
    for file in reversed(files):
        try:
            variables = read_yaml_mapping(file.text)
        except InvalidDocument as error:
            raise UsageProblem(f"{file.name}: {error}", hint=f"correct {file.name}") from error
        if core_environment.KEY in variables:
            return file.name, variables
    return None


def load_settings(name: str, extra: Sequence[str] = (), inventory: Path | None = None) -> Settings:
    """Return the settings of the environment `name`. Raises UsageProblem."""
    return load(load_environment(name, inventory), extra).settings


def role_variables(environment: Environment) -> dict[str, Any]:
    """Return the roles' variables below AppConfig (defaults, Terraform, group_vars) as they stand, nothing rendered."""
    made = terraform.read_file(environment.inventory_dir)
    defaults, _ = _role_defaults()
    given = [file for group in ("all", _GROUP) for file in _group_vars(environment.inventory_dir, group)]
    return {**_variables_of(defaults), **(made.output.variables if made else {}), **_variables_of(given)}


def _variables_of(files: Sequence[NamedText]) -> dict[str, Any]:
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
                return [NamedText(short_name(path), _read(path)) for path in _variable_files(place)]
    except OSError as error:
        where = Path(error.filename or base)
        raise UsageProblem(f"{short_name(where)} cannot be read: {error.strerror}", hint=f"ls -ld {where}") from error
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


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{short_name(path)} is not UTF-8 (byte {error.start})", hint="store it as UTF-8") from error
    except OSError as error:
        raise UsageProblem(f"{short_name(path)} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error
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
