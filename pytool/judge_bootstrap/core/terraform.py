"""What Terraform's output `judge_bootstrap` says about an environment, checked, and as an inventory file.

The file is one that Ansible reads too: variables of the group all, which lose against every group_vars. Ansible renders
what stands in it, so nothing that could be a template is let through from a state that others may have written.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from judge_bootstrap.core.documents import InvalidDocument, read_json_object, read_yaml_mapping
from judge_bootstrap.core.environment import KEY as ENVIRONMENT_KEY
from judge_bootstrap.core.environment import REGION, AppConfigRef
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.problems import Problem, in_one_line, nearest, one_line, shown, type_words
from judge_bootstrap.core.role_variables import RoleVariable, variable_problems

OUTPUT = "judge_bootstrap"
FILE_NAME = "terraform.yml"
# The variable that keeps what is no variable of a role, for `config show` and `doctor`.
FACTS_KEY = "judge_terraform"
SCHEMA = 1
# A root module may have many more outputs than ours.
LARGEST_OUTPUTS_BYTES = 4 << 20
LARGEST_FILE_BYTES = 65_536
MARK = "# Written by `judge-bootstrap config terraform` from Terraform's output: do not edit, the next one replaces it."
_HEADER = f"""\
---
{MARK}
# Ansible reads it as an inventory file. What group_vars say wins over it.
"""
_SANDBOX = "tag:Sandbox"
AGAIN = "terraform output -json | judge-bootstrap --env ENV config terraform"

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/=+@-]{0,254}$")]
_FilterName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 ._:/=+@-]{0,254}$")]
_FilterValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9 ._:/=+@-]{1,255}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class NodeGroup(_Part):
    """The node group, and the launch template that its nodes are made from."""

    name: _Name = Field(description="the name of the EKS node group")
    launch_template_id: Annotated[str, Field(pattern=r"^lt-[0-9a-zA-Z]{1,64}$")] = Field(
        description="the id of the launch template, lt-...")
    launch_template_version: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$")] = Field(
        description="the version of the launch template, from 1")
    autoscaling_group_names: list[_Name] = Field(description="a list of names of autoscaling groups")


class Facts(_Part):
    """What is said about the nodes, beside the values that settings and roles take."""

    # Not Literal[1], to which true is 1.
    schema_number: Annotated[int, Field(ge=SCHEMA, le=SCHEMA)] = Field(
        alias="schema", description=f"the schema that this program knows, {SCHEMA}")
    environment: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")] = Field(
        description="the name of an environment: letters, digits, '-' and '_'")
    cluster_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")] = Field(
        description="the name of an EKS cluster")
    node_group: NodeGroup = Field(description="an object with name, launch_template_id, launch_template_version and "
                                              "autoscaling_group_names")
    inventory_filters: Annotated[dict[_FilterName, _FilterValue], Field(min_length=1)] = Field(
        description="an object of EC2 filters, such as tag:Environment, each with one plain text")


class TerraformOutput(Facts):
    """The output `judge_bootstrap`, whole."""

    region: Annotated[str, Field(pattern=REGION)] = Field(description="an AWS region such as us-east-1")
    appconfig: AppConfigRef | None = Field(
        default=None, description="an object with application, environment and profile, or null")
    variables: dict[str, Any] = Field(description="an object of role variables")

    @property
    def inventory_name(self) -> str:
        """The name of the environment in inventory/; a sandbox is one of its own, for its nodes are others."""
        return "-".join(filter(None, [self.environment, self.inventory_filters.get(_SANDBOX)]))

    @property
    def judge_environment(self) -> dict[str, Any]:
        """The keys of `judge_environment` that Terraform may set."""
        return {"region": self.region, **({"appconfig": self.appconfig.model_dump()} if self.appconfig else {})}

    @property
    def facts(self) -> dict[str, Any]:
        """What FACTS_KEY keeps."""
        keys = {info.alias or key for key, info in Facts.model_fields.items()}
        return {key: value for key, value in self.model_dump(by_alias=True).items() if key in keys}


_OURS = ("region", "appconfig")


def read_output(body: bytes, known: Mapping[str, RoleVariable]) -> TerraformOutput:
    """Return what `terraform output -json` says: all outputs, or the value of ours alone.

    Raises UsageProblem, in one line, for anything else, and for an output that says that there are no nodes.
    """
    hint = f"terraform apply, then: {AGAIN}"
    if not body.strip():
        raise UsageProblem("Terraform's output is empty, wanted: what terraform output -json prints", hint=hint)
    if body.strip() == b"null":
        raise _disabled()
    try:
        document = read_json_object(body, largest=LARGEST_OUTPUTS_BYTES)
    except InvalidDocument as error:
        raise UsageProblem(f"Terraform's output cannot be read: {error}", hint=AGAIN) from error
    given = _value_of(document)
    if given is None:
        raise _disabled()
    if not isinstance(given, dict):
        raise UsageProblem(f"Terraform's output {OUTPUT} is {type_words(given)}, wanted: an object", hint=hint)
    return _checked(given, known, hint=f"use the module and this program at one version; {hint}")


def _disabled() -> UsageProblem:
    return UsageProblem(f"Terraform's output {OUTPUT} is null: the module makes no nodes (enabled = false)",
                        hint=f"set enabled = true and terraform apply, or remove inventory/ENV/{FILE_NAME}")


def _value_of(document: dict[str, Any]) -> Any:
    """Return the value of our output. Raises UsageProblem where it is not there, or is marked as a secret."""
    entry: Any = document.get(OUTPUT, document)
    if OUTPUT not in document and "schema" in document and not isinstance(document["schema"], dict):
        return document
    if OUTPUT not in document and not {"sensitive", "value"} <= document.keys():
        # Terraform leaves an output out of its state that is null. Values of others are not shown: they may be secrets.
        others = ", ".join(one_line(name, 60) for name in sorted(document)[:8]) or "no output at all"
        raise UsageProblem(
            f"Terraform has no output {OUTPUT} (found: {others}), or it is null because the module is disabled",
            hint=f'write output "{OUTPUT}" {{ value = module.NAME.{OUTPUT} }}, terraform apply, then: {AGAIN}')
    if not isinstance(entry, dict) or "value" not in entry:
        raise UsageProblem(f"Terraform's output {OUTPUT} is {type_words(entry)}, wanted: an object with value and "
                           "sensitive, as terraform output -json prints it", hint=AGAIN)
    if entry.get("sensitive") is not False:
        raise UsageProblem(f"Terraform's output {OUTPUT} is marked as sensitive, so it is not written to a file",
                           hint=f"take sensitive = true off output {OUTPUT}, and secrets out of it; terraform apply")
    return entry["value"]


def _checked(given: Mapping[Any, Any], known: Mapping[str, RoleVariable], *, hint: str,
             place: str = f"Terraform's output {OUTPUT}") -> TerraformOutput:
    try:
        output = TerraformOutput.model_validate(given)
        found = variable_problems(output.variables, known)
    except ValidationError as error:
        found = [Problem("", _sentence(item["type"], item["loc"], item["input"]))
                 for item in error.errors(include_url=False, include_context=False)]
    if found:
        raise UsageProblem(f"{place} is not usable: {in_one_line(found)}", hint=hint)
    return output.model_copy(update={"variables": {name: value for name, value in sorted(output.variables.items())
                                                   if value is not None}})


def _sentence(kind: str, loc: tuple[int | str, ...], value: Any) -> str:
    """Return in words what pydantic found; `loc` may end in the kind of a union's member or a place in a list."""
    model: type[BaseModel] = TerraformOutput
    names: list[str] = []
    description = "an object"
    for part in loc:
        field = next((info for key, info in model.model_fields.items() if part in (key, info.alias)), None)
        if field is None:
            break
        names.append(str(part))
        description = field.description or ""
        inner = next((item for item in (field.annotation, *typing.get_args(field.annotation))
                      if isinstance(item, type) and issubclass(item, BaseModel)), None)
        if inner is None:
            break
        model = inner
    where = ".".join(names) or OUTPUT
    if kind in ("extra_forbidden", "invalid_key"):
        keys = [info.alias or key for key, info in model.model_fields.items()]
        last = one_line(loc[-1], 60)
        # The value is not shown: what stands under a key that nobody knows may be a secret.
        return f"unknown key {'.'.join([*names, last])} ({type_words(value)}), wanted: one of {', '.join(keys)}" \
               f"{nearest(last, keys)}"
    if kind == "missing":
        return f"{where} is missing, wanted: {description}"
    return f"{where} is {shown(value)} ({type_words(value)}), wanted: {description}"


