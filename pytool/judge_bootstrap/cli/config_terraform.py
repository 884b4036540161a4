"""`judge-bootstrap config terraform`: bring what Terraform made into an environment's inventory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from judge_bootstrap.core.errors import BootstrapError, UsageProblem

if TYPE_CHECKING:
    from judge_bootstrap.adapters.terraform import Change, Inventory
    from judge_bootstrap.cli.context import AppContext
    from judge_bootstrap.core.terraform import Difference, TerraformOutput

DIFFERS = "INVENTORY_DIFFERS"


def import_output(app: AppContext, file: str, *, check: bool) -> int:
    """Run the command; see `config terraform --help`."""
    from judge_bootstrap.adapters import terraform
    from judge_bootstrap.adapters.config import compare_environment
    from judge_bootstrap.adapters.places import folder_of, short_name
    from judge_bootstrap.core.terraform import OUTPUT, aws_ec2_text, check_environment, looked_for_text, read_output

    app.command = "config terraform"
    name = app.require_env()
    folder = folder_of(name)
    output = read_output(_read(app, file), terraform.known_variables())
    check_environment(output, name, f"Terraform's output {OUTPUT}")
    change = terraform.plan(folder, output)
    inventory, winning = terraform.compare_inventory(folder, output), compare_environment(folder, output)
    if change.changed and not check:
        change.write()
    if inventory.file is None:
        place, lines = short_name(folder / "aws_ec2.yml"), aws_ec2_text(output)
    else:
        place, lines = inventory.file, looked_for_text(output)
    if not app.json:
        _tell(app, change, inventory, winning, output, check=check, lines=lines, place=place)
    return app.end(
        _error(inventory, winning, place, name), check=check, changed=change.changed, file=str(change.path),
        diff=change.diff, environment=output.judge_environment, variables=dict(output.variables),
        node_group=output.facts["node_group"], cluster_name=output.cluster_name,
        differences=[item.as_json() for item in (*inventory.differences, *winning)],
        inventory={"file": place, "exists": inventory.file is not None, "text": lines})


def _read(app: AppContext, file: str) -> bytes:
    from judge_bootstrap.core.terraform import AGAIN, LARGEST_OUTPUTS_BYTES

    try:
        if file == "-":
            if sys.stdin.isatty():
                raise UsageProblem("stdin is a terminal, wanted Terraform's output from a pipe or a file", hint=AGAIN)
            return sys.stdin.buffer.read(LARGEST_OUTPUTS_BYTES + 1)
        path = Path(file).expanduser()
        # A pipe is how a shell gives a command's output: <(terraform output -json).
        if path.is_dir() or path.is_block_device():
            raise UsageProblem(f"{ascii(file)[1:-1]} is no file", hint=AGAIN)
        with path.open("rb") as opened:
            return opened.read(LARGEST_OUTPUTS_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL byte in the name; ~ of a user that there is not
        said = getattr(error, "strerror", None) or error
        raise UsageProblem(f"{ascii(file)[1:-1][:200]} cannot be read: {said}", hint=f"{AGAIN} -") from error


def _error(inventory: Inventory, winning: list[Difference], place: str, env: str) -> BootstrapError | None:
    if not inventory.differences:
        return _winning_error(winning, env) if winning else None
    count = len(inventory.differences)
    if inventory.file is None:
        message = f"{place} is not there, so no run finds Terraform's nodes"
    else:
        message = f"{place} does not look for Terraform's nodes: {count} difference{'s' if count > 1 else ''}"
    return BootstrapError(message, reason=DIFFERS,
                          hint=f"write the lines that are shown into {place}, then: judge-bootstrap --env {env} doctor")


def _winning_error(winning: list[Difference], env: str) -> BootstrapError:
    keys = " and ".join(item.key for item in winning)
    return BootstrapError(f"{winning[0].file} wins over Terraform with {keys}", reason=DIFFERS,
                          hint=f"take what is shown out of {winning[0].file} (or correct it), then: "
                               f"judge-bootstrap --env {env} config show")


def _tell(app: AppContext, change: Change, inventory: Inventory, winning: list[Difference], output: TerraformOutput, *,
          check: bool, lines: str, place: str) -> None:
    from judge_bootstrap.adapters.places import short_name

    group = output.node_group
    app.say(f"Terraform: node group {group.name} of cluster {output.cluster_name} in {output.region}, "
            f"launch template {group.launch_template_id} version {group.launch_template_version}, "
            f"variables of roles: {len(output.variables)}")
    name = short_name(change.path)
    if not change.changed:
        app.say(f"{name}: nothing {'would change' if check else 'changed'}.")
    elif check:
        app.say(change.diff.rstrip("\n"))
        app.say(f"Would write {name}")
    else:
        app.say(f"Wrote {name}")
    for difference in (*inventory.differences, *winning):
        app.say(str(difference))
    if inventory.differences:
        app.say(f"{place} finds these nodes with:")
        app.say(lines.rstrip("\n"))
    elif change.changed and not check and not winning:
        app.say(f"Next: commit it, then: judge-bootstrap --env {app.env} config show")
