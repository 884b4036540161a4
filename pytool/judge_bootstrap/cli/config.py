"""`judge-bootstrap config`: the settings as a run would see them, with source and age; and Terraform's output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app

if TYPE_CHECKING:
    from judge_bootstrap.adapters.config import Loaded
    from judge_bootstrap.core.settings import Settings


@click.group()
@global_options
def config() -> None:
    """Show the settings with their sources, and take over what Terraform made."""


@config.command()
@click.option("-e", "--extra-vars", "extra", multiple=True, metavar="NAME=VALUE",
              help="A setting or variable as `run` takes it, to see what it would change.")
@global_options
@pass_app
def show(app: AppContext, extra: tuple[str, ...]) -> int:
    """Show every setting of an environment: value, source, age.

    Later sources win: role defaults, Terraform (see config terraform), inventory group_vars, AppConfig (or its last
    good copy), JUDGE_BOOTSTRAP_* variables, -e. What else Terraform says stands below the settings. Secrets are no
    settings and never appear. Nothing is changed.

    \b
    Examples:
      judge-bootstrap --env prod config show
      judge-bootstrap --env prod config show --json
      JUDGE_BOOTSTRAP_MODEL__MAX_MODEL_LEN=2048 judge-bootstrap --env prod config show
    """
    from judge_bootstrap.adapters.config import load, load_environment

    app.command = "config show"
    environment = load_environment(app.require_env())
    if environment.provider == "lab":
        use_lab_variables(app)
    loaded = load(environment, extra)
    for warning in loaded.settings.warnings:
        app.warn(warning)
    if app.json:
        app.emit(as_json(loaded))
    else:
        _print_table(app, loaded)
    return 0


@config.command()
@click.argument("file", default="-", metavar="[FILE]")
@click.option("--check", is_flag=True, help="Write nothing; show what would be written.")
@global_options
@pass_app
def terraform(app: AppContext, file: str, check: bool) -> int:
    """Take over what Terraform made: its output, as `terraform output -json` prints it, from FILE or stdin.

    It becomes inventory/ENV/terraform.yml, which is committed: variables of the roles (who builds the disks, mirror,
    secret), region and AppConfig ids. Ansible reads that file by itself, and group_vars win over it. The output is
    checked first: schema, names and types of the variables, no template, no secret. It must be about ENV; a sandbox is
    an environment of its own, ENVIRONMENT-SANDBOX.

    The exit code is 1 when inventory/ENV/aws_ec2.yml does not look for Terraform's nodes, or when judge_environment in
    group_vars names another region or AppConfig environment than Terraform and so wins; what it must say is shown.

    \b
    Examples:
      terraform output -json | judge-bootstrap --env prod config terraform
      judge-bootstrap --env prod config terraform outputs.json --check
      terraform output -json judge_bootstrap | judge-bootstrap --env prod config terraform --json
    """
    from judge_bootstrap.cli.config_terraform import import_output

    return import_output(app, file, check=check)


def use_lab_variables(app: AppContext) -> None:
    """Point AWS and cluster clients at the lab. Unlike a run, looking does not bring it up."""
    import os

    from judge_bootstrap.cli.lab import call

    os.environ.update(call(app.get_services().lab().environment))


def as_json(loaded: Loaded) -> dict[str, Any]:
    """Return the machine form of `config show`."""
    settings = {
        path: {"value": item.shown, "source": str(item.source), "layer": item.source.layer,
               "age_seconds": item.source.age_seconds, "version": item.source.version}
        for path, item in loaded.settings.values.items()}
    live = loaded.appconfig
    return {"ok": True, "command": "config show", "env": loaded.environment.name, "settings": settings,
            "appconfig": {"status": live.status, "version": live.version, "age_seconds": live.age_seconds},
            "passed_on": sorted(loaded.settings.passed_on), "warnings": list(loaded.settings.warnings),
            "terraform": _terraform_json(loaded)}


def _terraform_json(loaded: Loaded) -> dict[str, Any] | None:
    if loaded.terraform is None:
        return None
    output = loaded.terraform.output
    values = {name: {"value": value, "overridden_by": overriding(loaded, name)}
              for name, value in terraform_values(loaded).items()}
    return {"file": loaded.terraform.name, "values": values, "cluster_name": output.cluster_name,
            "node_group": output.facts["node_group"], "inventory_filters": dict(output.inventory_filters)}


def terraform_values(loaded: Loaded) -> dict[str, Any]:
    """Return what Terraform says that is no setting, by name: variables of roles and keys of judge_environment."""
    from judge_bootstrap.core.environment import KEY
    from judge_bootstrap.core.schema import BY_VARIABLE

    if loaded.terraform is None:
        return {}
    output = loaded.terraform.output
    return {**{f"{KEY}.{key}": value for key, value in output.judge_environment.items()},
            **{name: value for name, value in output.variables.items() if name not in BY_VARIABLE}}


def overriding(loaded: Loaded, name: str) -> str | None:
    """Return what wins over Terraform's value of `name`: a file of group_vars, a flag, or None for nothing."""
    if name in loaded.settings.passed_on:
        return f"flag: -e {name}"
    return f"inventory: {loaded.overridden[name]}" if name in loaded.overridden else None