def check_environment(output: TerraformOutput, name: str, place: str) -> None:
    """Raise UsageProblem when what `place` says is about another environment than `name`."""
    theirs = output.inventory_name
    if theirs != name:
        raise UsageProblem(f"{place} is about environment {theirs}, not {name}: its nodes are other ones",
                           hint=f"terraform output -json | judge-bootstrap --env {theirs} config terraform   "
                                f"# or choose the state of {name}")


class _Dumper(yaml.SafeDumper):
    """Writes as the inventory's other files are written: items of a list are indented, nothing is an alias."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def yaml_text(value: Any) -> str:
    """Return `value` as block YAML in the order of its keys, no line folded."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=10**6)


def inventory_text(output: TerraformOutput) -> str:
    """Return the inventory file that says what `output` does."""
    return _HEADER + yaml_text({"all": {"vars": {
        ENVIRONMENT_KEY: output.judge_environment, FACTS_KEY: output.facts, **output.variables}}})


def read_inventory(text: str, file: str, known: Mapping[str, RoleVariable]) -> TerraformOutput:
    """Return what inventory_text() wrote.

    Raises UsageProblem for a file that was edited: it may hold values that Ansible would take, and that nobody checked.
    """
    hint = f"make it again: {AGAIN}"
    try:
        # PyYAML follows an alias wherever it stands: a few lines of them are gigabytes once they are written out.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise InvalidDocument("it has aliases, wanted: the file as it was written")
        document = read_yaml_mapping(text)
    except InvalidDocument as error:
        raise UsageProblem(f"{file}: {error}", hint=hint) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageProblem(f"{file}: it is not YAML that can be read ({one_line(error)})", hint=hint) from error
    group = document.get("all")
    variables = group.get("vars") if isinstance(group, dict) and group.keys() == {"vars"} else None
    if document.keys() != {"all"} or not isinstance(variables, dict):
        raise UsageProblem(f"{file} was edited: it has more than variables of the group all", hint=hint)
    ours, facts = variables.pop(ENVIRONMENT_KEY, None), variables.pop(FACTS_KEY, None)
    for name, found, keys in ((ENVIRONMENT_KEY, ours, _OURS), (FACTS_KEY, facts, tuple(
            info.alias or key for key, info in Facts.model_fields.items()))):
        if not isinstance(found, dict):
            raise UsageProblem(f"{file} was edited: {name} is {type_words(found)}, wanted: an object", hint=hint)
        other = next((key for key in found if key not in keys), None)
        if other is not None:
            raise UsageProblem(f"{file} was edited: {name}.{one_line(other, 60)} cannot come from Terraform, wanted: "
                               f"{', '.join(keys)} alone", hint=hint)
    return _checked({**facts, **ours, "variables": variables}, known, hint=hint, place=file)


