"""Write the tables of the Terraform modules' READMEs (requirements, resources, inputs, outputs) from their .tf files.

    python scripts/terraform_doc.py           write them
    python scripts/terraform_doc.py --check   exit 1 when one is not what would be written

The tables stand between two marks, and what people wrote around them stays. No terraform binary is needed.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2
from generated import ROOT, write_or_check

MODULES = ROOT / "terraform"
BEGIN = "<!-- Written by scripts/terraform_doc.py from the .tf files: change those, then `make docs`. -->"
END = "<!-- End of what scripts/terraform_doc.py writes. -->"
_BETWEEN = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_HEREDOC = re.compile(r"<<-?(\w+)\n(.*)\n\s*\1", re.DOTALL)


def readmes() -> dict[Path, str]:
    """Return what each module's README must hold. Raises SystemExit where one has no place for the tables."""
    wanted = {}
    for folder in module_folders():
        readme = folder / "README.md"
        found = readme.read_text(encoding="utf-8") if readme.is_file() else ""
        if not _BETWEEN.search(found):
            name = readme.relative_to(ROOT)
            raise SystemExit(f"{name} has no place for the tables: wanted the two lines\n{BEGIN}\n{END}")
        tables = "\n".join([BEGIN, *module_tables(folder), "", END])
        wanted[readme] = _BETWEEN.sub(lambda _, text=tables: text, found, count=1)
    return wanted


def module_folders() -> list[Path]:
    """Return every folder that is a module: it says which Terraform it wants."""
    return sorted(path.parent for path in MODULES.rglob("versions.tf") if ".terraform" not in path.parts)


def module_tables(folder: Path) -> Iterator[str]:
    """Yield the lines of one module's tables."""
    blocks = read_module(folder)
    yield from _table("Requirements", ["name", "version"], _requirements(blocks))
    yield from _table("Modules", ["name", "source"], (
        [code(name), code(text(body["source"]))] for name, body in _labelled(blocks, "module")))
    yield from _table("Resources", ["name", "kind"], sorted(
        [code(f"{kind}.{name}"), "resource" if block == "resource" else "data source"]
        for block in ("resource", "data") for kind, found in _labelled(blocks, block)
        for name in (text(label) for label in found if not label.startswith("__"))))
    yield from _table("Inputs", ["name", "description", "type", "default"], (
        [code(name), described(f"variable {name}", body), code(expression(body["type"])),
         code(expression(body["default"])) if "default" in body else "required"]
        for name, body in _labelled(blocks, "variable")))
    yield from _table("Outputs", ["name", "description"], (
        [code(name), described(f"output {name}", body)] for name, body in _labelled(blocks, "output")))


def read_module(folder: Path) -> dict[str, list[Any]]:
    """Return the blocks of all .tf files of a folder, by their kind, in the order of the files' names."""
    blocks: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*.tf")):
        for kind, found in hcl2.loads(path.read_text(encoding="utf-8")).items():
            if not kind.startswith("__"):
                blocks.setdefault(kind, []).extend(found)
    return blocks


def _labelled(blocks: Mapping[str, list[Any]], kind: str) -> Iterator[tuple[str, Any]]:
    for block in blocks.get(kind, []):
        for label, body in block.items():
            if not label.startswith("__"):
                yield text(label), body


def _requirements(blocks: Mapping[str, list[Any]]) -> Iterator[list[str]]:
    for block in blocks["terraform"]:
        if "required_version" in block:
            yield ["Terraform or OpenTofu", code(text(block["required_version"]))]
        for providers in block.get("required_providers", []):
            for name, wanted in providers.items():
                if not name.startswith("__"):
                    yield [f"provider {code(text(wanted['source']))}", code(text(wanted["version"]))]


def _table(title: str, names: list[str], rows: Any) -> Iterator[str]:
    found = list(rows)
    if found:
        yield from ["", f"## {title}", ""]
        yield from (f"| {' | '.join(cells)} |" for cells in [names, ["---"] * len(names), *found])


def described(what: str, body: Mapping[str, Any]) -> str:
    """Return a description as the text of one cell. Raises ValueError where there is none."""
    if "description" not in body:
        raise ValueError(f"{what} has no description")
    # Lines that were broken to fit are joined; paragraphs and points of a list stay apart.
    parts = re.split(r"\n\s*\n|\n(?=- )", textwrap.dedent(text(body["description"])).strip())
    return "<br>".join(" ".join(part.split()) for part in parts).replace("|", "\\|")


def text(value: str) -> str:
    """Return what a quoted string or a heredoc says."""
    if not value.startswith('"'):
        return value
    inner = value[1:-1]
    heredoc = _HEREDOC.fullmatch(inner.strip())
    return textwrap.dedent(heredoc[2]) if heredoc else str(json.loads(value))


def expression(value: Any) -> str:
    """Return an expression in Terraform's own notation."""
    if isinstance(value, str):
        return value[2:-1] if value.startswith("${") else value
    if isinstance(value, list):
        return f"[{', '.join(expression(item) for item in value)}]"
    if isinstance(value, dict):
        items = ", ".join(f"{key} = {expression(item)}" for key, item in value.items() if not key.startswith("__"))
        return f"{{ {items} }}" if items else "{}"
    return json.dumps(value)


def code(value: str) -> str:
    """Return `value` in code style, for a cell."""
    return f"`{value}`".replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, readmes()))
