"""Role variables that are Jinja templates, rendered by Ansible itself: for commands that run no playbook.

Such a variable means in a command what it means in a run, whatever filter or lookup it uses, because the same program
renders it. It costs a second, so nothing is started where nothing is a template.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters.private import private_directory
from judge_bootstrap.adapters.tools import LOCALE, search_path
from judge_bootstrap.content import content_root
from judge_bootstrap.core.documents import Vaulted
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.problems import one_line
from judge_bootstrap.core.redact import without_our_tokens

RENDER_SECONDS = 60.0
_TEMPLATE = re.compile(r"\{\{|\{%|\{#")


def is_template(value: Any) -> bool:
    """Tell whether a value, or one inside it, is for Ansible to render."""
    if isinstance(value, str):
        return bool(_TEMPLATE.search(value))
    if isinstance(value, Mapping):
        return any(is_template(item) for item in value.values())
    return isinstance(value, list) and any(is_template(item) for item in value)


def render(variables: Mapping[str, Any], names: Iterable[str], inventory_dir: Path) -> dict[str, Any]:
    """Return the variables called `names` (those that there are), rendered with all of `variables`.

    Raises UsageProblem, in one line, for what cannot be rendered here: what needs a host's facts, or a vaulted value.
    """
    wanted = [name for name in names if name in variables]
    templates = [name for name in wanted if is_template(variables[name])]
    found = {name: variables[name] for name in wanted if name not in templates}
    if templates:
        found |= _by_ansible(variables, templates, inventory_dir)
    vaulted = [name for name, value in found.items() if isinstance(value, Vaulted)]
    if vaulted:
        raise UsageProblem(f"{vaulted[0]} is encrypted with ansible-vault, which this command does not read",
                           hint=f"give it: -e {vaulted[0]}=VALUE")
    return found


def _by_ansible(variables: Mapping[str, Any], names: list[str], inventory_dir: Path) -> dict[str, Any]:
    import yaml

    hint = f"give it: -e {names[0]}=VALUE" if len(names) == 1 else f"give them with -e: {', '.join(names)}"
    readable = {name: value for name, value in variables.items() if not _holds_vaulted(value)}
    readable["inventory_dir"] = str(inventory_dir)
    asked = {"msg": {name: f"{{{{ {name} }}}}" for name in names}}
    with private_directory("render") as folder:
        file = folder / "variables.yml"
        file.write_text(yaml.safe_dump(readable), encoding="utf-8")
        command = ["ansible", "localhost", "-i", "localhost,", "-c", "local", "-m", "ansible.builtin.debug",
                   "-a", json.dumps(asked), "-e", f"@{file}"]
        try:
            done = subprocess.run(command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  errors="replace", timeout=RENDER_SECONDS, check=False, cwd=folder)
        except FileNotFoundError as error:
            raise UsageProblem("ansible is not installed beside this program, nor in PATH, and "
                               f"{', '.join(names)} {'is a template' if len(names) == 1 else 'are templates'}",
                               hint="reinstall judge-bootstrap (pip brings ansible-core), or " + hint) from error
        except subprocess.TimeoutExpired as error:
            raise UsageProblem(f"Ansible has not rendered {', '.join(names)} in {RENDER_SECONDS:g} s",
                               hint=hint) from error
    answer = _answer(done.stdout)
    rendered = answer.get("msg")
    if done.returncode != 0 or not isinstance(rendered, dict) or set(rendered) != set(names):
        said = rendered if isinstance(rendered, str) else done.stderr or done.stdout
        raise UsageProblem(f"{', '.join(names)}: Ansible cannot render it here: {one_line(said)}", hint=hint)
    return rendered


def _answer(stdout: str) -> dict[str, Any]:
    """Return the module's result out of `localhost | SUCCESS => {...}`."""
    try:
        answer = json.loads(stdout[stdout.index("=>") + 2:])
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _environment() -> dict[str, str]:
    return {**without_our_tokens(os.environ), "PATH": search_path(), **LOCALE,
            "ANSIBLE_CONFIG": str(content_root() / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal", "ANSIBLE_DEPRECATION_WARNINGS": "0",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "COLUMNS": "10000"}


def _holds_vaulted(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_vaulted(item) for item in value.values())
    return isinstance(value, Vaulted) or (isinstance(value, list) and any(_holds_vaulted(item) for item in value))
