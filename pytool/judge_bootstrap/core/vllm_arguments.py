"""Arguments of `vllm serve` that fit the version of vLLM and the GPU; a small table, because vLLM is not here to ask.

Sources: what is said of 0.24.0 and 0.32.0 was read in, and of 0.32.0 also tried with, the argument parsers of these
two releases; tests/integration/test_integration_vllm_arguments.py gives every list that is made here to the real parser
of 0.32.0. docs/vllm.md tells the reasons in prose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.gpus import GPUS, Gpu

# The oldest release without a known advisory of high or critical severity, see ADVISORIES.
FLOOR = (0, 24, 0)
# The release whose arguments are tried, and the one that is served unless something else is asked for.
TESTED = (0, 32, 0)
GATEWAY = "judge_node.serving.gateway.Gateway"


@dataclass(frozen=True)
class Advisory:
    """A published weakness of vLLM, in the releases from `since` to before `fixed`, rated by its source."""

    name: str
    since: tuple[int, int, int]
    fixed: tuple[int, int, int]
    severity: str
    what: str
    source: str


_ALL = (0, 0, 0)  # or since nobody says when
# What an update of the image has to look at first; the newest fix among the high and critical ones is FLOOR (a test).
ADVISORIES = (
    Advisory("CVE-2025-24357", _ALL, (0, 7, 0), "high", "a checkpoint in pickle format runs code while it is loaded",
             "GHSA-rh4j-5rhw-hr54, vllm-project/vllm#12366"),
    Advisory("CVE-2025-48956", (0, 1, 0), (0, 10, 2), "high",
             "one large HTTP header exhausts the memory, without a key", "its CVE record (fixed in 0.10.1.1)"),
    Advisory("CVE-2025-59425", _ALL, (0, 11, 0), "high", "the API key can be guessed by timing", "its CVE record"),
    Advisory("CVE-2025-62164", (0, 10, 2), (0, 11, 1), "high", "prompt embeddings are deserialized without checks",
             "its CVE record"),
    Advisory("CVE-2026-22807", (0, 10, 1), (0, 14, 0), "high",
             "auto_map in a checkpoint runs code even with trust_remote_code off", "GHSA-2pc9-4j83-qjmr"),
    Advisory("CVE-2026-22778", (0, 8, 3), (0, 14, 1), "critical",
             "an image and a video in requests to a multimodal model run code", "its CVE record"),
    Advisory("CVE-2026-34756", (0, 1, 0), (0, 19, 0), "medium",
             "a huge `n` in one request exhausts the memory, no key needed", "its CVE record"),
    Advisory("CVE-2026-48746", (0, 3, 0), (0, 22, 0), "critical", "the API key can be bypassed",
             "GHSA-94f4-hr76-p5j6, vllm-project/vllm#43426"),
    Advisory("CVE-2026-54234", _ALL, (0, 24, 0), "high", "rated high by a registry's scan of an image with 0.21",
             "aws/deep-learning-containers#6444"),
    Advisory("CVE-2026-55574", _ALL, (0, 24, 0), "high", "rated high by a registry's scan of an image with 0.22.1",
             "aws/deep-learning-containers#6379"),
)

# Flags that would take from the role what it answers for, and the setting that is meant instead.
OURS = {
    "--model": "model.id",
    "--served-model-name": "vllm_k8s_served_model_names",
    "--host": "vllm_k8s_host",
    "--port": "vllm_k8s_port",
    "--dtype": "vllm_k8s_dtype",
    "--max-model-len": "vllm_k8s_max_model_len",
    "--gpu-memory-utilization": "vllm_k8s_gpu_memory_utilization",
    "--device-memory-utilization": "vllm_k8s_gpu_memory_utilization",
    "--tensor-parallel-size": "vllm_k8s_gpu_count",
    "--quantization": "vllm_k8s_quantization",
}
_HIDES = "nothing: what a file says could not be checked here"
_OTHER_MODEL = "nothing: only the files of the verified commit are served"
_OTHER_DOOR = "nothing: the gateway guards one port"
REFUSED = {
    "--config": _HIDES,
    "--revision": _OTHER_MODEL,
    "--tokenizer": _OTHER_MODEL,
    "--tokenizer-revision": _OTHER_MODEL,
    "--code-revision": _OTHER_MODEL,
    "--hf-config-path": _OTHER_MODEL,
    "--download-dir": _OTHER_MODEL,
    "--hf-token": "nothing: the server is offline and is given no token",
    "--trust-remote-code": "nothing: code that comes with a model is never run",
    "--api-key": "vllm_k8s_api_key_secret_name: the gateway asks for the key, on every route",
    "--middleware": "nothing: another one would stand before the gateway",
    "--uds": _OTHER_DOOR,
    "--grpc": _OTHER_DOOR,
    "--grpc-port": _OTHER_DOOR,
    "--headless": "nothing: this server has to answer",
    "--ssl-keyfile": "nothing: the probes and the client speak plain HTTP inside the cluster",
    "--ssl-certfile": "nothing: the probes and the client speak plain HTTP inside the cluster",
    "--root-path": "nothing: the probes ask for /health",
}
# Flags of older releases, refused by the parser of every release from FLOOR on; and what to write instead.
GONE = {
    "--disable-log-requests": "nothing: requests are not logged unless --enable-log-requests is given",
    "--swap-space": "nothing: there is no swapping to the CPU any more",
    "--device": "nothing: the platform is found out",
    "--guided-decoding-backend": "nothing: the role gives --structured-outputs-config",
    "--use-v2-block-manager": "nothing: there is one block manager",
    "--num-scheduler-steps": "nothing: there is one scheduler",
    "--max-seq-len-to-capture": "--max-cudagraph-capture-size",
    "--rope-scaling": '--hf-overrides with {"rope_parameters": ...}',
}
_SHORT = {"-q": "--quantization", "-tp": "--tensor-parallel-size"}
# Values that the parser takes and the server then dies of, or that would serve something unproven.
_BAD_VALUES = {
    ("--attention-backend", "XFORMERS"): "this back end was removed; leave the choice to vLLM, which knows the card",
    ("--load-format", "dummy"): "that serves random weights",
}
# The role's own flags that an extra argument may replace, with their values.
REPLACEABLE = {
    # Without these two a model may fill its answer with blank space until it is cut off; xgrammar, the default, also
    # lets control characters into strings with a maxLength (0.2.8).
    "--structured-outputs-config": [json.dumps({"backend": "guidance", "disable_any_whitespace": True})],
    # Every question of a judge begins with the same rubric.
    "--enable-prefix-caching": [],
    # The checkpoint's own sampling defaults (a repetition penalty, mostly) would bend a verdict that the client asks
    # for at temperature 0.
    "--generation-config": ["vllm"],
}
# Quantizations that vLLM does itself while it loads a checkpoint that has none.
LOAD_TIME_QUANTIZATIONS = ("fp8", "bitsandbytes")

# Variables of the environment that would undo what the arguments say.
_REFUSED_ENVIRONMENT = {
    "VLLM_USE_RUST_FRONTEND": "that server has no middleware, so no gateway: every route would be open",
    "VLLM_API_KEY": "the gateway asks for the key; a secret in the Deployment can be read by many",
    "VLLM_SERVER_DEV_MODE": "it adds routes that change the server",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "it adds a route that changes the model",
    "VLLM_ATTENTION_BACKEND": "vLLM ignores it with a warning; --attention-backend chooses one",
    "PYTHONPATH": "the gateway is found by it",
    "JUDGE_GATEWAY_CONFIG": "the gateway is set up by it",
    "GLOO_SOCKET_IFNAME": "the processes of a pod talk over loopback; on another address their ports would be open",
    "NCCL_SOCKET_IFNAME": "the processes of a pod talk over loopback; on another address their ports would be open",
    "VLLM_HOST_IP": "the processes of a pod talk over loopback; on another address their ports would be open",
    "HF_TOKEN": "the server is offline and is given no token",
    "HF_HUB_OFFLINE": "the server only reads the verified files",
}


def version_of(tag: str | None) -> tuple[int, int, int] | None:
    """Return the version that an image's tag names (`v0.32.0`, `0.32.0-cu129`), or None for `latest` and the like."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?![\d.])", tag or "")
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def open_advisories(version: tuple[int, int, int]) -> list[Advisory]:
    """Return the known advisories that this release still has."""
    return [one for one in ADVISORIES if one.since <= version < one.fixed]