def is_ours(text: str) -> bool:
    """Tell whether the text of an inventory file is one that inventory_text() made."""
    return MARK in text.splitlines()[:3]


@dataclass(frozen=True)
class Difference:
    """One thing for which the inventory looks differently than it must to find Terraform's nodes."""

    file: str
    key: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key} is {self.found}, wanted: {self.wanted}"

    def as_json(self) -> dict[str, str]:
        """Return it for --json."""
        return {"file": self.file, "key": self.key, "found": self.found, "wanted": self.wanted}


def compare(output: TerraformOutput, file: str, text: str) -> list[Difference]:
    """Return where an aws_ec2 inventory looks elsewhere than at the nodes of `output`.

    Filters of its own narrow it, and are the operator's; templates are for Ansible to render and are let pass.
    """
    try:
        document = read_yaml_mapping(text)
    except InvalidDocument as error:
        return [Difference(file, "the file", one_line(error), "YAML of the plugin amazon.aws.aws_ec2")]
    regions, filters, more = document.get("regions"), document.get("filters"), document.get("include_filters")
    found = []
    # No region at all means every one.
    if regions and not any(region == output.region or "{{" in str(region) for region in _items(regions)):
        found.append(Difference(file, "regions", _words(regions), output.region))
    # The plugin takes what any of them finds.
    each = [_compare_filters(output, file, item) for item in (filters, *(more if isinstance(more, list) else ()))]
    return found if [] in each else [*found, *each[0]]