def appconfig_line(loaded: Loaded) -> str:
    """Return in one line how AppConfig took part in the settings."""
    from judge_bootstrap.adapters.appconfig import age_words

    live, ref = loaded.appconfig, loaded.environment.appconfig
    if ref is None:
        return f"AppConfig: none configured for {loaded.environment.name}; that layer is absent."
    if live.status == "unavailable":
        return f"AppConfig {ref}: not available, sets nothing."
    age = f", fetched {age_words(live.age_seconds or 0)} ago" if live.status == "last good" else ""
    return f"AppConfig {ref}: {live.status}, version {live.version}{age}."


def _print_table(app: AppContext, loaded: Loaded) -> None:
    console = app.console()
    if not console.is_terminal:
        # For pipes: tabs, nothing wrapped, nothing cut.
        for row in [*table_rows(loaded.settings), *terraform_rows(loaded)]:
            app.say("\t".join(row))
    else:
        from rich.table import Table
        from rich.text import Text

        from judge_bootstrap.core.redact import redactor

        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("setting", no_wrap=True)
        for name in ("value", "age", "source"):
            table.add_column(name, overflow="fold")
        for row in [*table_rows(loaded.settings, short=True), *terraform_rows(loaded)]:
            # Text, not str: a value in brackets is no markup.
            table.add_row(*(Text(redactor().clean(cell)) for cell in row))
        console.print(table)
    app.say(appconfig_line(loaded))


def table_rows(settings: Settings, *, short: bool = False) -> list[tuple[str, str, str, str]]:
    """Return (path, value, age, source) as texts for every setting; `short`: AppConfig without its names."""
    from judge_bootstrap.adapters.appconfig import age_words

    rows = []
    for path, item in settings.values.items():
        source = item.source
        words = str(source)
        if short and source.layer == "appconfig":
            words = "AppConfig" if source.live else "AppConfig, last good copy"
        age = "" if source.age_seconds is None else age_words(source.age_seconds)
        rows.append((path, "null" if item.shown is None else str(item.shown), age, words))
    return rows


def terraform_rows(loaded: Loaded) -> list[tuple[str, str, str, str]]:
    """Return (name, value, age, source) as texts for what Terraform says beside the settings, and of its nodes."""
    import json

    if loaded.terraform is None:
        return []
    file, group = loaded.terraform.name, loaded.terraform.output.node_group
    rows = []
    for name, value in terraform_values(loaded).items():
        by = overriding(loaded, name)
        rows.append((name, value if isinstance(value, str) else json.dumps(value), "",
                     f"terraform: {file}" + (f" (not used: {by} wins)" if by else "")))
    said = (("node group", group.name), ("launch template", group.launch_template_id),
            ("launch template version", str(group.launch_template_version)))
    return [*rows, *((name, value, "", f"terraform: {file}") for name, value in said)]
