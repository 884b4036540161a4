"""Two calls of AWS's API, signed by hand: a secret of Secrets Manager, a parameter of SSM.

The node's program is one file without boto3, and this is all it needs of AWS. The signature is Signature Version 4 as
AWS documents it. What AWS says of a failed signature is never shown: it repeats the session token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Callable

from .. import __version__
from ..result import NodeError, foreign
from .aws_role import Answer, Credentials, NoAnswer, Role, checked_region, exchange
from .http import is_private

_SECONDS = 10.0
# SSM answers 40 requests a second in an account, and the nodes of a fleet start together: about 20 seconds of patience.
_ATTEMPTS = 7
_LONGEST_WAIT_SECONDS = 8.0
_SKEW_SECONDS = 240  # AWS allows 300
_DOMAINS = (("cn-", "amazonaws.com.cn"), ("eusc-", "amazonaws.eu"), ("us-isob-", "sc2s.sgov.gov"),
            ("us-iso-", "c2s.ic.gov"))  # fmt: skip


@dataclass(frozen=True)
class _Call:
    """What tells one call from the other."""

    service: str
    target: str
    endpoint_variable: str
    title: str
    action: str
    not_found: str


_SECRET = _Call(
    "secretsmanager",
    "secretsmanager.GetSecretValue",
    "AWS_ENDPOINT_URL_SECRETS_MANAGER",
    "Secrets Manager",
    "secretsmanager:GetSecretValue",
    "ResourceNotFoundException",
)
_PARAMETER = _Call(
    "ssm", "AmazonSSM.GetParameter", "AWS_ENDPOINT_URL_SSM", "SSM", "ssm:GetParameter", "ParameterNotFound"
)


class Aws:
    """Reads a secret or a parameter with the node's own role."""

    def __init__(
        self,
        region: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._environment = os.environ if environment is None else environment
        self._region = region
        self._role = Role(self._environment)
        self._wait = wait

    def secret(self, name: str) -> str:
        """Return the current value of a secret. Raises NodeError: SOURCE_DENIED, TOKEN_UNAVAILABLE."""
        found = self._ask(_SECRET, name, {"SecretId": name})
        if isinstance(found.get("SecretString"), str):
            return str(found["SecretString"])
        try:
            return base64.b64decode(str(found.get("SecretBinary", "")), validate=True).decode()
        except ValueError:
            return ""  # no text, so no token: the caller says so

    def parameter(self, name: str) -> str:
        """Return the value of a parameter, decrypted. Raises NodeError: SOURCE_DENIED, TOKEN_UNAVAILABLE."""
        found = self._ask(_PARAMETER, name, {"Name": name, "WithDecryption": True}).get("Parameter")
        return str(found.get("Value", "")) if isinstance(found, dict) else ""

    def _ask(self, call: _Call, name: str, document: Mapping[str, Any]) -> dict[str, Any]:
        region = self._region_for(call, name)
        url = self._endpoint(call, region)
        credentials = self._role.credentials()
        body = json.dumps(document).encode()
        said, limited = "", False
        for attempt in range(_ATTEMPTS):
            if attempt:
                backoff = min(0.5 * 2**attempt, _LONGEST_WAIT_SECONDS)
                self._wait(backoff * (0.5 + random.random() / 2))
            headers = {
                "Content-Type": "application/x-amz-json-1.1",
                "User-Agent": f"judge-node/{__version__}",
                "X-Amz-Target": call.target,
            }
            headers = sign("POST", url, headers, body, credentials, region, call.service, time.time())
            try:
                answer = exchange(urllib.request.Request(url, body, headers, method="POST"), _SECONDS, proxies=True)
            except NoAnswer as error:
                said = str(error)
                continue
            found = _document(answer)
            if answer.status == 200 and found is not None:
                return found
            code = _code(answer, found)
            if answer.status < 500 and answer.status != 429 and "Throttl" not in code:
                raise _refusal(call, name, region, answer, code, str((found or {}).get("message") or ""), credentials)
            said, limited = f"{code or 'status'} {answer.status}", "Throttl" in code or answer.status == 429
        host = urllib.parse.urlsplit(url).netloc
        raise NodeError(
            f"{call.title} at {host} gave no answer in {_ATTEMPTS} attempts ({said})",
            reason="TOKEN_UNAVAILABLE",
            repair="run it again later" if limited else f"curl -sSI {url}   # on the node: is there a route to it?",
        )

    def _region_for(self, call: _Call, name: str) -> str:
        """Return the region that was given, else the one in the ARN, else the node's own."""
        parts = name.split(":")
        if parts[0] == "arn" and (len(parts) < 6 or parts[2] != call.service):
            raise NodeError(
                f"{foreign(name)} is no ARN of {call.title}", repair=f"give an ARN that begins arn:aws:{call.service}:"
            )
        if self._region is not None:
            return checked_region(self._region, "--aws-region")
        return checked_region(parts[3], "the ARN's region") if parts[0] == "arn" else self._role.region()

    def _endpoint(self, call: _Call, region: str) -> str:
        configured = None
        if self._environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
            configured = self._environment.get(call.endpoint_variable) or self._environment.get("AWS_ENDPOINT_URL")
        if not configured:
            domain = next((name for start, name in _DOMAINS if region.startswith(start)), "amazonaws.com")
            fips = "-fips" if self._environment.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true" else ""
            return f"https://{call.service}{fips}.{region}.{domain}/"
        try:
            parts = urllib.parse.urlsplit(configured)
            usable = parts.scheme in ("http", "https") and parts.hostname and not parts.username and not parts.query
            _ = parts.port
        except ValueError:
            usable = False
        if not usable or any(sign <= " " for sign in configured):
            raise NodeError(
                f"the endpoint that is configured for {call.title} is no URL, wanted one such as https://HOST",
                repair=f"unset AWS_ENDPOINT_URL {call.endpoint_variable}",
            )
        if parts.scheme == "http" and not is_private(configured):
            raise NodeError(
                f"the token would travel unencrypted from {parts.hostname}",
                repair=f"set {call.endpoint_variable} to an https address",
            )
        return configured.rstrip("/") + "/"


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    credentials: Credentials,
    region: str,
    service: str,
    now: float,
) -> dict[str, str]:
    """Return the headers with those of Signature Version 4. All but User-Agent are signed, and Host; there is no query.

    Source: AWS, "Create a signed AWS API request".
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    signed = {**headers, "X-Amz-Date": stamp}
    if credentials.session_token:
        signed["X-Amz-Security-Token"] = credentials.session_token
    parts = urllib.parse.urlsplit(url)
    default_port = {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    if parts.port not in (None, default_port):
        host += f":{parts.port}"
    lines = {name.lower(): " ".join(value.split()) for name, value in signed.items() if name.lower() != "user-agent"}
    lines["host"] = host
    names = ";".join(sorted(lines))
    canonical = "\n".join(
        [
            method,
            urllib.parse.quote(parts.path or "/", safe="/-_.~"),
            "",
            *(f"{name}:{lines[name]}" for name in sorted(lines)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_key}".encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    signed["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


def _document(answer: Answer) -> dict[str, Any] | None:
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if "Message" in found:
        found.setdefault("message", found["Message"])
    return found


def _code(answer: Answer, found: Mapping[str, Any] | None) -> str:
    """Return the name of the error, as in AccessDeniedException."""
    code = str((found or {}).get("__type") or answer.headers.get("x-amzn-ErrorType") or "")
    if not code and found is None:  # what answers in AWS's place may do it in the form of its older services
        in_xml = re.search(rb"<Code>(\w{1,60})</Code>", answer.body)
        code = in_xml[1].decode() if in_xml else ""
    return foreign("".join(sign for sign in code.split("#")[-1].split(":")[0] if sign.isalnum()), 60)


def _refusal(
    call: _Call, name: str, region: str, answer: Answer, code: str, message: str, credentials: Credentials
) -> NodeError:
    """Turn a refusal into what it means. Of AWS's own words only those on permissions are shown."""
    if "AccessDenied" in code:
        for secret in (credentials.secret_key, credentials.session_token, credentials.key_id):
            message = message.replace(secret, "...") if secret else message
        why = f": {foreign(message, 400)}" if message else ""
        return NodeError(
            f"the node's role may not read {name} of {call.title} in {region}{why}",
            reason="SOURCE_DENIED",
            repair=f"aws sts get-caller-identity   # on the node; allow that role {call.action} on it, and kms:Decrypt",
        )
    if code == call.not_found:
        return NodeError(f"{call.title} in {region} has no {name}", reason="TOKEN_UNAVAILABLE")
    skew = _skew_seconds(answer)
    if abs(skew) > _SKEW_SECONDS:
        return NodeError(
            f"{call.title} refused the signature: the node's clock is {abs(skew)} seconds "
            f"{'behind' if skew > 0 else 'ahead'}",
            reason="TOKEN_UNAVAILABLE",
            repair="chronyc tracking   # on the node; set its clock, then run again",
        )
    return NodeError(
        f"{call.title} in {region} refused to read {name} ({code or 'status'} {answer.status})",
        reason="TOKEN_UNAVAILABLE",
    )


def _skew_seconds(answer: Answer) -> int:
    """Return how far AWS's clock is ahead of the node's; 0 when it does not say."""
    try:
        return int(parsedate_to_datetime(answer.headers.get("Date") or "").timestamp() - time.time())
    except (TypeError, ValueError, IndexError):
        return 0
