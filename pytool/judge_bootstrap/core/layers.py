"""The layers of settings, lowest first: role defaults, Terraform, inventory, AppConfig, JUDGE_BOOTSTRAP_*, flags.

All pure: each function turns texts that an adapter read into values by path, or says in one line what is wrong.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judge_bootstrap.core.documents import InvalidDocument, Vaulted, read_json_object, read_yaml_mapping
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.problems import Problem, find_problems, in_one_line, nearest
from judge_bootstrap.core.schema import BY_VARIABLE, ENV_PREFIX, FIELDS, ROOT, SettingField
from judge_bootstrap.core.settings import LayerName, Settings, Source, Value

# Variables of ours that are no settings.
RESERVED_VARIABLES: Mapping[str, str] = {
    "JUDGE_BOOTSTRAP_CACHE": "Where downloads of the local environment are kept (default: ~/.cache/judge-bootstrap).",
    "JUDGE_BOOTSTRAP_CONTENT_ROOT": "Folder with playbooks/, roles/ and inventory/, instead of the packaged ones.",
    "JUDGE_BOOTSTRAP_INVENTORY": "Folder with one sub-folder per environment, instead of the packaged inventory/.",
    "JUDGE_BOOTSTRAP_KUBE_ARCHIVE": "Archive of the Kubernetes binaries for the local environment.",
    "JUDGE_BOOTSTRAP_KUBE_TIMEOUT_SECONDS": "How long one answer of the API server may take (default: 30).",
    "JUDGE_BOOTSTRAP_RUN_ID": "Set by the program itself, to find the processes of a run.",
    "JUDGE_BOOTSTRAP_STATE": "Where locks and the last good AppConfig copy are kept.",
    "JUDGE_BOOTSTRAP_TERRAFORM_MIRROR": "Folder with the AWS provider, Terraform's filesystem mirror, for our tests.",
}
_SHORT_NAMES: Mapping[str, str] = {"model": "model.id"}
_TEMPLATE = re.compile(r"\{\{|\{%|\{#")
_LIST_HINT = "judge-bootstrap config show lists every setting, docs/variables.md what each may hold"
_FORM_HINT = """write -e name=value, -e '{"name": "value"}' or -e @file"""
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class NamedText:
    """A file as read: `name` is what messages call it."""

    name: str
    text: str


@dataclass(frozen=True)
class Flags:
    """What -e gave: settings, and the variables that pass to Ansible as they are."""

    values: Mapping[str, Value] = field(default_factory=dict)
    passed_on: Mapping[str, Any] = field(default_factory=dict)


def from_role_defaults(files: Sequence[NamedText]) -> dict[str, Value]:
    """Return the defaults. Raises UsageProblem when a setting has none, for then the installation is broken."""
    values = _from_variable_files("default", files)
    missing = [item for path, item in FIELDS.items() if path not in values]
    if missing:
        variable = missing[0].variable
        raise UsageProblem(f"no default for {variable.name} in roles/{variable.role}/defaults/main.yml",
                           hint="reinstall judge-bootstrap: its roles and its program are of different versions")
    return values


def from_terraform(variables: Mapping[str, Any], file: str) -> dict[str, Value]:
    """Return what Terraform's variables set, which `file` keeps. Raises UsageProblem naming file and variable."""
    source = Source(layer="terraform", detail=file)
    return {BY_VARIABLE[name].path: _value(BY_VARIABLE[name], value, source, label=f"{name} in {file}", templates=False)
            for name, value in variables.items() if name in BY_VARIABLE}


def from_inventory(files: Sequence[NamedText]) -> dict[str, Value]:
    """Return what group_vars files set; a later file wins. Raises UsageProblem naming file and variable."""
    return _from_variable_files("inventory", files)


