"""A stand-in for AppConfig's control plane: what Terraform makes there, by the documented API (version 2019-10-09).

moto 5.2 has no environments, deployments or tags of them. This one has applications, environments, configuration
profiles, hosted versions, deployment strategies, deployments and tags, and refuses what the service refuses: a document
that its profile's JSON Schema forbids, and the deletion of an application that still has something in it. It deploys at
once, whatever the strategy says. `AWS_ENDPOINT_URL_APPCONFIG` leads to it; what is deployed is fed to the data plane's
stand-in, judge_lab.appconfig.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from jsonschema import Draft4Validator
from judge_lab.stand_in import Handler, StandIn

_ARN = "arn:aws:appconfig:us-east-1:123456789012:"
_PREDEFINED = {
    "AppConfig.AllAtOnce": (0, 100.0, 10, "LINEAR"),
    "AppConfig.Linear50PercentEvery30Seconds": (1, 50.0, 1, "LINEAR"),
    "AppConfig.Canary10Percent20Minutes": (20, 10.0, 10, "EXPONENTIAL"),
    "AppConfig.Linear20PercentEvery6Minutes": (30, 20.0, 30, "LINEAR"),
}


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass
class _Version:
    content: bytes
    headers: dict[str, str]


@dataclass
class _State:
    """Everything that exists. Objects are held as the API shows them."""

    applications: dict[str, dict[str, Any]] = field(default_factory=dict)
    environments: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    profiles: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    versions: dict[tuple[str, str, int], _Version] = field(default_factory=dict)
    deployments: dict[tuple[str, str, int], dict[str, Any]] = field(default_factory=dict)
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    # A version's number is never given again, also after its deletion.
    numbers: dict[tuple[str, ...], int] = field(default_factory=dict)

    def next_number(self, *place: str) -> int:
        self.numbers[place] = self.numbers.get(place, 0) + 1
        return self.numbers[place]


def _new_id() -> str:
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(7))


class _ControlHandler(Handler):
    """The operations. AppConfigControl makes a subclass with its state."""

    state: _State

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path)
        try:
            for method, pattern, operation in _OPERATIONS:
                match = re.fullmatch(pattern, path.path.rstrip("/"))
                if match and method == self.command:
                    operation(self, body, *map(unquote, match.groups()))
                    return
            raise _Refused(404, "ResourceNotFoundException", f"no operation {self.command} {self.path}")
        except _Refused as error:
            self.answer_json(error.status, {"Message": str(error)}, {"x-amzn-ErrorType": error.kind})

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    # --- what each kind of object has in common -----------------------------------------------------------------------

    def _keep(self, objects: dict[Any, dict[str, Any]], key: Any, shown: dict[str, Any], arn: str,
              tags: dict[str, str] | None) -> None:
        objects[key] = {name: value for name, value in shown.items() if value is not None}
        self.state.tags[_ARN + arn] = dict(tags or {})
        self.answer_json(201, objects[key])

    def _find(self, objects: dict[Any, Any], key: Any, kind: str) -> Any:
        if key not in objects:
            raise _Refused(404, "ResourceNotFoundException", f"{kind} {key} could not be found")
        return objects[key]

    def _change(self, objects: dict[Any, Any], key: Any, kind: str, body: bytes) -> None:
        found = self._find(objects, key, kind)
        found |= {name: value for name, value in json.loads(body).items() if value is not None}
        self.answer_json(200, found)

    def _remove(self, objects: dict[Any, Any], key: Any, kind: str, arn: str) -> None:
        self._find(objects, key, kind)
        del objects[key]
        self.state.tags.pop(_ARN + arn, None)
        self.answer(204)

    # --- applications -------------------------------------------------------------------------------------------------

    def create_application(self, body: bytes) -> None:
        asked, new = json.loads(body), _new_id()
        shown = {"Id": new, "Name": asked["Name"], "Description": asked.get("Description")}
        self._keep(self.state.applications, new, shown, f"application/{new}", asked.get("Tags"))

    def get_application(self, body: bytes, application: str) -> None:
        self.answer_json(200, self._find(self.state.applications, application, "Application"))

    def list_applications(self, body: bytes) -> None:
        self.answer_json(200, {"Items": list(self.state.applications.values())})

    def update_application(self, body: bytes, application: str) -> None:
        self._change(self.state.applications, application, "Application", body)

    def delete_application(self, body: bytes, application: str) -> None:
        for objects, kind in ((self.state.environments, "environments"), (self.state.profiles, "profiles")):
            if any(key[0] == application for key in objects):
                raise _Refused(400, "BadRequestException", f"Cannot delete application {application}: it has {kind}")
        self._remove(self.state.applications, application, "Application", f"application/{application}")

    # --- environments -------------------------------------------------------------------------------------------------

    def create_environment(self, body: bytes, application: str) -> None:
        self._find(self.state.applications, application, "Application")
        asked, new = json.loads(body), _new_id()
        shown = {"ApplicationId": application, "Id": new, "Name": asked["Name"], "State": "READY_FOR_DEPLOYMENT",
                 "Description": asked.get("Description"), "Monitors": asked.get("Monitors") or []}
        self._keep(self.state.environments, (application, new), shown,
                   f"application/{application}/environment/{new}", asked.get("Tags"))

    def get_environment(self, body: bytes, *key: str) -> None:
        self.answer_json(200, self._find(self.state.environments, key, "Environment"))

    def list_environments(self, body: bytes, application: str) -> None:
        self.answer_json(200, {"Items": [item for key, item in self.state.environments.items()
                                         if key[0] == application]})

    def update_environment(self, body: bytes, *key: str) -> None:
        self._change(self.state.environments, key, "Environment", body)

    def delete_environment(self, body: bytes, *key: str) -> None:
        self._remove(self.state.environments, key, "Environment", "application/{}/environment/{}".format(*key))
        self.state.deployments = {name: item for name, item in self.state.deployments.items() if name[:2] != key}

    # --- configuration profiles and what they hold --------------------------------------------------------------------

    def create_profile(self, body: bytes, application: str) -> None:
        self._find(self.state.applications, application, "Application")
        asked, new = json.loads(body), _new_id()
        for validator in asked.get("Validators") or []:
            if validator["Type"] == "JSON_SCHEMA":
                Draft4Validator.check_schema(json.loads(validator["Content"]))
                if len(validator["Content"]) > 32768:
                    raise _Refused(400, "BadRequestException", "Validator content is longer than 32768")
        shown = {"ApplicationId": application, "Id": new, "Name": asked["Name"], "LocationUri": asked["LocationUri"],
                 "Description": asked.get("Description"), "RetrievalRoleArn": asked.get("RetrievalRoleArn"),
                 "Validators": asked.get("Validators") or [], "Type": asked.get("Type") or "AWS.Freeform"}
        self._keep(self.state.profiles, (application, new), shown,
                   f"application/{application}/configurationprofile/{new}", asked.get("Tags"))

    def get_profile(self, body: bytes, *key: str) -> None:
        self.answer_json(200, self._find(self.state.profiles, key, "ConfigurationProfile"))

    def list_profiles(self, body: bytes, application: str) -> None:
        self.answer_json(200, {"Items": [item for key, item in self.state.profiles.items() if key[0] == application]})

    def update_profile(self, body: bytes, *key: str) -> None:
        self._change(self.state.profiles, key, "ConfigurationProfile", body)

    def delete_profile(self, body: bytes, *key: str) -> None:
        if any(name[:2] == key for name in self.state.versions):
            raise _Refused(400, "BadRequestException", f"Cannot delete profile {key[1]}: it has hosted versions")
        self._remove(self.state.profiles, key, "ConfigurationProfile",
                     "application/{}/configurationprofile/{}".format(*key))

    def create_version(self, body: bytes, *key: str) -> None:
        self._find(self.state.profiles, key, "ConfigurationProfile")
        number = self.state.next_number("version", *key)
        headers = {"Application-Id": key[0], "Configuration-Profile-Id": key[1], "Version-Number": str(number),
                   "Content-Type": self.headers["Content-Type"]}
        headers |= {name: self.headers[name] for name in ("Description", "VersionLabel") if self.headers.get(name)}
        self.state.versions[(key[0], key[1], number)] = _Version(body, headers)
        self.answer(201, body, headers)

    def get_version(self, body: bytes, application: str, profile: str, number: str) -> None:
        found = self._find(self.state.versions, (application, profile, int(number)), "HostedConfigurationVersion")
        self.answer(200, found.content, found.headers)

    def delete_version(self, body: bytes, application: str, profile: str, number: str) -> None:
        self._remove(self.state.versions, (application, profile, int(number)), "HostedConfigurationVersion", "-")

    # --- strategies and deployments -----------------------------------------------------------------------------------

    def create_strategy(self, body: bytes) -> None:
        asked, new = json.loads(body), _new_id()
        shown = {"Id": new, "GrowthType": "LINEAR", "FinalBakeTimeInMinutes": 0, "ReplicateTo": "NONE"}
        shown |= {name: value for name, value in asked.items() if name != "Tags" and value is not None}
        self._keep(self.state.strategies, new, shown, f"deploymentstrategy/{new}", asked.get("Tags"))

    def get_strategy(self, body: bytes, strategy: str) -> None:
        self.answer_json(200, self._strategy(strategy))

    def update_strategy(self, body: bytes, strategy: str) -> None:
        self._change(self.state.strategies, strategy, "DeploymentStrategy", body)

    def delete_strategy(self, body: bytes, strategy: str) -> None:
        self._remove(self.state.strategies, strategy, "DeploymentStrategy", f"deploymentstrategy/{strategy}")

    def _strategy(self, strategy: str) -> dict[str, Any]:
        if strategy in _PREDEFINED:
            minutes, factor, bake, growth = _PREDEFINED[strategy]
            return {"Id": strategy, "Name": strategy, "DeploymentDurationInMinutes": minutes, "GrowthFactor": factor,
                    "FinalBakeTimeInMinutes": bake, "GrowthType": growth, "ReplicateTo": "NONE"}
        found: dict[str, Any] = self._find(self.state.strategies, strategy, "DeploymentStrategy")
        return found

    def start_deployment(self, body: bytes, application: str, environment: str) -> None:
        asked = json.loads(body)
        self._find(self.state.environments, (application, environment), "Environment")
        profile_id, number = asked["ConfigurationProfileId"], int(asked["ConfigurationVersion"])
        profile = self._find(self.state.profiles, (application, profile_id), "ConfigurationProfile")
        version = self._find(self.state.versions, (application, profile_id, number), "HostedConfigurationVersion")
        strategy = self._strategy(asked["DeploymentStrategyId"])
        for validator in profile["Validators"]:
            if validator["Type"] == "JSON_SCHEMA":
                found = next(Draft4Validator(json.loads(validator["Content"])).iter_errors(json.loads(version.content)),
                             None)
                if found:
                    raise _Refused(400, "BadRequestException", f"Invalid configuration: {found.message}")
        deployment = self.state.next_number("deployment", application, environment)
        shown = {"ApplicationId": application, "EnvironmentId": environment, "DeploymentNumber": deployment,
                 "ConfigurationProfileId": profile_id, "ConfigurationVersion": str(number),
                 "ConfigurationName": profile["Name"], "ConfigurationLocationUri": profile["LocationUri"],
                 "DeploymentStrategyId": strategy["Id"], "Description": asked.get("Description"), "State": "COMPLETE",
                 "PercentageComplete": 100.0, "EventLog": [],
                 **{name: strategy[name] for name in ("DeploymentDurationInMinutes", "GrowthType", "GrowthFactor",
                                                      "FinalBakeTimeInMinutes")}}
        self._keep(self.state.deployments, (application, environment, deployment), shown,
                   f"application/{application}/environment/{environment}/deployment/{deployment}", asked.get("Tags"))

    def get_deployment(self, body: bytes, application: str, environment: str, number: str) -> None:
        self.answer_json(200, self._find(self.state.deployments, (application, environment, int(number)), "Deployment"))

    # --- tags ---------------------------------------------------------------------------------------------------------

    def list_tags(self, body: bytes, arn: str) -> None:
        self.answer_json(200, {"Tags": self._find(self.state.tags, arn, "Resource")})

    def tag(self, body: bytes, arn: str) -> None:
        self._find(self.state.tags, arn, "Resource").update(json.loads(body)["Tags"])
        self.answer(204)

    def untag(self, body: bytes, arn: str) -> None:
        tags = self._find(self.state.tags, arn, "Resource")
        for key in parse_qs(urlsplit(self.path).query).get("tagKeys", []):
            tags.pop(key, None)
        self.answer(204)


_A = "/applications"
_ONE = f"{_A}/([^/]+)"
_E = f"{_ONE}/environments"
_P = f"{_ONE}/configurationprofiles"
_V = f"{_P}/([^/]+)/hostedconfigurationversions"
_S = "/deploymentstrategies"
_D = f"{_E}/([^/]+)/deployments"
_H = _ControlHandler
_OPERATIONS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("POST", _A, _H.create_application), ("GET", _A, _H.list_applications), ("GET", _ONE, _H.get_application),
    ("PATCH", _ONE, _H.update_application), ("DELETE", _ONE, _H.delete_application),
    ("POST", _E, _H.create_environment), ("GET", _E, _H.list_environments),
    ("GET", f"{_E}/([^/]+)", _H.get_environment), ("PATCH", f"{_E}/([^/]+)", _H.update_environment),
    ("DELETE", f"{_E}/([^/]+)", _H.delete_environment),
    ("POST", _P, _H.create_profile), ("GET", _P, _H.list_profiles), ("GET", f"{_P}/([^/]+)", _H.get_profile),
    ("PATCH", f"{_P}/([^/]+)", _H.update_profile), ("DELETE", f"{_P}/([^/]+)", _H.delete_profile),
    ("POST", _V, _H.create_version), ("GET", f"{_V}/([0-9]+)", _H.get_version),
    ("DELETE", f"{_V}/([0-9]+)", _H.delete_version),
    ("POST", _S, _H.create_strategy), ("GET", f"{_S}/([^/]+)", _H.get_strategy),
    ("PATCH", f"{_S}/([^/]+)", _H.update_strategy),
    # The service's own spelling.
    ("DELETE", "/deployementstrategies/([^/]+)", _H.delete_strategy),
    ("POST", _D, _H.start_deployment), ("GET", f"{_D}/([0-9]+)", _H.get_deployment),
    ("GET", "/tags/(.+)", _H.list_tags), ("POST", "/tags/(.+)", _H.tag), ("DELETE", "/tags/(.+)", _H.untag),
)


class AppConfigControl(StandIn):
    """The stand-in in a thread of this process; a context manager."""

    def __init__(self) -> None:
        self.state = _State()
        super().__init__(type("ControlHandler", (_ControlHandler,), {"state": self.state}))

    def everything(self) -> list[str]:
        """Return one line for each object that exists."""
        state = self.state
        return sorted([
            *(f"application {item['Name']}" for item in state.applications.values()),
            *(f"environment {item['Name']}" for item in state.environments.values()),
            *(f"profile {item['Name']}" for item in state.profiles.values()),
            *(f"hosted version {key[2]}" for key in state.versions),
            *(f"strategy {item['Name']}" for item in state.strategies.values()),
        ])

    def deployed(self, application: str, environment: str, profile: str) -> bytes:
        """Return the document that was deployed last, by the ids of the three. Raises LookupError without one."""
        found = [item for key, item in sorted(self.state.deployments.items())
                 if key[:2] == (application, environment) and item["ConfigurationProfileId"] == profile]
        if not found:
            raise LookupError(f"nothing is deployed to {application}/{environment}/{profile}")
        return self.state.versions[(application, profile, int(found[-1]["ConfigurationVersion"]))].content
