"""Write docs/variables.md from the settings' schema and the roles' defaults and argument specs.

    python scripts/variables_doc.py           write it
    python scripts/variables_doc.py --check   exit 1 when it is not what would be written
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from generated import ROOT, write_or_check

DOCUMENT = ROOT / "docs" / "variables.md"
INTRODUCTION = """\
# Settings and variables

<!-- Written by scripts/variables_doc.py: change the schema or the roles, then run it again. -->

Later layers win: the roles' defaults, Terraform's output (`inventory/<env>/terraform.yml`, which `config terraform`
writes), `inventory/<env>/group_vars`, AWS AppConfig (or its last good copy), `JUDGE_BOOTSTRAP_*` variables, `-e` flags.
`judge-bootstrap --env ENV config show` says which value comes from where.

## Settings

The AppConfig document is `{"judge_inference": {...}}` with these keys, all of them optional. A setting has one name in
each place: its path in AppConfig and for `-e`, its role variable in group_vars, its environment variable.
Secrets are no settings.
"""
EXAMPLES = """
One setting, four ways, lowest first:

```
vllm_k8s_max_model_len: 2048                                     # inventory/prod/group_vars/all.yml
{"judge_inference": {"model": {"max_model_len": 2048}}}          # AppConfig
JUDGE_BOOTSTRAP_MODEL__MAX_MODEL_LEN=2048 judge-bootstrap --env prod
judge-bootstrap --env prod run site -e model.max_model_len=2048
```

A name that is unknown, or a value of a wrong type or out of its range, stops a run before anything is touched. In
AppConfig it leads to the last good copy, with a warning that says its age; with no such copy the layer is left out, and
in production that is an error.
"""
OTHER_VARIABLES = """
## Other environment variables

Any other `JUDGE_BOOTSTRAP_*` name is an error, so that a typing error is noticed.

| variable | meaning |
| --- | --- |
"""
ENVIRONMENT = """
## What an environment says about itself

`judge_environment` in `inventory/<env>/group_vars/all.yml`. The CLI reads it literally: no templates.
`region` and `appconfig` may come from Terraform's output instead; what stands in group_vars wins, key by key.

| key | wanted |
| --- | --- |
"""
ROLE_VARIABLES = """
## Variables of the roles

All of them may be set in group_vars and with `-e`. Those that are settings are left out here.
"""


def render() -> str:
    """Return the document's text."""
    from judge_bootstrap.core.environment import AppConfigRef, Environment
    from judge_bootstrap.core.layers import RESERVED_VARIABLES
    from judge_bootstrap.core.schema import BY_VARIABLE, FIELDS

    roles = {path.parents[1].name: (read(path), options(path.parents[1]))
             for path in sorted(ROOT.glob("roles/*/defaults/main.yml"))}
    lines = [INTRODUCTION]
    lines += row("setting", "role variable", "environment variable", "type", "default", "wanted", "meaning")
    lines += row(*["---"] * 7)
    for field in FIELDS.values():
        default = roles[field.variable.role][0][field.variable.name]
        lines += row(code(field.path), code(field.variable.name), code(field.env_variable), field.type_words,
                     code(json.dumps(default)), field.wanted, field.description)
    lines += [EXAMPLES.rstrip("\n"), OTHER_VARIABLES.rstrip("\n")]
    lines += [line for name, meaning in RESERVED_VARIABLES.items() for line in row(code(name), meaning)]
    lines.append(ENVIRONMENT.rstrip("\n"))
    for model, prefix in ((Environment, ""), (AppConfigRef, "appconfig.")):
        lines += [line for key, info in model.model_fields.items() if not info.exclude
                  for line in row(code(prefix + key), str(info.description))]
    lines.append(ROLE_VARIABLES.rstrip("\n"))
    for role, (defaults, specs) in roles.items():
        rest = {name: value for name, value in defaults.items() if name not in BY_VARIABLE}
        if rest:
            lines += ["", f"### {role}", "", *row("variable", "type", "default", "meaning"), *row(*["---"] * 4)]
        for name, value in rest.items():
            spec = specs.get(name, {})
            lines += row(code(name), str(spec.get("type", "")), code(json.dumps(value)),
                         sentence(spec.get("description", "")))
    return "\n".join(lines) + "\n"


def row(*cells: str) -> Iterator[str]:
    """Yield one line of a table."""
    yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def code(text: str) -> str:
    """Return `text` in code style."""
    return f"`{text}`"


def sentence(description: str | list[str]) -> str:
    """Return an argument spec's description, which may be a list of paragraphs, as one text."""
    return description if isinstance(description, str) else " ".join(description)


def read(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return found


def options(role: Path) -> dict[str, Any]:
    """Return the options of a role's main entry point; {} where it has no argument specs."""
    specs = role / "meta" / "argument_specs.yml"
    return read(specs)["argument_specs"]["main"].get("options", {}) if specs.is_file() else {}


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {DOCUMENT: render()}))