def _from_variable_files(layer: LayerName, files: Sequence[NamedText]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for file in files:
        try:
            variables = read_yaml_mapping(file.text)
        except InvalidDocument as error:
            raise UsageProblem(f"{file.name}: {error}", hint=f"correct {file.name}") from error
        source = Source(layer=layer, detail=file.name)
        for name, value in variables.items():
            if name in BY_VARIABLE:
                setting = BY_VARIABLE[name]
                values[setting.path] = _value(setting, value, source, label=f"{name} in {file.name}")
    return values


def from_document(document: Mapping[str, Any], source: Source) -> dict[str, Value]:
    """Return the values of an AppConfig document that `document_problems` found nothing wrong with."""
    return {path: Value(value=value, source=source) for path, value in flatten(document).items()}


def document_problems(document: Any, below: Mapping[str, Value]) -> list[Problem]:
    """Return what is wrong with an AppConfig document, by itself and on top of the layers `below` it."""
    if isinstance(document, Mapping) and ROOT not in document:
        # {} must not read as "everything back to its default".
        return [Problem("the document", f"the document has no key {ROOT}, wanted: an object with {ROOT}")]
    found = find_problems(document)
    if found:
        return found
    return find_problems(nest({**_plain_values(below), **flatten(document)}))


def from_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    """Return what JUDGE_BOOTSTRAP_<SECTION>__<KEY> variables set. Raises UsageProblem for an unknown or wrong one."""
    by_name = {item.env_variable: item for item in FIELDS.values()}
    values: dict[str, Value] = {}
    for name in sorted(name for name in environ if name.startswith(ENV_PREFIX)):
        if name in RESERVED_VARIABLES:
            continue
        if name not in by_name:
            printable = ascii(name)[1:-1][:100]
            guess = nearest(name, [*by_name, *RESERVED_VARIABLES])
            raise UsageProblem(f"unknown environment variable {printable}{guess}",
                               hint=f"unset {printable}, or see docs/variables.md for the known ones")
        item = by_name[name]
        values[item.path] = _value(item, _parse(item, environ[name]), Source(layer="env", detail=name), label=name,
                                   templates=False)
    return values


def from_flags(extra: Sequence[str], *, read_file: Callable[[str], str],
               role_variables: Iterable[str] = ()) -> tuple[Flags, list[str]]:
    """Return what -e gave, and warnings about names that look mistyped. A later -e wins.

    `extra` holds what followed each -e, in Ansible's forms: `name=value ...`, a JSON or YAML object, or `@file`. A name
    is a setting (`model.id`, or `model` for it), a role variable, or anything else, which Ansible gets as it is.
    Raises UsageProblem for an unknown path, a wrong value or a form that Ansible would not read either.
    """
    values: dict[str, Value] = {}
    passed_on: dict[str, Any] = {}
    warnings: list[str] = []
    known_variables = sorted({*BY_VARIABLE, *role_variables})
    for name, value, is_text in (item for text in extra for item in _assignments(text, read_file)):
        label = f"-e {ascii(name)[1:-1][:100]}"
        source = Source(layer="flag", detail=label)
        if name == ROOT and not is_text:
            found = find_problems({ROOT: value})
            if found:
                raise UsageProblem(f"{label}: {in_one_line(found)}", hint=_LIST_HINT)
            values |= {path: Value(value=item, source=source) for path, item in flatten({ROOT: value}).items()}
            continue
        setting = _setting_of(name)
        if setting is not None:
            parsed = _parse(setting, value) if is_text else value
            values[setting.path] = _value(setting, parsed, source, label=label, templates=False)
        elif _VARIABLE_NAME.fullmatch(name) is None:
            raise UsageProblem(f"{label} is no setting and no variable name{nearest(name, FIELDS)}",
                               hint=_LIST_HINT)
        else:
            if is_text and name in known_variables and value.startswith(("[", "{")):
                # Ansible would take it for a text, and a template would go through it letter by letter.
                raise UsageProblem(f"{label} has a list or an object in the form for texts",
                                   hint=f"""-e '{{"{name}": ...}}'   # JSON keeps its types""")
            passed_on[name] = value
            guess = nearest(name, known_variables) if name not in known_variables else ""
            if guess and name.startswith(tuple(f"{item.variable.role}_" for item in FIELDS.values())):
                warnings.append(f"{label} is no variable of our roles{guess} Ansible gets it as it is")
    return Flags(values, passed_on), warnings


def _setting_of(name: str) -> SettingField | None:
    path = name.removeprefix(f"{ROOT}.")
    return FIELDS.get(_SHORT_NAMES.get(path, path)) or BY_VARIABLE.get(name)


def _assignments(text: str, read_file: Callable[[str], str]) -> list[tuple[str, Any, bool]]:
    """Return (name, value, the value is a text still to be parsed) for everything one -e sets."""
    label = ascii(text)[1:-1][:60]
    try:
        if text.startswith("@"):
            return [(name, value, False) for name, value in read_yaml_mapping(read_file(text[1:])).items()]
        if text.lstrip().startswith("{"):
            body = text.encode("utf-8", errors="replace")
            try:
                return [(name, value, False) for name, value in read_json_object(body).items()]
            except InvalidDocument:
                return [(name, value, False) for name, value in read_yaml_mapping(text).items()]
    except InvalidDocument as error:
        raise UsageProblem(f"-e {label}: {error}", hint=_FORM_HINT) from error
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or not all(re.match(r"[A-Za-z_][\w.]*=", word) for word in words):
        # One assignment whose value has spaces or quotes of its own: Ansible would drop the words behind the first.
        words = [text]
    if any("=" not in word or word.startswith("=") for word in words):
        raise UsageProblem(f"-e {label} is no assignment", hint=_FORM_HINT)
    return [(name.strip(), value, True) for name, _, value in (word.partition("=") for word in words)]


def _parse(item: SettingField, text: str) -> str | int | float | None:
    """Return `text` as the setting's type; a text that is none stays one, and the rules refuse it by name."""
    if item.nullable and text in ("", "null"):
        return None
    if item.kind is int and re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII):
        return int(text)
    if item.kind is float and re.fullmatch(r"[+-]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})", text, re.ASCII):
        return float(text)
    return text


