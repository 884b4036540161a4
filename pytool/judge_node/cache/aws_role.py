"""Who this node is to AWS: the short-lived credentials of its role, and its region.

Found as the SDKs find them: the agent of the container (EKS Pod Identity, ECS) where the environment names one, else
the instance's metadata service, by IMDSv2 alone. Keys in the environment or in ~/.aws are not looked for: a key that
lives for ever has no place on a node.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..result import NodeError, foreign

_METADATA_SECONDS = 2.0
_METADATA_ATTEMPTS = 3
_METADATA_TOKEN_SECONDS = 300
_MOST_BYTES = 256 << 10  # a secret has 64 KiB at most
_ECS_AGENT = "http://169.254.170.2"
# Where an agent may be asked without encryption, besides this machine: ECS, EKS Pod Identity.
_AGENT_ADDRESSES = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")
_REGION = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,12}){1,4}")
_HEADER = re.compile(r"[ -~]{1,16384}")


class NoAnswer(Exception):
    """Nobody answered; the text says why, without an address."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whatever its status."""

    status: int
    headers: Message
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """What a request is signed with. Nothing of it is shown by repr()."""

    key_id: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(repr=False)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Neither a metadata service nor AWS's API redirects; what does would get the headers."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def exchange(request: urllib.request.Request, seconds: float, *, proxies: bool = False) -> Answer:
    """Send the request and return the answer. Raises NoAnswer.

    `proxies` lets the environment's proxies be used; what is link-local is never asked through one.
    """
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if not proxies:
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        try:
            response = urllib.request.build_opener(*handlers).open(request, timeout=seconds)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            body, until = b"", time.monotonic() + seconds
            while len(body) <= _MOST_BYTES:
                chunk = response.read1(_MOST_BYTES)
                if not chunk:
                    return Answer(response.status, response.headers, body)
                if time.monotonic() > until:
                    raise NoAnswer(f"no whole answer in {seconds:g} seconds")
                body += chunk
    except (OSError, HTTPException, ValueError) as error:
        # ValueError is http.client's for a header that cannot be sent, and its text is the header.
        raise NoAnswer(_why(error, seconds)) from None
    raise NoAnswer(f"it sent more than {_MOST_BYTES} bytes")


def _why(error: BaseException, seconds: float) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError) or type(cause).__name__ == "timeout":
        return f"no answer in {seconds:g} seconds"
    if isinstance(cause, OSError) and cause.strerror:
        return foreign(cause.strerror)
    return type(cause).__name__


