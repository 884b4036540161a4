"""The modules use nothing that Terraform 1.6 and OpenTofu 1.6 do not know.

No test here runs those versions: they say "Unsupported block type" or read no further, and the newer ones that are at
hand do not. So what came later is looked for, by the changelogs of Terraform 1.7 to 1.14 and OpenTofu 1.7 to 1.11.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2
import pytest

ROOT = Path(__file__).parents[2] / "terraform"
# Of Terraform 1.6: `import` is older, `for_each` in it is not, and neither has a place in a module that others call.
BLOCKS = {"terraform", "variable", "locals", "data", "resource", "module", "output", "check", "provider", "moved"}
NEWER_FUNCTIONS = re.compile(r"\bprovider::\w+|\b(?:issensitive|templatestring|ephemeralasnull|convert|cidrcontains|"
                             r"urldecode|base64gunzip)(?=\()")
NEWER_ARGUMENTS = {"ephemeral", "deprecated", "write_only", "const"}
REFERENCE = re.compile(r"\b(var|local|data|module|path|terraform|each)\.(\w+)")


def files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.tf") if ".terraform" not in path.parts)


def parsed(path: Path) -> dict[str, Any]:
    return {kind: blocks for kind, blocks in hcl2.loads(path.read_text()).items() if not kind.startswith("__")}


def newer_blocks(document: Mapping[str, Any]) -> list[str]:
    return sorted(document.keys() - BLOCKS)


def newer_functions(text: str) -> list[str]:
    without_comments = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    return [found.group(0) for found in NEWER_FUNCTIONS.finditer(without_comments)]


def newer_arguments(document: Mapping[str, Any]) -> list[str]:
    return [f"{label}.{name}" for kind in ("variable", "output") for block in document.get(kind, [])
            for label, body in block.items() if isinstance(body, dict) for name in body if name in NEWER_ARGUMENTS]


def foreign_references(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what validations refer to beside their own variable: an error before Terraform 1.9."""
    for block in document.get("variable", []):
        for label, body in block.items():
            if not isinstance(body, dict):
                continue
            for rule in body.get("validation", []):
                for kind, name in REFERENCE.findall(f"{rule['condition']} {rule['error_message']}"):
                    if (kind, f'"{name}"') != ("var", label):
                        yield f"{label}: {kind}.{name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_uses_nothing_that_came_after_1_6(path: Path) -> None:
    document = parsed(path)
    assert (newer_blocks(document), newer_functions(path.read_text()), newer_arguments(document),
            list(foreign_references(document))) == ([], [], [], [])


def test_every_module_says_that_it_wants_1_6_or_newer_and_nothing_newer() -> None:
    wanted = {str(path.parent.relative_to(ROOT)): parsed(path)["terraform"][0]["required_version"]
              for path in files() if path.name == "versions.tf"}
    assert wanted and set(wanted.values()) == {'">= 1.6"'}


@pytest.mark.parametrize(("text", "found"), [
    ('removed {\n  from = aws_instance.a\n}\n', ["removed"]),
    ('ephemeral "random_password" "a" {\n  length = 8\n}\n', ["ephemeral"]),
    ('locals {\n  a = provider::aws::arn_parse(local.b)\n}\n', ["provider::aws"]),
    ('locals {\n  a = templatestring(local.b, {})\n}\n', ["templatestring"]),
    ('variable "a" {\n  ephemeral = true\n}\n', ['"a".ephemeral']),
    ('variable "a" {\n  validation {\n    condition = var.a < var.b\n    error_message = "${local.c} first."\n  }\n}\n',
     ['"a": var.b', '"a": local.c']),
])
def test_what_came_later_is_found(tmp_path: Path, text: str, found: list[str]) -> None:
    path = tmp_path / "main.tf"
    path.write_text(text)
    document = parsed(path)
    assert [*newer_blocks(document), *newer_functions(text), *newer_arguments(document),
            *foreign_references(document)] == found