def _value(item: SettingField, value: Any, source: Source, *, label: str, templates: bool = True) -> Value:
    """Return the checked value. `templates`: whether Ansible renders what stands here before a role sees it."""
    if templates and (isinstance(value, Vaulted) or (isinstance(value, str) and _TEMPLATE.search(value))):
        return Value(value=None, source=source, templated=True)
    found = find_problems(nest({item.path: value}))
    if found:
        raise UsageProblem(f"{label}: {in_one_line(found)}", hint=f"correct {label}; see docs/variables.md")
    return Value(value=value, source=source)


def merge(env: str, layers: Sequence[Mapping[str, Value]], *, passed_on: Mapping[str, Any] | None = None,
          warnings: Sequence[str] = ()) -> Settings:
    """Return the settings of `layers`, lowest first. Raises UsageProblem when the values do not fit each other."""
    values = {path: value for layer in layers for path, value in layer.items()}
    found = find_problems(nest(_plain_values(values)))
    if found:
        places = [f"{path} from {values[path].source}" for path in ("storage.models_dir", "storage.nvme_mount_path")]
        raise UsageProblem(f"{in_one_line(found)} ({'; '.join(places)})",
                           hint="set storage.models_dir and storage.nvme_mount_path together, in the same place")
    ordered = {path: values[path] for path in FIELDS if path in values}
    return Settings(env=env, values=ordered, passed_on=dict(passed_on or {}), warnings=tuple(warnings))


def _plain_values(values: Mapping[str, Value]) -> dict[str, Any]:
    return {path: item.value for path, item in values.items() if not item.templated}


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checked document's values by path."""
    return {f"{section}.{key}": value for section, keys in document[ROOT].items() for key, value in keys.items()}


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by path as a document (the inverse of `flatten`)."""
    sections: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, key = path.partition(".")
        sections.setdefault(section, {})[key] = value
    return {ROOT: sections}

