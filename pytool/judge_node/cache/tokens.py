"""Where a node takes the Hub token from. It is never an argument, a variable of a remote task or a line of a log."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..result import NodeError

if TYPE_CHECKING:
    from .aws import Aws

_MOST_BYTES = 4096  # a file such as /dev/zero must not fill the memory
_PRINTABLE = re.compile(rf"[!-~]{{1,{_MOST_BYTES}}}")
_HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{30,}")
# What the consoles of AWS and people call it in a secret of several values.
KEYS = ("HF_TOKEN", "hf_token", "token")


def token_of(
    file: str | None = None, *, secret: str | None = None, parameter: str | None = None, region: str | None = None
) -> Callable[[], str] | str | None:
    """Return the token in a file, a callable that asks AWS for it when it is first needed, or None.

    Raises NodeError for a file or a name that cannot be used.
    """
    if secret:
        _check_name("--token-secret", secret)
        return LazyToken(lambda: token_in(_aws(region).secret(secret), f"the secret {secret}"))
    if parameter:
        _check_name("--token-parameter", parameter)
        return LazyToken(lambda: token_in(_aws(region).parameter(parameter), f"the parameter {parameter}"))
    return read_token(file)


def _aws(region: str | None) -> Aws:
    from .aws import Aws  # http and ssl, which a sync that does not ask the Hub need not load

    return Aws(region)


class LazyToken:
    """Asks once, when the token is first needed, whatever the number of threads; remembers a failure, too."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        self._mutex = threading.Lock()
        self._token: str | None = None
        self._failure: NodeError | None = None

    def __call__(self) -> str:
        """Return the token. Raises NodeError: SOURCE_DENIED, TOKEN_UNAVAILABLE."""
        with self._mutex:
            if self._failure is not None:
                raise self._failure
            if self._token is None:
                try:
                    self._token = self._ask()
                except NodeError as error:
                    self._failure = error
                    raise
            return self._token


def read_token(name: str | None) -> str | None:
    """Return the token in a file, or None without one. Raises NodeError."""
    if not name:
        return None
    try:
        with Path(name).open("rb") as file:
            token = file.read(_MOST_BYTES + 1).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise NodeError(
            f"token file {name!r} cannot be read: {getattr(error, 'strerror', None) or 'not text'}",
            repair="give a file with the token in one line, or leave --token-file out",
        ) from None
    if not _PRINTABLE.fullmatch(token):
        raise NodeError(
            f"token file {name!r} does not hold one token in one line",
            repair="write the token, and nothing else, into it",
        )
    return token


def token_in(value: str, where: str) -> str:
    """Return the token in a secret's value: the value itself, or an object's HF_TOKEN, hf_token or token.

    Raises NodeError TOKEN_UNAVAILABLE, which shows nothing of the value.
    """
    text = value.strip()
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        values = [found[key] for key in KEYS if key in found] if isinstance(found, dict) else []
        text = values[0].strip() if values and isinstance(values[0], str) else ""
        wanted = f"an object with one of {', '.join(KEYS)}"
    else:
        wanted = "one token in one line"
    if not _PRINTABLE.fullmatch(text):
        raise NodeError(
            f"{where} does not hold the Hub token, wanted {wanted}",
            reason="TOKEN_UNAVAILABLE",
            repair=f"write the token, and nothing else, into {where}",
        )
    return text


def _check_name(option: str, name: str) -> None:
    """Raise NodeError for what is no name, and for a token, which is not shown."""
    if _HUB_TOKEN.fullmatch(name):
        raise NodeError(
            f"{option} looks like a token itself, wanted the name of what holds it",
            repair="revoke that token, which is in the shell's history and the list of processes now; then give a name",
        )
    if not re.fullmatch(r"[A-Za-z0-9/_+=.@:!-]{1,2048}", name):
        raise NodeError(
            f"{option} is {ascii(name)[:80]}, wanted a name or an ARN",
            repair="aws secretsmanager list-secrets --query SecretList[].Name   # or: aws ssm describe-parameters",
        )