def serve_arguments(
    *,
    version: str | None,
    gpus: Sequence[str],
    model_path: str,
    served_names: Sequence[str],
    port: int,
    host: str = "0.0.0.0",
    dtype: str,
    max_model_len: int,
    gpu_memory_utilization: float,
    gpu_count: int = 1,
    quantization: str | None = None,
    wanted_quantization: str | None = None,
    middleware: str | None = GATEWAY,
    extra_args: Sequence[str] = (),
) -> list[str]:
    """Return what follows `vllm serve`.

    `version` is the image's tag; one that names no version is taken for TESTED. `gpus` are the cards that the pods may
    get, by the names of GPUS; none if they are not known. `quantization` is what the checkpoint says of itself,
    `wanted_quantization` what the settings say. Raises UsageProblem, with what to write instead.
    """
    check_version(version)
    extra = _flags(extra_args)
    arguments = [model_path, "--served-model-name", *served_names, "--host", host, "--port", str(port)]
    arguments += ["--dtype", dtype_for(dtype, gpus)]
    arguments += ["--max-model-len", str(max_model_len), "--gpu-memory-utilization", str(gpu_memory_utilization)]
    if gpu_count > 1:
        arguments += ["--tensor-parallel-size", str(gpu_count)]
    if at_load := _load_time_quantization(quantization, wanted_quantization):
        arguments += ["--quantization", at_load]
    for flag, values in REPLACEABLE.items():
        if not extra & {flag, flag.replace("--", "--no-", 1)}:
            arguments += [flag, *values]
    if middleware:
        arguments += ["--middleware", middleware]
    return [*arguments, *extra_args]


