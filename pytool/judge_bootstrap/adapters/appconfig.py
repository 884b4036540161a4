"""AWS AppConfig as a layer of settings: the live document, or the last good copy with its age, never an invalid one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from judge_bootstrap.adapters.aws import call_errors
from judge_bootstrap.adapters.bounded import within
from judge_bootstrap.adapters.state import LastGood
from judge_bootstrap.core import layers
from judge_bootstrap.core.documents import LARGEST_DOCUMENT_BYTES, InvalidDocument, read_json_object
from judge_bootstrap.core.environment import AppConfigRef, Environment
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.problems import in_one_line, one_line
from judge_bootstrap.core.settings import Source, Value

CONNECT_SECONDS = 2
READ_SECONDS = 3
# Both calls, name look-up and credentials included; a server that drips one byte at a time resets every read timeout.
FETCH_SECONDS = 12.0


class AppConfigUnavailable(Exception):
    """AppConfig gave no document: down, slow, denied, or not there. The message is one line."""


@dataclass(frozen=True)
class Fetched:
    """An answer: `body` is empty when AppConfig says "unchanged"; `version` is its label, or a digest of the body."""

    body: bytes
    version: str


class AppConfigSource(Protocol):
    """Where documents come from; fakes stand in for AWS in tests."""

    def fetch(self) -> Fetched:
        """Return the newest document. Raises AppConfigUnavailable."""


class LastGoodStore(Protocol):
    """Where the last good copy is kept."""

    def read(self) -> LastGood | None: ...

    def write(self, copy: LastGood) -> None: ...


class AwsAppConfig:
    """AppConfig over boto3 (`appconfigdata`): one try, short timeouts."""

    def __init__(self, ref: AppConfigRef, region: str, *, deadline_seconds: float = FETCH_SECONDS) -> None:
        self._ref = ref
        self._region = region
        self._deadline_seconds = deadline_seconds

    def fetch(self) -> Fetched:
        """Return the newest document. Raises AppConfigUnavailable."""
        from botocore.exceptions import ClientError

        try:
            return within(self._deadline_seconds, self._fetch)
        except ClientError as error:
            found = error.response.get("Error", {})
            message = f"{found.get('Code', 'error')}: {found.get('Message') or error}"
            raise AppConfigUnavailable(one_line(message)) from error
        except call_errors() as error:
            raise AppConfigUnavailable(one_line(error)) from error

    def _fetch(self) -> Fetched:
        import boto3
        from botocore.config import Config

        limits = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": 1})
        client = boto3.session.Session().client("appconfigdata", region_name=self._region, config=limits)
        session = client.start_configuration_session(
            ApplicationIdentifier=self._ref.application, EnvironmentIdentifier=self._ref.environment,
            ConfigurationProfileIdentifier=self._ref.profile)
        answer = client.get_latest_configuration(ConfigurationToken=session["InitialConfigurationToken"])
        # One byte more than allowed tells that it is too large, without reading all of it.
        body: bytes = answer["Configuration"].read(LARGEST_DOCUMENT_BYTES + 1)
        digest = hashlib.sha256(body).hexdigest()
        return Fetched(body, answer.get("VersionLabel") or f"sha256:{digest[:12]}")


@dataclass(frozen=True)
class AppConfigLayer:
    """The layer, how it came about (live, last good, unavailable, absent), and what the operator has to know of it."""

    status: str
    values: Mapping[str, Value] = field(default_factory=dict)
    version: str | None = None
    age_seconds: int | None = None
    warnings: tuple[str, ...] = ()


def read(environment: Environment, below: Mapping[str, Value], source: AppConfigSource, store: LastGoodStore,
         *, now: Callable[[], float]) -> AppConfigLayer:
    """Return the AppConfig layer on top of the layers `below`.

    Anything but a valid document leads to the last good copy, and to a warning with its version and age. Without a copy
    the layer is empty, with a warning; in production that raises UsageProblem instead.
    """
    ref = environment.appconfig
    if ref is None:
        return AppConfigLayer("absent")
    origin = f"{ref} ({environment.region})"
    try:
        fetched = source.fetch()
        if fetched.body.strip():
            document = _checked(read_json_object(fetched.body), below)
            warnings = _keep(store, LastGood(origin, fetched.version, now(), document))
            found = Source(layer="appconfig", detail=str(ref), version=fetched.version, age_seconds=0, live=True)
            return AppConfigLayer("live", layers.from_document(document, found), fetched.version, 0, warnings)
        trouble = f"AppConfig {ref} answered with an empty body, which means unchanged"
    except AppConfigUnavailable as error:
        trouble = f"AppConfig {ref} cannot be read ({error})"
    except InvalidDocument as error:
        trouble = f"AppConfig {ref} version {fetched.version} is invalid and not applied: {error}"

    copy = store.read()
    if copy is not None and copy.origin == origin:
        try:
            document = _checked(copy.document, below)
        except InvalidDocument as error:
            trouble += f"; the last good copy (version {copy.version}) does not fit this release: {error}"
        else:
            age = max(0, int(now() - copy.fetched_at))
            found = Source(layer="appconfig", detail=str(ref), version=copy.version, age_seconds=age, live=False)
            warning = f"{trouble}; using the last good copy, version {copy.version}, {age_words(age)} old"
            return AppConfigLayer("last good", layers.from_document(document, found), copy.version, age, (warning,))
    if environment.production:
        raise UsageProblem(f"{trouble}; there is no last good copy, and in production defaults do not stand in for one",
                           hint=f"deploy a valid document to {ref} in {environment.region}, and let this identity call "
                                "appconfig:StartConfigurationSession and appconfig:GetLatestConfiguration")
    return AppConfigLayer("unavailable", warnings=(f"{trouble}; there is no last good copy, so it sets nothing",))


def _checked(document: dict[str, Any], below: Mapping[str, Value]) -> dict[str, Any]:
    found = layers.document_problems(document, below)
    if found:
        raise InvalidDocument(in_one_line(found))
    return document


def _keep(store: LastGoodStore, copy: LastGood) -> tuple[str, ...]:
    try:
        store.write(copy)
    except OSError as error:
        return (f"the AppConfig document could not be kept for the day AppConfig is down: {one_line(error)}",)
    return ()


def age_words(seconds: int) -> str:
    """Return an age as people say it: `5 s`, `12 min`, `3 h`, `4 days`."""
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"
