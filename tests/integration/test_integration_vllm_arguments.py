"""Every argument that the role gives passes the real parser and the real engine configuration of the served release.

One process of the CPU build of vLLM judges all lists: importing it is what costs time.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from judge_bootstrap.core import vllm_arguments
from judge_bootstrap.core.gpus import GPUS
from judge_bootstrap.core.vllm_arguments import serve_arguments
from judge_lab import LabError, gpu, plain_model, runtime
from judge_lab.hub import DEFAULT_ROOT, TINY_JUDGE

AWQ = DEFAULT_ROOT / TINY_JUDGE
NAMES = ["judge", "judge-lab/tiny-judge"]

# What the plain model's configuration file says is kept, but for the sampling: a penalty that would bend a verdict, as
# the checkpoints of Qwen2.5 have it.
SAMPLING = {"repetition_penalty": 1.3, "temperature": 0.7, "do_sample": True}


def a_list(model: Path, **changed: Any) -> list[str]:
    quantization = "awq" if model == AWQ else None
    given: dict[str, Any] = {
        "version": f"v{runtime.VLLM_VERSION}", "gpus": ["a10g"], "model_path": str(model), "served_names": ["judge"],
        "port": 8000, "dtype": "auto", "max_model_len": 4096, "gpu_memory_utilization": 0.9,
        "quantization": quantization, "wanted_quantization": quantization,
    }  # fmt: skip
    return serve_arguments(**{**given, **changed})


def variants(plain: Path, bfloat16: Path) -> dict[str, list[str]]:
    """Return the lists that must be taken, by name."""
    return {
        "awq": a_list(AWQ),
        "plain": a_list(plain),
        "awq on a t4": a_list(AWQ, gpus=["t4"]),
        "bfloat16 on a t4": a_list(bfloat16, gpus=["t4"]),
        "bfloat16 on an l4": a_list(bfloat16, gpus=["l4"]),
        "two gpus": a_list(AWQ, gpu_count=2),
        "several names": a_list(AWQ, served_names=NAMES),
        "another size": a_list(AWQ, max_model_len=2048, gpu_memory_utilization=0.85, port=9000),
        "float32": a_list(plain, dtype="float32"),
        "ipv6": a_list(AWQ, host="::"),
        "no gateway": a_list(AWQ, middleware=None),
        "another back end": a_list(AWQ, extra_args=["--structured-outputs-config", '{"backend": "xgrammar"}']),
        "one key of it": a_list(AWQ, extra_args=["--structured-outputs-config.backend", "xgrammar"]),
        "no prefix caching": a_list(AWQ, extra_args=["--no-enable-prefix-caching"]),
        "the checkpoint's sampling": a_list(plain, extra_args=["--generation-config", "auto"]),
        "eager and small": a_list(AWQ, extra_args=["--enforce-eager", "--max-num-seqs", "8", "--seed=1"]),
        "attention chosen": a_list(AWQ, extra_args=["--attention-backend", "TRITON_ATTN"]),
    }


def wrong(plain: Path) -> dict[str, list[str]]:
    """Return the lists that must be refused: what this table says of flags that are gone, and of bad values."""
    lists = {f"gone {flag}": [*a_list(AWQ), flag] for flag in vllm_arguments.GONE}
    lists["XFORMERS"] = [*a_list(AWQ), "--attention-backend", "XFORMERS"]
    lists["a share of 1.5"] = a_list(AWQ, gpu_memory_utilization=1.5)
    lists["too long"] = a_list(AWQ, max_model_len=1 << 20)
    lists["awq for a plain model"] = [*a_list(plain), "--quantization", "awq"]
    return lists


def known() -> dict[str, list[str]]:
    """Return a list for each flag that is refused or replaceable here: none may be unknown to the parser."""
    flags = {*vllm_arguments.OURS, *vllm_arguments.REFUSED, *vllm_arguments.REPLACEABLE}
    return {f"known {flag}": [str(AWQ), flag] for flag in flags}


@pytest.fixture(scope="module")
def vllm() -> Path:
    try:
        return runtime.ensure(lambda line: None)
    except LabError as error:
        pytest.skip(f"no vLLM for the CPU: {error}")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "plain"
    plain_model.make(folder)
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps({**json.loads(generation.read_text()), **SAMPLING}))
    return folder


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says bfloat16 of itself, as most do; only its configuration is read here."""
    folder = tmp_path_factory.mktemp("models") / "bfloat16"
    plain_model.make(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return folder


@pytest.fixture(scope="module")
def understood(vllm: Path, plain: Path, bfloat16: Path) -> dict[str, dict[str, Any]]:
    """What vLLM makes of each list."""
    lists = {**variants(plain, bfloat16), **wrong(plain), **known()}
    done = subprocess.run(
        [vllm / "bin/python", Path(__file__).parent / "vllm_parser.py"],
        input=json.dumps(lists), text=True, capture_output=True, timeout=3000,
        env={"PATH": os.environ["PATH"], "HOME": str(plain.parent), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
             **gpu.ENVIRONMENT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return answers


def test_every_list_that_is_made_is_taken(understood: dict[str, Any], plain: Path, bfloat16: Path) -> None:
    refused = {name: understood[name]["error"] for name in variants(plain, bfloat16) if understood[name]["error"]}
    assert refused == {}


def test_what_is_understood_is_what_was_meant(understood: dict[str, Any]) -> None:
    answer = understood["another size"]
    assert answer == {
        "error": None, "model": str(AWQ), "names": ["judge"], "address": ["0.0.0.0", 9000], "dtype": "torch.float16",
        "max_model_len": 2048, "quantization": "awq", "gpu_share": 0.85, "gpus": 1, "structured": ["guidance", True],
        "prefix_caching": True, "sampling_defaults": {}, "middleware": ["judge_node.serving.gateway.Gateway"],
        "eager": False}  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value"), [
    ("plain", "quantization", None),
    ("awq", "quantization", "awq"),
    ("bfloat16 on a t4", "dtype", "torch.float16"),
    ("bfloat16 on an l4", "dtype", "torch.bfloat16"),
    ("awq on a t4", "dtype", "torch.float16"),
    ("float32", "dtype", "torch.float32"),
    ("two gpus", "gpus", 2),
    ("ipv6", "address", ["::", 8000]),
    ("several names", "names", NAMES),
    ("no gateway", "middleware", []),
    ("another back end", "structured", ["xgrammar", False]),
    ("one key of it", "structured", ["xgrammar", False]),
    ("no prefix caching", "prefix_caching", False),
    ("plain", "sampling_defaults", {}),
    ("eager and small", "eager", True),
])
def test_each_variant_has_its_effect(understood: dict[str, Any], name: str, key: str, value: object) -> None:
    assert understood[name][key] == value


def test_the_checkpoint_s_sampling_would_bend_a_verdict_if_it_were_taken(understood: dict[str, Any]) -> None:
    """Why --generation-config vllm is given: without it the penalty of the file holds for every request."""
    assert understood["the checkpoint's sampling"]["sampling_defaults"]["repetition_penalty"] == 1.3


@pytest.mark.parametrize("flag", sorted(vllm_arguments.GONE))
def test_a_flag_that_is_said_to_be_gone_is_gone(understood: dict[str, Any], flag: str) -> None:
    assert str(understood[f"gone {flag}"]["error"]).startswith("parser: ")


@pytest.mark.parametrize("name", ["XFORMERS", "a share of 1.5", "too long", "awq for a plain model"])
def test_a_value_that_is_said_to_be_bad_is_bad(understood: dict[str, Any], name: str) -> None:
    assert str(understood[name]["error"]).startswith("engine: ")


def test_no_flag_that_is_refused_here_is_unknown_there(understood: dict[str, Any]) -> None:
    """A name that vLLM does not know would make our refusal a lie."""
    unknown = {name: answer["error"] for name, answer in understood.items()
               if name.startswith("known ") and "unrecognized" in str(answer["error"])}
    assert unknown == {}


def test_the_served_release_is_the_one_that_was_tried() -> None:
    assert vllm_arguments.version_of(runtime.VLLM_VERSION) == vllm_arguments.TESTED
    assert {"t4", "a10g", "l4"} <= set(GPUS)