def check_version(tag: str | None) -> None:
    """Raise UsageProblem for a release below FLOOR, naming the advisories that it has."""
    version = version_of(tag)
    if version is None or version >= FLOOR:
        return
    serious = [one.name for one in open_advisories(version) if one.severity in ("high", "critical")]
    raise UsageProblem(
        f"vLLM {tag} has known advisories of high severity ({', '.join(serious)}), wanted "
        f"{'.'.join(map(str, FLOOR))} or newer",
        hint=f"set vllm.tag to v{'.'.join(map(str, TESTED))} (docs/vllm.md lists the advisories)",
    )


def dtype_for(wanted: str, gpus: Iterable[str]) -> str:
    """Return the number format for these cards: `auto` becomes `half` where one of them has no bfloat16."""
    without = sorted(name for name in set(gpus) if not _gpu(name).bfloat16)
    if not without:
        return wanted
    if wanted == "bfloat16":
        raise UsageProblem(
            f"vllm_k8s_dtype is bfloat16, and the GPU {without[0]} has no bfloat16 (compute capability below 8.0)",
            hint="set vllm_k8s_dtype to auto or half",
        )
    return "half" if wanted == "auto" else wanted


def _gpu(name: str) -> Gpu:
    if name not in GPUS:
        raise UsageProblem(f"the GPU {name} is not known here, wanted one of {', '.join(sorted(GPUS))}",
                           hint="set vllm_k8s_gpu to one of them, or to auto")
    return GPUS[name]


def _load_time_quantization(checkpoint: str | None, wanted: str | None) -> str | None:
    """Return the quantization that vLLM has to be told of; a checkpoint that is quantized says so itself."""
    if (checkpoint or None) == (wanted or None):
        return None
    if not checkpoint and wanted in LOAD_TIME_QUANTIZATIONS:
        return wanted
    raise UsageProblem(
        f"the model declares quantization {checkpoint or 'none'}, the settings expect {wanted or 'none'}",
        hint="set model.quantization to what the model has (null for none), or correct model.id",
    )