def _compare_filters(output: TerraformOutput, file: str, filters: Any) -> list[Difference]:
    found = []
    for key, wanted in output.inventory_filters.items():
        value = filters.get(key) if isinstance(filters, dict) else None
        if value is None:
            found.append(Difference(file, f"filters.{key}", "not there", wanted))
        elif not any(_fits(item, wanted) for item in _items(value)):
            found.append(Difference(file, f"filters.{key}", _words(value), wanted))
    return found


def compare_environment(output: TerraformOutput, file: str, given: Any) -> list[Difference]:
    """Return where the `judge_environment` of a file of group_vars wins over Terraform's and leads somewhere else.

    The module calls the AppConfig environment like the inventory's. Application and profile may stand there by names
    that the output does not have, and null (no AppConfig at all) is the operator's to say.
    """
    if not isinstance(given, Mapping):
        return []
    found = []
    region, appconfig = given.get("region", output.region), given.get("appconfig")
    if region != output.region:
        found.append(Difference(file, f"{ENVIRONMENT_KEY}.region", _words(region), output.region))
    if output.appconfig and isinstance(appconfig, Mapping):
        name, id_ = output.inventory_name, output.appconfig.environment
        if appconfig.get("environment") not in (name, id_):
            found.append(Difference(file, f"{ENVIRONMENT_KEY}.appconfig.environment",
                                    _words(appconfig.get("environment")), f"{name} ({id_})"))
    return found


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _fits(item: Any, wanted: str) -> bool:
    """Tell whether EC2 finds `wanted` by the filter value `item`, where * and ? stand for other signs."""
    text = str(item).lower() if isinstance(item, bool) else str(item)
    if "{{" in text:
        return True
    pattern = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in text)
    return re.fullmatch(pattern, wanted) is not None


def _words(value: Any) -> str:
    return one_line(", ".join(map(_plain, _items(value)[:8])), 120)


def _plain(item: Any) -> str:
    return shown(item) if isinstance(item, (dict, list)) else str(item)


def looked_for_text(output: TerraformOutput) -> str:
    """Return the lines of an aws_ec2 inventory that find the nodes."""
    return yaml_text({"regions": [output.region], "filters": dict(output.inventory_filters)})


def aws_ec2_text(output: TerraformOutput) -> str:
    """Return a whole aws_ec2 inventory that finds the nodes, in the form of inventory/prod/aws_ec2.yml."""
    role = output.inventory_filters.get("tag:role")
    return (
        "---\n# The GPU nodes that Terraform makes, by instance id: all nodes of a group carry one name.\n"
        f"plugin: amazon.aws.aws_ec2\n{looked_for_text(output)}hostnames:\n  - instance-id\n"
        "# Without a prefix the plugin sets variables such as `tags`, which Ansible reserves and warns of.\n"
        "hostvars_prefix: aws_\ngroups:\n"
        f"  gpu_nodes: {f'aws_tags.role == {role!r}' if role else 'true'}\n"
        "compose:\n  ansible_host: aws_private_ip_address\nstrict: true\n")
