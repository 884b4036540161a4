"""What a setting may hold: plain types, each with one rule that a person can read and a function decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True)
class Rule:
    """What a setting may hold: `wanted` says it in words, `holds` decides it (never called with None).

    `keywords` say the same in JSON Schema (draft 4), for whoever checks a document before we see it.
    """

    wanted: str
    holds: Callable[[Any], bool]
    keywords: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Any:
            if value is not None and not self.holds(value):
                raise PydanticCustomError("not_allowed", "not allowed")
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def _texts(pattern: str) -> Mapping[str, Any]:
    # With the type: what is no text matches every pattern, so that `not` would refuse null.
    return {"type": "string", "pattern": pattern}


class Pattern:
    """The test "the whole text matches `pattern` and has at most `longest` characters"."""

    def __init__(self, pattern: str, *, longest: int = 255) -> None:
        self._compiled, self._longest = re.compile(pattern, re.ASCII), longest

    def __call__(self, text: str) -> bool:
        return len(text) <= self._longest and self._compiled.fullmatch(text) is not None

    @property
    def keywords(self) -> Mapping[str, Any]:
        """The same in JSON Schema. In most dialects `$` also matches before a line's end, so that is ruled out."""
        return {"maxLength": self._longest, "pattern": f"^(?:{self._compiled.pattern})$", "not": _texts(r"\s")}


def text_rule(wanted: str, pattern: str, *, longest: int = 255) -> Rule:
    """Return the rule for a text that is whatever matches one pattern."""
    test = Pattern(pattern, longest=longest)
    return Rule(wanted, test, test.keywords)


def _but(test: Pattern, *forbidden: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the keywords of `test`, less what any of the `forbidden` ones match."""
    return {**test.keywords, "not": {"anyOf": [test.keywords["not"], *forbidden]}}


# What the node's system owns: a disk mounted over or below one of these takes the node down.
_SYSTEM_TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr",
                 "/var/lib/containerd", "/var/lib/kubelet", "/var/run")
# A mount over one of these hides what stands in it; a directory of one's own below it does no harm.
_SHARED_DIRECTORIES = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/cache",
                       "/var/lib", "/var/log", "/var/tmp")

# One spelling for one place: no `..`, no double or closing slash; no sign that means something to a shell or Jinja.
is_plain_path = Pattern(r"(?:/[A-Za-z0-9@_+:][A-Za-z0-9@_+:.-]*)+")


def is_mount_path(text: str) -> bool:
    """Tell whether a disk may be mounted at `text` without hiding or endangering the node's system."""
    if not is_plain_path(text) or text in _SHARED_DIRECTORIES:
        return False
    return not any(PurePosixPath(text).is_relative_to(tree) for tree in _SYSTEM_TREES)


def is_device(text: str) -> bool:
    """Tell whether `text` names a device file."""
    return is_plain_path(text) and text.startswith("/dev/")


_is_plain_revision = Pattern(r"[A-Za-z0-9_][A-Za-z0-9._/-]*", longest=200)


def is_revision(text: str) -> bool:
    """Tell whether `text` can be a commit, branch or tag (git check-ref-format, narrowed to plain signs)."""
    return (_is_plain_revision(text) and not any(part in text for part in ("..", "//", "/."))
            and not text.endswith(("/", ".", ".lock")))


_HUB_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_is_plain_repo = Pattern(f"{_HUB_NAME}/{_HUB_NAME}")


def is_repo_id(text: str) -> bool:
    """Tell whether `text` is organisation/name as the Hub spells it (huggingface_hub's validate_repo_id)."""
    return _is_plain_repo(text) and "--" not in text and ".." not in text and not text.endswith(".git")


_RFC1123 = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_RFC1035 = r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?"
# Source: the reference grammar of the distribution project (lower-case components, a registry may carry a port).
_IMAGE_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
# A first component is a registry only if it has a dot or a port, or is localhost; else it is part of the name.
_REGISTRY = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::[0-9]{1,5})?"

_MOUNT_KEYWORDS = _but(is_plain_path, {"enum": list(_SHARED_DIRECTORIES)},
                       _texts(f"^(?:{'|'.join(_SYSTEM_TREES)})(?:/|$)"))
_DEVICE_KEYWORDS = {**is_plain_path.keywords, "allOf": [{"pattern": "^/dev/"}]}
_REVISION_KEYWORDS = _but(_is_plain_revision, _texts(r"\.\.|//|/\."), _texts(r"(?:/|\.|\.lock)$"))
_REPO_KEYWORDS = _but(_is_plain_repo, _texts(r"--|\.\."), _texts(r"\.git$"))


def _numbers(least: int, most: int) -> Mapping[str, Any]:
    return {"minimum": least, "maximum": most}


RepoId = Annotated[str, Rule("a Hub repository as organisation/name", is_repo_id, _REPO_KEYWORDS)]
Revision = Annotated[str, Rule("a commit of 40 hex digits, or the name of a branch or tag", is_revision,
                               _REVISION_KEYWORDS)]
Quantization = Annotated[str | None, text_rule("a quantization method of vLLM such as awq, or null",
                                               r"[a-z][a-z0-9_-]*", longest=40)]
TokenCount = Annotated[int, Rule("a whole number of tokens from 1 to 10000000", lambda n: 1 <= n <= 10_000_000,
                                 _numbers(1, 10_000_000))]
Share = Annotated[float, Rule("a number above 0 and at most 1", lambda n: 0 < n <= 1,
                              {**_numbers(0, 1), "exclusiveMinimum": True})]
Device = Annotated[str | None, Rule("the path of a device below /dev, or null", is_device, _DEVICE_KEYWORDS)]
MountPath = Annotated[str, Rule("an absolute path that is neither / nor a directory of the system", is_mount_path,
                                _MOUNT_KEYWORDS)]
StorePath = Annotated[str, Rule("an absolute path below storage.nvme_mount_path", is_mount_path, _MOUNT_KEYWORDS)]
ImageName = Annotated[str, text_rule("an image name without tag, such as vllm/vllm-openai",
                                     rf"(?:{_REGISTRY}/)?{_IMAGE_PART}(?:/{_IMAGE_PART})*")]
ImageTag = Annotated[str, text_rule("an image tag: letters, digits, '_', '.', '-', at most 128",
                                    r"[A-Za-z0-9_][A-Za-z0-9._-]*", longest=128)]
Port = Annotated[int, Rule("a port number from 1 to 65535", lambda n: 1 <= n <= 65535, _numbers(1, 65535))]
NamespaceName = Annotated[str, text_rule("a namespace name (RFC 1123 label): a-z, 0-9 and '-', at most 63", _RFC1123)]
ServiceName = Annotated[str, text_rule("a service name (RFC 1035 label): a-z, 0-9 and '-', a-z first, at most 63",
                                       _RFC1035)]
SecretName = Annotated[str, text_rule(
    "the name, not the content, of a Secret (RFC 1123): a-z, 0-9, '-', '.', at most 253",
    rf"{_RFC1123}(?:\.{_RFC1123})*", longest=253)]