def _flags(extra_args: Sequence[str]) -> set[str]:
    """Return the flags among the operator's own arguments, spelt out. Raises UsageProblem for one that cannot be."""
    found = set()
    known = {**OURS, **REFUSED, **GONE}
    for position, argument in enumerate(extra_args):
        if not re.match(r"-{1,2}[A-Za-z]", argument):
            continue
        if any(space in argument.partition("=")[0] for space in " \t\n"):
            raise UsageProblem(f"vllm_k8s_extra_args has {argument!r} in one item, wanted each word as an item",
                               hint='write ["--flag", "value"], or "--flag=value"')
        flag, _, value = argument.partition("=")
        # As vLLM's parser reads it: `_` for `-`, and `.key` for one key of a JSON value.
        flag = flag.partition(".")[0]
        flag = flag.replace("_", "-") if flag.startswith("--") else _short(flag)
        positive = flag.replace("--no-", "--", 1) if flag.startswith("--no-") else flag
        # The parser also takes the beginning of a name for the whole, where it is unambiguous.
        meant = positive if positive in known else next((name for name in known if name.startswith(positive)), None)
        if meant:
            raise UsageProblem(f"vllm_k8s_extra_args has {argument}, which {_why(meant)}", hint=_hint(known[meant]))
        value = value or (extra_args[position + 1] if position + 1 < len(extra_args) else "")
        for (name, bad), why in _BAD_VALUES.items():
            if flag == name and value.upper() == bad.upper():
                raise UsageProblem(f"vllm_k8s_extra_args has {flag} {value}: {why}", hint=f"leave {flag} out")
        found.add(flag)
    return found


def _short(flag: str) -> str:
    """Return the long name of a one-dash flag, also where its value is glued to it (`-tp2`)."""
    for short, name in _SHORT.items():
        if re.fullmatch(rf"{short}\d*", flag) or (short == "-q" and flag.startswith("-q")):
            return name
    return flag


def _hint(instead: str) -> str:
    nothing = "nothing: "
    return f"leave it out: {instead.removeprefix(nothing)}" if instead.startswith(nothing) else f"use {instead}"


def _why(name: str) -> str:
    if name in GONE:
        return "vLLM no longer has"
    return "the role gives itself" if name in OURS else "is not for a judge"


def environment(extra: Mapping[str, object]) -> dict[str, str]:
    """Return the variables that hold the server to its arguments, then the operator's own.

    Raises UsageProblem for one of the operator's that would undo them.
    """
    for name, value in extra.items():
        if name in _REFUSED_ENVIRONMENT:
            raise UsageProblem(f"vllm_k8s_extra_env sets {name}: {_REFUSED_ENVIRONMENT[name]}", hint="leave it out")
        # As texts these would be "None", "True" and the like, which no program means.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UsageProblem(f"vllm_k8s_extra_env sets {name} to {json.dumps(value, default=str)}, wanted a text",
                               hint=f'quote it as the program wants it: {name}: "1"')
    return {"VLLM_USE_RUST_FRONTEND": "0", **{name: str(value) for name, value in extra.items()}}


def remarks(tag: str | None, gpus: Sequence[str]) -> list[str]:
    """Return sentences about what is accepted and still worth knowing before a run."""
    said = []
    version = version_of(tag)
    tested = ".".join(map(str, TESTED))
    if version is None:
        said.append(f"the image's tag {tag!r} names no version of vLLM: its arguments are those of {tested}, and no "
                    "advisory can be looked up")
    elif version > TESTED:
        said.append(f"vLLM {tag} is newer than {tested}, whose arguments were tried")
    if "t4" in gpus:
        said.append("a T4 runs with half and a slower attention kernel; this was read in vLLM's code, not tried")
    return said
