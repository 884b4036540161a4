"""Terraform's output on disk: inventory/ENV/terraform.yml, and the aws_ec2 inventory that is to find its nodes."""

from __future__ import annotations

import difflib
import stat
from dataclasses import dataclass
from pathlib import Path

from judge_node.files import write_file

from judge_bootstrap.adapters.places import short_name
from judge_bootstrap.content import content_root, is_packaged
from judge_bootstrap.core import terraform
from judge_bootstrap.core.documents import InvalidDocument
from judge_bootstrap.core.errors import Refusal, UsageProblem
from judge_bootstrap.core.role_variables import RoleVariable, declared
from judge_bootstrap.core.terraform import Difference, TerraformOutput

_ENDINGS = ("aws_ec2.yml", "aws_ec2.yaml")
# What Ansible passes over in a folder of inventories (INVENTORY_IGNORE_EXTS), so far as people have such files there.
_NO_INVENTORY = ("~", ".orig", ".cfg", ".retry", ".bak", ".md", ".txt")


@dataclass(frozen=True)
class TerraformFile:
    """A terraform.yml that was read: what messages call it, and what it says."""

    name: str
    output: TerraformOutput


def known_variables() -> dict[str, RoleVariable]:
    """Return every role's variables by name. Raises UsageProblem when the roles cannot be read."""
    found: dict[str, RoleVariable] = {}
    for path in sorted(content_root().glob("roles/*/meta/argument_specs.yml")):
        try:
            found |= declared(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, InvalidDocument, AttributeError, TypeError) as error:
            raise UsageProblem(f"{short_name(path)} cannot be read: {error}",
                               hint="reinstall judge-bootstrap") from error
    return found


def read_file(folder: Path) -> TerraformFile | None:
    """Return what the environment's terraform.yml says, None where there is none of ours.

    Raises UsageProblem for one that was edited, or is another environment's (a copied folder).
    """
    path = folder / terraform.FILE_NAME
    name = short_name(path)
    body = _body_of(path)
    if body is None or not terraform.is_ours(_text(body)):
        return None
    hint = f"make it again: {terraform.AGAIN}"
    if len(body) > terraform.LARGEST_FILE_BYTES:
        raise UsageProblem(f"{name} has more than {terraform.LARGEST_FILE_BYTES} bytes", hint=hint)
    try:
        output = terraform.read_inventory(body.decode("utf-8"), name, known_variables())
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{name} is not UTF-8 (byte {error.start})", hint=hint) from error
    terraform.check_environment(output, folder.name, name)
    return TerraformFile(name, output)


def _body_of(path: Path) -> bytes | None:
    """Return the first bytes of a file, one more than ours may have; None where there is no file."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(terraform.LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise UsageProblem(f"{short_name(path)} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error


def _text(body: bytes) -> str:
    # What is no UTF-8 has no mark of ours either, as far as this goes: it is Ansible's to complain of.
    return body.decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Change:
    """What writing terraform.yml would do: the file before (None: not there) and after."""

    path: Path
    before: str | None
    after: str

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.before != self.after

    @property
    def diff(self) -> str:
        """The change as a unified diff; empty for none."""
        name = short_name(self.path)
        return "".join(difflib.unified_diff((self.before or "").splitlines(keepends=True),
                                            self.after.splitlines(keepends=True),
                                            name if self.before is not None else "/dev/null", name))

    def write(self) -> None:
        """Write the file by one rename. Raises UsageProblem where that cannot be done."""
        try:
            write_file(self.path, self.after.encode())
        except OSError as error:
            raise UsageProblem(f"{self.path} cannot be written: {error.strerror}",
                               hint=f"ls -ld {self.path.parent}") from error


def plan(folder: Path, output: TerraformOutput) -> Change:
    """Return what the environment's terraform.yml would become.

    Raises Refusal or UsageProblem for a place that is not ours to write to.
    """
    path = folder / terraform.FILE_NAME
    if is_packaged(folder):
        raise UsageProblem(f"{folder} belongs to the installed program, whose next version replaces it",
                           hint=f"mkdir -p inventory && cp -r {folder} inventory/, then the same command again")
    if folder.is_symlink():
        raise Refusal(f"{short_name(folder)} is a symbolic link to {folder.resolve()}: another environment's folder "
                      "would be written", hint=f"replace it by a folder of its own: cp -rL {short_name(folder)} NEW")
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return Change(path, None, terraform.inventory_text(output))
    except OSError as error:
        raise UsageProblem(f"{path} cannot be read: {error.strerror}", hint=f"ls -ld {folder}") from error
    if not stat.S_ISREG(kind):
        what = "a symbolic link" if stat.S_ISLNK(kind) else "no regular file"
        raise Refusal(f"{short_name(path)} is {what}, wanted: a plain file, or none", hint=f"ls -l {path}")
    before = _text(_body_of(path) or b"")
    if not terraform.is_ours(before):
        raise Refusal(f"{short_name(path)} was not written by this command, so it is not replaced",
                      hint=f"move what it says into group_vars, then: rm {short_name(path)}")
    return Change(path, before, terraform.inventory_text(output))


@dataclass(frozen=True)
class Inventory:
    """Whether the environment's inventory finds Terraform's nodes. `file` is None where there is no aws_ec2.yml."""

    file: str | None
    differences: tuple[Difference, ...]


def compare_inventory(folder: Path, output: TerraformOutput) -> Inventory:
    """Return how the environment's aws_ec2 inventory differs from what finds the nodes of `output`.

    Several of them find what each finds, so one that fits is enough; else the first one's differences are returned. An
    environment that lists its hosts in another way has nothing to compare.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageProblem(f"{folder} cannot be read: {error.strerror}", hint=f"ls -ld {folder}") from error
    found: list[Inventory] = []
    for name in names:
        if name.endswith(_ENDINGS):
            label = short_name(folder / name)
            found.append(Inventory(label, tuple(_compared(folder / name, label, output))))
    if found:
        return next((item for item in found if not item.differences), found[0])
    others = [name for name in names if name not in ("group_vars", "host_vars", terraform.FILE_NAME)
              and not name.endswith(_NO_INVENTORY)]
    label = short_name(folder / "aws_ec2.yml")
    missing = Difference(label, "the file", "not there", "an inventory that finds Terraform's nodes")
    return Inventory(None, () if others else (missing,))


def _compared(path: Path, label: str, output: TerraformOutput) -> list[Difference]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = "- not UTF-8"
    except OSError as error:
        raise UsageProblem(f"{label} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error
    return terraform.compare(output, label, text)

