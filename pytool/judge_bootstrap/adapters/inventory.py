"""The hosts that a run is about, as Ansible itself lists them; refused when there are none or fewer than expected."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from judge_bootstrap.adapters.tools import LOCALE, install_collections
from judge_bootstrap.content import content_root
from judge_bootstrap.core.environment import Environment
from judge_bootstrap.core.errors import Refusal
from judge_bootstrap.core.problems import nearest, one_line, shown
from judge_bootstrap.core.redact import without_our_tokens

GROUP = "gpu_nodes"
# 500 instances take ansible-inventory about 6 s; a hundred times that means that something hangs.
LIST_SECONDS = 120.0
NO_HOSTS = "INVENTORY_EMPTY"
UNREADABLE = "INVENTORY_UNREADABLE"
TOO_FEW = "INVENTORY_SHORT"
UNKNOWN_HOST = "HOST_UNKNOWN"


@dataclass(frozen=True)
class InventoryHost:
    """One GPU node: its name in Ansible (the instance id), and the address that ssh uses (None: the name itself)."""

    name: str
    address: str | None


@dataclass(frozen=True)
class InventoryHosts:
    """The hosts of group gpu_nodes that match the limit, by name."""

    hosts: Mapping[str, InventoryHost]


@dataclass(frozen=True)
class Answer:
    """What one ansible-inventory gave."""

    returncode: int
    stdout: str
    stderr: str


class InventoryLister(Protocol):
    """Runs `ansible-inventory --list`; fakes stand in for it in tests."""

    def __call__(self, environment: Environment, limit: str | None) -> Answer: ...


def list_with_ansible(environment: Environment, limit: str | None) -> Answer:
    """Run ansible-inventory on the environment's folder. Raises Refusal when it cannot be started or does not end."""
    root = content_root()
    tools = Path(sys.executable).parent
    # Started as VENV/bin/judge-bootstrap, the venv need not be in PATH.
    variables = {**without_our_tokens(os.environ), "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    collections = variables.get("ANSIBLE_COLLECTIONS_PATH") or "~/.ansible/collections:/usr/share/ansible/collections"
    variables |= {
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": f"{root / '.collections'}{os.pathsep}{collections}",
        # Without it, missing credentials and an endpoint that is down are warnings, and the inventory is "empty".
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
        "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_DEPRECATION_WARNINGS": "0",
        **LOCALE,
        # One line a message: Ansible wraps at the terminal's width.
        "COLUMNS": "10000",
    }
    command = ["ansible-inventory", "-i", str(environment.inventory_dir), "--list"]
    if limit is not None:
        command.append(f"--limit={limit}")
    try:
        done = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=LIST_SECONDS, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise Refusal("ansible-inventory is not installed beside this program, nor in PATH", reason=UNREADABLE,
                      hint="reinstall judge-bootstrap (pip brings ansible-core), or judge-bootstrap doctor") from error
    except subprocess.TimeoutExpired as error:
        raise Refusal(f"the inventory of {environment.name} gave no answer in {LIST_SECONDS:g} s", reason=UNREADABLE,
                      hint=f"ansible-inventory -i {environment.inventory_dir} --list -vvv") from error
    except ValueError as error:  # a NUL byte in the limit
        raise Refusal(f"--limit {shown(limit)} is no host pattern", reason=UNKNOWN_HOST,
                      hint="name hosts as --limit i-0abc,i-0def") from error
    return Answer(done.returncode, done.stdout, done.stderr)


def read(environment: Environment, limit: str | None = None, *,
         lister: InventoryLister = list_with_ansible) -> InventoryHosts:
    """Return the environment's GPU nodes, or those of them that match `limit` (an Ansible host pattern).

    Raises Refusal for an inventory that cannot be read, no host, fewer than the environment expects (not with a limit,
    which asks for fewer), and a limit that names no host.
    """
    if limit is not None and not limit.strip(" ,:~[]!&"):
        # To Ansible an empty limit is none at all: `--limit "$HOST"` with an unset HOST would reach every host, and
        # so would `--limit "~$PATTERN"`, the empty regular expression.
        raise Refusal(f"--limit is empty ({shown(limit)}), wanted: a host pattern", reason=UNKNOWN_HOST,
                      hint="name hosts as --limit i-0abc,i-0def, or leave --limit out for all of them")
    answer = lister(environment, limit)
    if limit is not None and (answer.returncode != 0 or "Could not match supplied host pattern" in answer.stderr):
        _refuse_limit(environment, limit, answer, everything=lister(environment, None))
    hosts = parse(answer, environment)
    if not hosts and limit is not None:
        _refuse_limit(environment, limit, answer, everything=lister(environment, None))
    if not hosts:
        raise Refusal(f"the inventory of {environment.name} has no host in group {GROUP} ({looked_for(environment)})",
                      reason=NO_HOSTS, hint=f"check that the nodes run and have these tags: "
                                            f"ansible-inventory -i {environment.inventory_dir} --graph")
    expected = environment.expected_hosts
    if limit is None and expected is not None and len(hosts) < expected:
        raise Refusal(f"the inventory of {environment.name} has {len(hosts)} of {expected} expected hosts: "
                      f"{_some(hosts)} ({looked_for(environment)})", reason=TOO_FEW,
                      hint=f"start the missing nodes, correct expected_hosts in {environment.inventory_dir}/group_vars/"
                           "all.yml, or name the hosts that are to be done with --limit")
    return InventoryHosts(hosts)


def parse(answer: Answer, environment: Environment) -> dict[str, InventoryHost]:
    """Return the GPU nodes in ansible-inventory's answer, by name. Raises Refusal when it is no inventory."""
    hint = f"ansible-inventory -i {environment.inventory_dir} --list"
    if answer.returncode != 0:
        why, next_step = explain(answer.stderr)
        raise Refusal(f"the inventory of {environment.name} cannot be read: {why}", reason=UNREADABLE,
                      hint=next_step or hint)
    try:
        document = _unwrap(json.loads(answer.stdout))
        names = document.get(GROUP, {}).get("hosts", [])
        variables = document.get("_meta", {}).get("hostvars", {})
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a host's name is no text")
        return {name: InventoryHost(name, _address(variables.get(name, {}))) for name in names}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Refusal(f"the inventory of {environment.name} cannot be read: ansible-inventory's answer is no inventory "
                      f"({shown(answer.stdout)})", reason=UNREADABLE, hint=hint) from error


def _address(variables: Mapping[str, Any]) -> str | None:
    address = variables.get("ansible_host")
    return None if address is None else str(address)


def _unwrap(value: Any) -> Any:
    """Return Ansible's JSON without the wrappers that mark text as unsafe to template."""
    if isinstance(value, dict):
        if len(value) == 1 and "__ansible_unsafe" in value:
            return value["__ansible_unsafe"]
        return {key: _unwrap(item) for key, item in value.items()}
    return [_unwrap(item) for item in value] if isinstance(value, list) else value


# What boto3 and its endpoints say when there are no, old or wrong credentials.
_CREDENTIALS = re.compile(r"Unable to locate credentials|NoCredentials|ExpiredToken|RequestExpired|"
                          r"security token .* (invalid|expired)|"
                          r"InvalidClientTokenId|AuthFailure|UnrecognizedClient|Token has expired|SSO session|"
                          r"could not be found.*profile|config profile", re.IGNORECASE)
_UNREACHABLE = re.compile(r"Could not connect to the endpoint|EndpointConnectionError|Connect timeout|Read timeout|"
                          r"Name or service not known", re.IGNORECASE)
_DENIED = re.compile(r"UnauthorizedOperation|AccessDenied|not authorized to perform", re.IGNORECASE)
_KNOWN_CAUSES = (
    (_CREDENTIALS, "no valid AWS credentials", "aws sts get-caller-identity, then sign in (such as aws sso login)"),
    (_DENIED, "AWS denies the look-up", "grant ec2:DescribeInstances to what aws sts get-caller-identity names"),
    (_UNREACHABLE, "AWS cannot be reached", "check network and AWS_ENDPOINT_URL, then judge-bootstrap doctor"))
_NAMED_PLUGIN = re.compile(r"Failed to parse inventory with 'auto' plugin: (.+)")
_COMPLAINT = re.compile(r"error|fail|unable|could not|not found|invalid|unknown", re.IGNORECASE)
# Lines that Ansible puts around the real error: they say only that there is one.
_WRAPPER = re.compile(r"Completely failed to parse|Unable to parse .* as an inventory source|"
                      r"Failed to parse inventory with|No inventory was parsed|provided hosts list is empty")


def explain(stderr: str) -> tuple[str, str | None]:
    """Return the line of ansible-inventory's complaint that says what is wrong, and the next command, if known."""
    said = [" ".join(line.split()) for line in stderr.splitlines() if line.strip()]
    for pattern, words, hint in _KNOWN_CAUSES:
        match = next((line for line in said if pattern.search(line)), None)
        if match is not None:
            return f"{words} ({_plain(match)})", hint
    # Every plugin's failure is listed; the one that counts is that of the plugin which the file itself names.
    named = next((found[1] for line in said if (found := _NAMED_PLUGIN.search(line))), None)
    if named is not None:
        return _plain(named), install_collections() if "unknown plugin" in named else None
    real = [line for line in said if _COMPLAINT.search(line) and not _WRAPPER.search(line)]
    return _plain((real or said or ["it gave no reason"])[-1]), None


def _plain(line: str) -> str:
    line = re.sub(r"^\[?(WARNING|ERROR)\]?[!:]*\s*(Failed to parse inventory with '\w+' plugin: )?", "", line)
    return one_line(line, 240)


def looked_for(environment: Environment) -> str:
    """Return what the environment's inventory looks for (region, state, tags), in words for a person."""
    filters: dict[str, Any] = {}
    for path in sorted(environment.inventory_dir.glob("*aws_ec2.y*ml")):
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            filters |= {str(key): value for key, value in document["filters"].items()}
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError):
            continue
    words = [f"region {environment.region}", *(f"{key}={_value(value)}" for key, value in filters.items())]
    return f"looked for {', '.join(words)}" if filters else f"looked in {environment.inventory_dir}"


def _value(value: Any) -> str:
    return "|".join(map(str, value)) if isinstance(value, list) else str(value)


def _refuse_limit(environment: Environment, limit: str, answer: Answer, *, everything: Answer) -> None:
    """Raise the refusal that fits: the whole inventory is unreadable or empty, or only the limit finds nothing."""
    known = parse(everything, environment)
    if not known:
        return  # read() says so
    unmatched = re.findall(r"Could not match supplied host pattern, ignoring: (\S+)", answer.stderr)
    named = ", ".join(unmatched) or limit
    raise Refusal(f"no host of {environment.name} matches --limit {shown(named)}, known: {_some(known)}"
                  f"{nearest(named, known)}", reason=UNKNOWN_HOST,
                  hint=f"judge-bootstrap --env {environment.name} plan --limit HOST, with one of the known hosts")


def _some(hosts: Mapping[str, InventoryHost], *, most: int = 12) -> str:
    names = sorted(hosts)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
