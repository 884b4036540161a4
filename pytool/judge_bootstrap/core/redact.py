"""Take secrets, and signs that a terminal obeys, out of text before it reaches a terminal, a log or JSON.

The last net, not the first: secrets are kept out of what Ansible sees at all (adapters/runner.py). This one catches
what a library puts into an exception or a node into its output.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

MASK = "***"

# Names of variables whose value is a secret. AWS_ACCESS_KEY_ID is a name of a key, not a secret.
SECRET_NAME = re.compile(
    r"(token(?!iz|s)|passw(or)?d|(?<=_)pass$|passphrase|secret|credential|api_?key|private_?key)", re.IGNORECASE)

# A name may contain the word and still hold a path, a file or a switch: its value is shown.
NOT_SECRET_NAME = re.compile(
    r"(_file|_path|_dir|_url|_uri|_name|_arn|_id|_ttl|_seconds|_expiration|_limit|_max)$", re.IGNORECASE)

# Shapes that are secrets whoever holds them: a Hub token, a signed URL's signature, a bearer header.
SECRET_SHAPE = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}\b"
    r"|(?<=X-Amz-Signature=)[0-9a-fA-F]{16,}"
    r"|(?<=X-Amz-Security-Token=)[^&\s\"']{16,}"
    r"|(?<=Authorization: Bearer )\S+",
)

# What a node, a Hub or AWS says must not clear the screen, move the cursor, or turn the text around (CVE-2021-42574);
# lone surrogates cannot be printed at all. Line feed and tab stay.
TERMINAL_SIGN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Shorter values would mask ordinary words; no real token is that short.
SHORTEST_SECRET = 8

# Where huggingface_hub looks for a token in the environment, best first.
HUB_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Where judge_client looks for the key of the judge.
JUDGE_KEY_VARIABLE = "JUDGE_API_KEY"


def without_our_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a program that has no business with the Hub, nor with a judge."""
    return {name: value for name, value in environment.items()
            if name not in (*HUB_TOKEN_VARIABLES, JUDGE_KEY_VARIABLE)}


def is_secret_name(name: str) -> bool:
    """Tell whether a variable of this name holds a secret itself (`hf_token`), not a reference (`hf_token_file`)."""
    return bool(SECRET_NAME.search(name)) and not NOT_SECRET_NAME.search(name)


class Redactor:
    """Replaces known secret values, in plain, URL-quoted and base64 form, and well-known shapes of secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) < SHORTEST_SECRET:
                continue
            raw = secret.encode()
            forms |= {secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1]}
            forms |= {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
        # Longest first, so that a form that contains another is replaced as a whole.
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def clean(self, text: str) -> str:
        """Return `text` with every known or secret-shaped value replaced by ***, and no sign that a terminal obeys."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        text = SECRET_SHAPE.sub(MASK, text.replace("\r\n", "\n"))
        return TERMINAL_SIGN.sub(lambda found: ascii(found[0])[1:-1], text)


def secrets_of(environment: Mapping[str, str]) -> set[str]:
    """Return the secret values that an environment holds, or names by a token file."""
    found = {value for name, value in environment.items() if value and is_secret_name(name)}
    hub_home = environment.get("HF_HOME") or str(Path(environment.get("HOME", "/root")) / ".cache" / "huggingface")
    token_files = [environment.get("HF_TOKEN_PATH"), environment.get("HF_TOKEN_FILE"), str(Path(hub_home) / "token")]
    for name in filter(None, token_files):
        try:
            found.add(Path(name).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError):
            continue
    return found


_remembered: set[str] = set()


def remember(secret: str) -> None:
    """Have a secret masked from now on that came from elsewhere than the environment: a file, or the cluster."""
    _remembered.add(secret)


def redactor() -> Redactor:
    """Return the redactor for this process's environment as it is now, and for what it was told to remember."""
    return _cached(tuple(sorted(secrets_of(os.environ) | _remembered)))


@lru_cache(maxsize=8)
def _cached(secrets: tuple[str, ...]) -> Redactor:
    return Redactor(secrets)
