"""AppConfig documents for the fault programs, from a seeded random source: valid and invalid ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

# Some valid values of each setting; the store's place goes with the disk's.
_VALUES: dict[str, tuple[Any, ...]] = {
    "model.id": ("Qwen/Qwen2.5-7B-Instruct-AWQ", "a/b"), "model.revision": ("main", "0" * 40, "v1.0"),
    "model.quantization": ("awq", None), "model.max_model_len": (1, 2048, 32_768),
    "model.gpu_memory_utilization": (0.5, 0.9, 1), "storage.nvme_device": (None, "/dev/nvme1n1"),
    "storage.models_dir": ("/mnt/nvme/hub", "/mnt/nvme/models"),
    "vllm.image": ("vllm/vllm-openai", "mirror:5000/vllm"),
    "vllm.tag": ("v0.32.0", "latest"), "vllm.port": (8000, 9000), "kubernetes.namespace": ("llm-judge", "judge"),
    "kubernetes.service_name": ("judge-inference-service", "judge"), "kubernetes.hf_secret_name": ("hf-secret", "hub"),
}
# Values that no setting of any path takes.
_NEVER: tuple[Any, ...] = ("", " ", "{{ lookup('pipe', 'id') }}", "a b", "\n", -1, 0, 10**12, True, False, [], {},
                           ["x"], {"a": 1}, "../..", "/", "x" * 5000, 1.5e300, "\u0000", "$(id)", "\ud83d\ude00")


def valid_document(chance: random.Random) -> dict[str, Any]:
    """Return a valid document that sets a few settings, at least one."""
    paths = chance.sample(sorted(_VALUES), chance.randint(1, 6))
    document: dict[str, Any] = {}
    for path in paths:
        section, _, key = path.partition(".")
        document.setdefault(section, {})[key] = chance.choice(_VALUES[path])
    return {"judge_inference": document}


def invalid_document(chance: random.Random) -> tuple[str, bytes]:
    """Return an invalid document with the name of its kind. Most of it is valid, so that a part could be applied."""
    kind = chance.choice(sorted(_KINDS))
    return kind, _KINDS[kind](chance, valid_document(chance))


def _wrong_value(chance: random.Random, document: dict[str, Any]) -> bytes:
    path = chance.choice(sorted(_VALUES))
    section, _, key = path.partition(".")
    document["judge_inference"].setdefault(section, {})[key] = chance.choice(_NEVER)
    return json.dumps(document).encode()


def _unknown_key(chance: random.Random, document: dict[str, Any]) -> bytes:
    place = chance.choice([document, document["judge_inference"], *document["judge_inference"].values()])
    name = chance.choice(("max_len", "Model", "", "prot", "hf_token", "judge-inference", "\u00e9", "a.b"))
    place[name] = chance.choice(_NEVER)
    return json.dumps(document).encode()


def _cut(chance: random.Random, document: dict[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    return body[:chance.randrange(1, len(body))]


def _twice(chance: random.Random, document: dict[str, Any]) -> bytes:
    body = json.dumps(document["judge_inference"])
    return f'{{"judge_inference": {body}, "judge_inference": {json.dumps(valid_document(chance))}}}'.encode()


def _section_of_another_type(chance: random.Random, document: dict[str, Any]) -> bytes:
    section = chance.choice(sorted(document["judge_inference"]))
    document["judge_inference"][section] = chance.choice((None, 1, "x", [], [{}], True))
    return json.dumps(document).encode()


def _other_root(chance: random.Random, document: dict[str, Any]) -> bytes:
    root = chance.choice((document["judge_inference"], {}, {"Judge_inference": document}, [document], "x", None, 1,
                          json.dumps(document), {"judge_inference": [document]}, {"judge_inference": None}))
    return json.dumps(root).encode()


def _does_not_fit_below(_chance: random.Random, document: dict[str, Any]) -> bytes:
    storage = document["judge_inference"].setdefault("storage", {})
    storage.pop("models_dir", None)
    storage["nvme_mount_path"] = "/data"
    return json.dumps(document).encode()


def _other_bytes(chance: random.Random, document: dict[str, Any]) -> bytes:
    body = json.dumps(document)
    return chance.choice((body.encode("utf-16"), b"\xef\xbb\xbf" + body.encode(), b"\xff" + body.encode(),
                          body.encode() * 2, body.encode() + b"\0", b"<html>503</html>", chance.randbytes(40) + b"\xff",
                          b"judge_inference:\n  vllm: {port: 1}\n", b"[" * 60_000))


def _no_json_number(chance: random.Random, _document: dict[str, Any]) -> bytes:
    number = chance.choice(("NaN", "Infinity", "-Infinity", "9" * 5000, "0x10", "01"))
    return f'{{"judge_inference": {{"vllm": {{"tag": "latest", "port": {number}}}}}}}'.encode()


def _too_large(_chance: random.Random, document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b" " * 70_000


_KINDS: dict[str, Callable[[random.Random, dict[str, Any]], bytes]] = {
    "a wrong value": _wrong_value, "an unknown key": _unknown_key, "cut": _cut, "a key twice": _twice,
    "a section of another type": _section_of_another_type, "another root": _other_root,
    "does not fit the layers below": _does_not_fit_below, "other bytes": _other_bytes,
    "no JSON number": _no_json_number, "too large": _too_large,
}