class Metadata:
    """The instance's metadata service, by IMDSv2: a token first, which a forged request from elsewhere cannot get."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        modes = {"ipv6": "http://[fd00:ec2::254]"}
        default = modes.get(environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower())
        self._endpoint = (
            environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or default or "http://169.254.169.254"
        ).rstrip("/")
        self._off = environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        self._token: str | None = None

    def get(self, path: str) -> str | None:
        """Return what the service has at `path`, or None when it has nothing there. Raises NodeError."""
        if self._off:
            raise _unavailable("AWS_EC2_METADATA_DISABLED is true, so the instance is not asked for its role")
        for _ in range(2):
            if self._token is None:
                self._token = self._new_token()
            answer = self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
            if answer.status != 401:
                break
            self._token = None  # it has ended
        if answer.status == 404:
            return None
        return self._text(answer)

    def _new_token(self) -> str:
        answer = self._ask(
            "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_METADATA_TOKEN_SECONDS)}
        )
        token = self._text(answer)
        if not _HEADER.fullmatch(token):
            raise _unavailable(f"the metadata service at {self._endpoint} answered with no token")
        return token

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        said = ""
        for attempt in range(_METADATA_ATTEMPTS):
            if attempt:
                time.sleep(0.1 * 2**attempt)
            try:
                request = urllib.request.Request(self._endpoint + path, method=method, headers=dict(headers))
                answer = exchange(request, _METADATA_SECONDS)
            except NoAnswer as error:
                said = str(error)
                continue
            except ValueError:
                raise _unavailable(
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT is no URL, wanted one such as http://169.254.169.254"
                ) from None
            if answer.status < 500 and answer.status != 429:
                return answer
            said = f"it answered {answer.status}"
        raise _unavailable(
            f"the metadata service at {self._endpoint} cannot be asked for the role of this node ({said}); from a pod "
            "it is reached only with Pod Identity or a hop limit of 2"
        )

    def _text(self, answer: Answer) -> str:
        if answer.status != 200:
            off = ": it is switched off for this instance" if answer.status == 403 else ""
            raise _unavailable(f"the metadata service at {self._endpoint} answered {answer.status}{off}")
        return answer.body.decode("utf-8", "replace").strip()


class Role:
    """The node's role: its credentials and its region, each asked for once."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._metadata = Metadata(self._environment)

    def region(self) -> str:
        """Return the region of the environment, or of the instance. Raises NodeError."""
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            if self._environment.get(name):
                return checked_region(self._environment[name], name)
        found = self._metadata.get("/latest/meta-data/placement/region")
        return checked_region(found or "", "the instance's region")

    def credentials(self) -> Credentials:
        """Return the credentials. Raises NodeError TOKEN_UNAVAILABLE."""
        if self._environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
            return self._of_agent(_ECS_AGENT + self._environment["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"])
        if self._environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
            return self._of_agent(self._environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"])
        path = "/latest/meta-data/iam/security-credentials/"
        names = (self._metadata.get(path) or "").split()
        if not names:
            raise _unavailable("this instance has no role (no instance profile is attached to it)")
        document = self._metadata.get(path + urllib.parse.quote(names[0]))
        return _credentials(document or "", f"the instance's role {foreign(names[0], 64)}")

    def _of_agent(self, url: str) -> Credentials:
        _check_agent(url)
        headers = {"Accept": "application/json"}
        token = self._agent_token()
        if token is not None:
            headers["Authorization"] = token
        said = ""
        for attempt in range(_METADATA_ATTEMPTS):
            if attempt:
                time.sleep(0.1 * 2**attempt)
            try:
                answer = exchange(urllib.request.Request(url, headers=headers), _METADATA_SECONDS)
            except NoAnswer as error:
                said = str(error)
                continue
            if answer.status == 200:
                return _credentials(answer.body.decode("utf-8", "replace"), "the container's role")
            said = f"it answered {answer.status}"
            if answer.status < 500 and answer.status != 429:
                break
        raise _unavailable(f"the credentials agent at {urllib.parse.urlsplit(url).netloc} gave none ({said})")

    def _agent_token(self) -> str | None:
        """Return what proves to the agent which pod asks; read anew each time, because kubelet renews the file."""
        name = self._environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        if name:
            try:
                with Path(name).open("rb") as file:
                    token = file.read(_MOST_BYTES).decode("ascii").strip()
            except (OSError, ValueError) as error:
                raise _unavailable(
                    f"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE ({foreign(name)}) cannot be read: "
                    f"{getattr(error, 'strerror', None) or 'not text'}"
                ) from None
        else:
            token = self._environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "").strip()
            if not token:
                return None
        if not _HEADER.fullmatch(token):
            raise _unavailable("the container's authorization token is no line of plain text")
        return token


def checked_region(region: str, what: str) -> str:
    """Return the region. Raises NodeError (wrong usage) for what cannot be one: it becomes part of a host's name."""
    if not _REGION.fullmatch(region):
        raise NodeError(
            f"{what} is {ascii(region)[:60]}, wanted a region such as us-east-1", repair="give it with --aws-region"
        )
    return region


def _check_agent(url: str) -> None:
    """Raise NodeError unless the agent is encrypted, on this machine, or at one of AWS's own addresses."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, scheme, _ = parts.hostname or "", parts.scheme, parts.port
    except ValueError:
        host = scheme = ""
    try:
        address = ipaddress.ip_address(host)
        allowed = address.is_loopback or address in [ipaddress.ip_address(known) for known in _AGENT_ADDRESSES]
    except ValueError:
        allowed = host == "localhost"
    if not host or not (scheme == "https" or (scheme == "http" and allowed)):
        raise _unavailable(
            f"AWS_CONTAINER_CREDENTIALS_FULL_URI names the host {ascii(host)[:60]}, wanted https, this machine or "
            f"{' or '.join(_AGENT_ADDRESSES)}"
        )


def _credentials(document: str, what: str) -> Credentials:
    """Return the credentials in the agent's or the instance's answer, which is never shown."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _unavailable(f"{what} has no credentials: the answer is no JSON object")
    if found.get("Code", "Success") != "Success":
        raise _unavailable(f"{what} has no credentials ({foreign(found['Code'], 80)})")
    values = [found.get(name) for name in ("AccessKeyId", "SecretAccessKey", "Token")]
    if not all(isinstance(value, str) and _HEADER.fullmatch(value) for value in values):
        raise _unavailable(f"{what} has no credentials: the answer lacks AccessKeyId, SecretAccessKey or Token")
    return Credentials(str(values[0]), str(values[1]), str(values[2]))


def _unavailable(message: str) -> NodeError:
    return NodeError(message, reason="TOKEN_UNAVAILABLE")
