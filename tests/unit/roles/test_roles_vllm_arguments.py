"""What follows `vllm serve`: by version, by GPU, and what an operator's own arguments may not undo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_bootstrap.core import gpus, vllm_arguments
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.gpus import FAMILIES, GPUS, gpus_of
from judge_bootstrap.core.vllm_arguments import (
    ADVISORIES,
    FLOOR,
    TESTED,
    check_version,
    environment,
    open_advisories,
    remarks,
    serve_arguments,
    version_of,
)


def arguments(**changed: Any) -> list[str]:
    given: dict[str, Any] = {
        "version": "v0.32.0", "gpus": ["a10g"], "model_path": "/models/m", "served_names": ["judge"], "port": 8000,
        "dtype": "auto", "max_model_len": 4096, "gpu_memory_utilization": 0.9,
    }  # fmt: skip
    return serve_arguments(**{**given, **changed})


def value(of: str, words: list[str]) -> str:
    assert words.count(of) == 1, words
    return words[words.index(of) + 1]


def test_the_whole_list_for_one_card_in_its_order() -> None:
    assert arguments() == [
        "/models/m", "--served-model-name", "judge", "--host", "0.0.0.0", "--port", "8000", "--dtype", "auto",
        "--max-model-len", "4096", "--gpu-memory-utilization", "0.9", "--structured-outputs-config",
        '{"backend": "guidance", "disable_any_whitespace": true}', "--enable-prefix-caching", "--generation-config",
        "vllm", "--middleware", "judge_node.serving.gateway.Gateway"]  # fmt: skip


def test_structured_outputs_are_compact_and_of_guidance() -> None:
    assert json.loads(value("--structured-outputs-config", arguments())) == {
        "backend": "guidance", "disable_any_whitespace": True}  # fmt: skip


def test_all_names_follow_their_flag() -> None:
    words = arguments(served_names=["a", "b"])
    assert words[words.index("--served-model-name") + 1 : words.index("--host")] == ["a", "b"]


def test_more_gpus_of_one_pod_share_the_model() -> None:
    assert value("--tensor-parallel-size", arguments(gpu_count=2)) == "2"
    assert "--tensor-parallel-size" not in arguments(gpu_count=1)


def test_nothing_is_said_of_the_attention_back_end() -> None:
    for cards in GPUS:
        assert not [word for word in arguments(gpus=[cards]) if "attention" in word.lower() or "XFORMERS" in word]


# --- GPU and number format --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cards", "dtype"), [
    (["t4"], "half"), (["t4g"], "half"), (["a10g"], "auto"), (["l4"], "auto"), (["h100"], "auto"), ([], "auto"),
    (["a10g", "t4"], "half"),  # one Deployment, both cards: what runs on both
])
def test_a_card_without_bfloat16_gets_half(cards: list[str], dtype: str) -> None:
    assert value("--dtype", arguments(gpus=cards)) == dtype


def test_what_the_operator_chose_stays_where_the_card_has_it() -> None:
    assert value("--dtype", arguments(gpus=["t4"], dtype="float32")) == "float32"
    assert value("--dtype", arguments(gpus=["a10g"], dtype="bfloat16")) == "bfloat16"


def test_bfloat16_on_a_t4_is_refused_before_the_server_dies_of_it() -> None:
    with pytest.raises(UsageProblem, match="bfloat16, and the GPU t4 has no bfloat16") as refused:
        arguments(gpus=["t4"], dtype="bfloat16")
    assert refused.value.hint == "set vllm_k8s_dtype to auto or half"


def test_a_card_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageProblem, match="the GPU k80 is not known here, wanted one of a100, "):
        arguments(gpus=["k80"])


def test_instance_types_lead_to_their_cards_each_once() -> None:
    assert gpus_of(["g5.xlarge", "g4dn.xlarge", "g5.12xlarge"]) == ["a10g", "t4"]
    assert gpus_of([]) == []
    assert set(FAMILIES.values()) == set(GPUS)


@pytest.mark.parametrize(("instance_type", "why"), [
    ("p3.2xlarge", "V100 has compute capability 7.0"), ("g4ad.xlarge", "AMD"), ("m5.large", "no GPU instance type"),
    ("g6f.large", "a share of a GPU only")])
def test_an_instance_type_that_cannot_serve_is_refused_with_the_reason(instance_type: str, why: str) -> None:
    with pytest.raises(UsageProblem, match=why):
        gpus_of(["g5.xlarge", instance_type])


def test_no_refused_family_is_also_accepted() -> None:
    assert not set(gpus.REFUSED_FAMILIES) & set(FAMILIES)


# --- quantization -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", [None, "awq", "gptq"])
def test_a_checkpoint_says_its_quantization_itself(quantization: str | None) -> None:
    assert "--quantization" not in arguments(quantization=quantization, wanted_quantization=quantization)


def test_a_quantization_while_loading_is_told() -> None:
    assert value("--quantization", arguments(quantization=None, wanted_quantization="fp8")) == "fp8"


@pytest.mark.parametrize(("checkpoint", "wanted"), [(None, "awq"), ("awq", None), ("gptq", "awq"), ("awq", "fp8")])
def test_another_quantization_than_the_checkpoint_s_is_refused(checkpoint: str | None, wanted: str | None) -> None:
    with pytest.raises(UsageProblem, match="the model declares quantization .*, the settings expect "):
        arguments(quantization=checkpoint, wanted_quantization=wanted)


# --- extra arguments --------------------------------------------------------------------------------------------------


def test_extra_arguments_come_last_and_unchanged() -> None:
    extra = ["--max-num-seqs", "64", "--kv-cache-dtype=fp8", "--seed", "-1"]
    assert arguments(extra_args=extra)[-5:] == extra


@pytest.mark.parametrize("extra", [
    ["--structured-outputs-config", '{"backend": "xgrammar"}'], ["--structured-outputs-config.backend", "xgrammar"],
    ["--no-enable-prefix-caching"], ["--generation-config=auto"]])
def test_three_of_the_role_s_arguments_may_be_replaced(extra: list[str]) -> None:
    words = arguments(extra_args=extra)
    base = extra[0].partition("=")[0].partition(".")[0].replace("--no-", "--")
    assert [word for word in words if word.replace("--no-", "--").startswith(base)] == [extra[0]]


@pytest.mark.parametrize(("extra", "message", "hint"), [
    (["--disable-log-requests"], "which vLLM no longer has", "requests are not logged"),
    (["--swap-space", "4"], "which vLLM no longer has", "no swapping"),
    (["--device", "cuda"], "which vLLM no longer has", "platform"),
    (["--guided-decoding-backend=xgrammar"], "which vLLM no longer has", "--structured-outputs-config"),
    (["--api-key", "x"], "not for a judge", "vllm_k8s_api_key_secret_name"),
    (["--middleware", "a.b"], "not for a judge", "before the gateway"),
    (["--middlewar", "a.b"], "not for a judge", "before the gateway"),  # the parser takes an unambiguous beginning
    (["--trust-remote-code"], "not for a judge", "never run"),
    (["--trust_remote_code"], "not for a judge", "never run"),  # and `_` for `-`
    (["--uds", "/tmp/x"], "not for a judge", "one port"),
    (["--config", "/x.yaml"], "not for a judge", "could not be checked"),
    (["--model", "x"], "the role gives itself", "model.id"),
    (["--port=1"], "the role gives itself", "vllm_k8s_port"),
    (["--host", "::"], "the role gives itself", "vllm_k8s_host"),
    (["-q", "awq"], "the role gives itself", "vllm_k8s_quantization"),
    (["-tp2"], "the role gives itself", "vllm_k8s_gpu_count"),
    (["--dtype", "half"], "the role gives itself", "vllm_k8s_dtype"),
    (["--max-model", "3"], "the role gives itself", "vllm_k8s_max_model_len"),
    (["--attention-backend", "XFORMERS"], "this back end was removed", "leave --attention-backend out"),
    (["--attention-backend=xformers"], "this back end was removed", "leave --attention-backend out"),
    (["--load-format", "dummy"], "random weights", "leave --load-format out"),
    (["--max-num-seqs 64"], "in one item", '"--flag", "value"'),
])
def test_an_extra_argument_that_cannot_be_is_refused_with_what_to_write(
    extra: list[str], message: str, hint: str
) -> None:
    with pytest.raises(UsageProblem, match=message) as refused:
        arguments(extra_args=["--enforce-eager", *extra])
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize("extra", [
    ["--device-ids", "0"], ["--quantization-config", "{}"], ["--tokenizer-mode", "hf"], ["--seed=7"], ["-cc.mode=3"],
    ["--attention-backend", "TRITON_ATTN"], ["--load-format", "safetensors"], ["--hf-overrides.x.y", "1"], ["-O2"]])
def test_what_only_looks_like_one_of_them_passes(extra: list[str]) -> None:
    assert arguments(extra_args=extra)[-len(extra) :] == extra


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "version"), [
    ("v0.32.0", (0, 32, 0)), ("0.32.1-cu129", (0, 32, 1)), ("v0.33", (0, 33, 0)), ("v0.24.0rc1", (0, 24, 0)),
    ("latest", None), ("nightly-0f1a2b", None), ("", None), (None, None)])
def test_the_version_that_a_tag_names(tag: str | None, version: tuple[int, int, int] | None) -> None:
    assert version_of(tag) == version


def test_a_release_with_serious_advisories_is_refused_with_their_names() -> None:
    with pytest.raises(UsageProblem, match=r"vLLM v0\.6\.4 .*2025-24357.*2026-48746.*wanted 0\.24\.0") as refused:
        arguments(version="v0.6.4")
    assert "set vllm.tag to v0.32.0" in str(refused.value.hint)


def test_only_what_a_release_still_has_is_told_of_it() -> None:
    with pytest.raises(UsageProblem) as refused:
        check_version("v0.23.0")
    assert "CVE-2026-55574" in refused.value.message
    assert "CVE-2026-48746" not in refused.value.message


def test_a_weakness_that_came_later_is_not_held_against_an_old_release() -> None:
    names = {one.name for one in open_advisories((0, 6, 4))}
    assert {"CVE-2025-24357", "CVE-2025-59425", "CVE-2026-48746"} <= names
    assert not {"CVE-2026-22807", "CVE-2026-22778", "CVE-2025-62164"} & names


def test_the_floor_is_the_newest_fix_of_a_serious_advisory() -> None:
    assert max(one.fixed for one in ADVISORIES if one.severity in ("high", "critical")) == FLOOR
    assert open_advisories(FLOOR) == []
    assert TESTED >= FLOOR


def test_the_role_serves_the_tried_release() -> None:
    defaults = Path(vllm_arguments.__file__).parents[3] / "roles/vllm_k8s/defaults/main.yml"
    assert version_of(yaml.safe_load(defaults.read_text())["vllm_k8s_image_tag"]) == TESTED


@pytest.mark.parametrize(("tag", "cards", "said"), [
    ("v0.32.0", ["a10g"], []), ("latest", [], ["names no version"]), ("v0.40.0", [], ["newer than 0.32.0"]),
    ("v0.32.0", ["t4"], ["T4 runs with half"])])
def test_what_is_accepted_and_worth_knowing_is_said(tag: str, cards: list[str], said: list[str]) -> None:
    found = remarks(tag, cards)
    assert len(found) == len(said)
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence


# --- environment ------------------------------------------------------------------------------------------------------


def test_what_the_role_sets_for_safety_s_sake_the_operator_cannot_set() -> None:
    """The operator's variables come over the role's own: whatever guards the server must be refused in them."""
    variables = (Path(vllm_arguments.__file__).parents[3] / "roles/vllm_k8s/vars/main.yml").read_text()
    for name in ("JUDGE_GATEWAY_CONFIG", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_HOST_IP", "PYTHONPATH"):
        assert f"'{name}': " in variables
        with pytest.raises(UsageProblem):
            environment({name: "x"})
    assert "combine(vllm_k8s_extra_env | judge_vllm_environment)" in variables


def test_the_environment_keeps_the_server_that_has_middleware() -> None:
    assert environment({"NCCL_DEBUG": "INFO"}) == {"VLLM_USE_RUST_FRONTEND": "0", "NCCL_DEBUG": "INFO"}


@pytest.mark.parametrize("name", [
    "VLLM_USE_RUST_FRONTEND", "VLLM_API_KEY", "VLLM_SERVER_DEV_MODE", "PYTHONPATH", "HF_TOKEN", "HF_HUB_OFFLINE",
    "VLLM_ATTENTION_BACKEND", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "JUDGE_GATEWAY_CONFIG", "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME", "VLLM_HOST_IP"])
def test_a_variable_that_would_undo_the_arguments_is_refused(name: str) -> None:
    with pytest.raises(UsageProblem, match=f"vllm_k8s_extra_env sets {name}: "):
        environment({name: "1"})


@pytest.mark.parametrize(("value", "shown"), [(None, "null"), (True, "true"), (["a"], '["a"]')])
def test_a_variable_that_is_no_text_is_refused(value: object, shown: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        environment({"VLLM_X": value})
    assert caught.value.message == f"vllm_k8s_extra_env sets VLLM_X to {shown}, wanted a text"
    assert environment({"VLLM_X": 1, "VLLM_Y": ""})["VLLM_X"] == "1"
