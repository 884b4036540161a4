"""The two Secrets of the judge: the Hub token of the loader, and the API key of the serving pods.

Values are compared in memory and sent in the body of one request. They are in no message, no log and no answer of
these functions but read_api_key, and never in an annotation: server-side apply keeps no copy of what was applied.
`within` is the Namespace to make, with the labels it is to have, where there is none.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import Any, Literal

from judge_bootstrap.adapters.objects import FIELD_MANAGER, MANAGED_BY, apply, read
from judge_bootstrap.core.errors import BootstrapError, Refusal

# Keys inside the two Secrets.
TOKEN = "token"
API_KEY = "api-key"
# The key before the last rotation: clients that still have it are served until the next one.
PREVIOUS_API_KEY = "previous-api-key"
# 256 bits.
_KEY_BYTES = 32
LONGEST = 4096
FOREIGN = "SECRET_FOREIGN"
UNUSABLE = "SECRET_UNUSABLE"
Action = Literal["created", "changed", "unchanged"]


def checked(value: str, what: str) -> str:
    """Return a secret as it is to be stored: one line of printable ASCII. Raises BootstrapError, never showing it.

    `what` says in words where it came from. White space around it is what an editor or a shell added.
    """
    text = value.strip()
    wanted = f"one line of printable characters, {LONGEST} at most"
    if not text:
        found = "empty"
    elif len(text.splitlines()) > 1:
        found = f"{len(text.splitlines())} lines"
    elif len(text) > LONGEST:
        found = f"{len(text)} characters long"
    elif not (text.isascii() and text.isprintable()) or " " in text:
        found = "a text with blanks or signs that no token has"
    else:
        return text
    raise BootstrapError(f"{what} is {found}, wanted {wanted}", reason="TOKEN_UNAVAILABLE",
                         hint="hf auth whoami   # with the same token; make one at https://huggingface.co/settings/tokens")


def put_token(api_client: Any, namespace: str, name: str, token: str, *, labels: Mapping[str, str],
              within: Mapping[str, Any] | None = None, check: bool = False) -> Action:
    """Have the Secret hold this Hub token; say what that changed, or would with `check`.

    Raises Refusal SECRET_FOREIGN for a Secret that others made, BootstrapError when the API server cannot be asked.
    """
    there = _read(api_client, namespace, name)
    _refuse_foreign(there, namespace, name)
    return _put(api_client, namespace, name, {TOKEN: checked(token, "the token")}, labels, there, within, check)


def ensure_api_key(api_client: Any, namespace: str, name: str, *, labels: Mapping[str, str],
                   within: Mapping[str, Any] | None = None, check: bool = False) -> bool:
    """Make the Secret with a random API key where there is none; say whether one was made, or would be with `check`.

    A Secret that is there is left as it is, whoever made it. Raises BootstrapError SECRET_UNUSABLE without a key in it.
    """
    there = _read(api_client, namespace, name)
    if there is not None:
        _key_in(there, namespace, name)
        return False
    _put(api_client, namespace, name, {API_KEY: secrets.token_urlsafe(_KEY_BYTES)}, labels, None, within, check)
    return True


def rotate_api_key(api_client: Any, namespace: str, name: str, *, labels: Mapping[str, str],
                   within: Mapping[str, Any] | None = None, check: bool = False) -> Action:
    """Give the Secret a new API key and keep the one before under its own name; make it where there is none.

    Raises Refusal SECRET_FOREIGN for a Secret that others made.
    """
    there = _read(api_client, namespace, name)
    _refuse_foreign(there, namespace, name)
    values = {API_KEY: secrets.token_urlsafe(_KEY_BYTES)}
    if there is not None and (old := _value(there, API_KEY)):
        values[PREVIOUS_API_KEY] = old
    return _put(api_client, namespace, name, values, labels, there, within, check)


def read_api_key(api_client: Any, namespace: str, name: str | None) -> str | None:
    """Return the API key that serving pods want; None where there is no such Secret, or `name` is None (no key wanted).

    Raises BootstrapError: SECRET_UNUSABLE when the Secret holds no key, CLUSTER_DENIED when it may not be read.
    """
    there = _read(api_client, namespace, name) if name else None
    return None if there is None else _key_in(there, namespace, str(name))


def is_ours(secret: Mapping[str, Any]) -> bool:
    """Tell whether judge-bootstrap made this Secret."""
    return (secret["metadata"].get("labels") or {}).get(MANAGED_BY) == FIELD_MANAGER


def _refuse_foreign(there: Mapping[str, Any] | None, namespace: str, name: str) -> None:
    if there is None or is_ours(there):
        return
    raise Refusal(
        f"Secret {namespace}/{name} is there and was not made by judge-bootstrap, which puts the label "
        f"{MANAGED_BY}={FIELD_MANAGER} on its own; it is left as it is", reason=FOREIGN,
        hint=f"kubectl -n {namespace} label secret {name} {MANAGED_BY}={FIELD_MANAGER}   # to hand it over; or choose "
             "another name (vllm_k8s_hf_secret_name, vllm_k8s_api_key_secret_name)")


def _key_in(secret: Mapping[str, Any], namespace: str, name: str) -> str:
    found = _value(secret, API_KEY)
    if found:
        return found
    raise BootstrapError(f"Secret {namespace}/{name} holds no key {API_KEY!r} with one line of printable characters",
                         reason=UNUSABLE, hint="judge-bootstrap --env ENV secrets apply --rotate-api-key")


def _value(secret: Mapping[str, Any], key: str) -> str | None:
    """Return one value of a Secret if it is a single line of printable text, else None."""
    try:
        text = base64.b64decode((secret.get("data") or {}).get(key) or "", validate=True).decode("ascii").strip()
    except (binascii.Error, ValueError):
        return None
    return text if text and text.isprintable() else None


def _read(api_client: Any, namespace: str, name: str) -> dict[str, Any] | None:
    return read(api_client, _secret(namespace, name))


def _secret(namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}}


def _put(api_client: Any, namespace: str, name: str, values: Mapping[str, str], labels: Mapping[str, str],
         there: Mapping[str, Any] | None, within: Mapping[str, Any] | None, check: bool) -> Action:
    """Apply the Secret unless it is so already."""
    data = {key: base64.b64encode(value.encode("ascii")).decode("ascii") for key, value in values.items()}
    # Keys that others have added stay: server-side apply leaves them, and so do we.
    if there is not None and (there.get("data") or {}).items() >= data.items() and \
            (there["metadata"].get("labels") or {}).items() >= labels.items():
        return "unchanged"
    wanted = _secret(namespace, name)
    wanted["metadata"]["labels"] = dict(labels)
    wanted |= {"type": "Opaque", "data": data}
    apply(api_client, [*([within] if within else []), wanted], check=check)
    return "created" if there is None else "changed"
