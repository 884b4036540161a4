"""What a setting may hold: each rule with what it takes and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from judge_bootstrap.core.layers import nest
from judge_bootstrap.core.problems import find_problems
from judge_bootstrap.core.schema import BY_VARIABLE, FIELDS

TAKEN: dict[str, list[Any]] = {
    "model.id": ["Qwen/Qwen2.5-7B-Instruct-AWQ", "judge-lab/tiny-judge", "a/b", "meta-llama/Llama-3.1-8B"],
    "model.revision": ["main", "0123456789abcdef0123456789abcdef01234567", "refs/pr/1", "v1.0", "release_2.x"],
    "model.quantization": [None, "awq", "awq_marlin", "fp8", "compressed-tensors"],
    "model.max_model_len": [1, 4096, 10_000_000],
    "model.gpu_memory_utilization": [0.9, 1, 1.0, 0.01],
    "storage.nvme_device": [None, "/dev/nvme1n1", "/dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_AWS1"],
    "storage.nvme_mount_path": ["/mnt/nvme", "/data", "/srv/judge", "/var/lib/judge", "/opt/judge/disk"],
    "storage.models_dir": ["/mnt/nvme/hub", "/data/models"],
    "vllm.image": ["vllm/vllm-openai", "busybox", "registry.local:5000/team/vllm", "public.ecr.aws/x/y-z",
                   "localhost/a", "mirror:5000/a"],
    "vllm.tag": ["v0.32.0", "latest", "0.32.0-cu129", "_x"],
    "vllm.port": [1, 8000, 65535],
    "kubernetes.namespace": ["llm-judge", "a", "1a", "a" * 63],
    "kubernetes.service_name": ["judge-inference-service", "j"],
    "kubernetes.hf_secret_name": ["hf-secret", "hf.secret", "1"],
}
REFUSED: dict[str, list[Any]] = {
    "model.id": ["", "gpt2", "a/b/c", "/a", "a/", "a/b ", "a/b\n", "a b/c", "a/..", "../b", "a--b/c", "{{ x }}/y",
                 "é/x",
                 "a/b.git", None, 3, ["a/b"]],
    "model.revision": ["", "-x", "a..b", "a//b", "/a", "a/", "a b", "x.lock", "a/.b", "main\n", "{{ x }}",
                       "x" * 300, None],
    "model.quantization": ["", "AWQ", "awq;rm", "{{ x }}", 4, False],
    "model.max_model_len": [0, -1, 10_000_001, "4096", 4096.0, 4096.5, True, None, 10**30],
    "model.gpu_memory_utilization": [0, -0.1, 1.01, "0.9", True, None, float("nan"), float("inf")],
    "storage.nvme_device": ["", "nvme1n1", "/etc/passwd", "/dev/../etc/x", "/dev/", "/dev", "/dev//sda",
                            "/dev/a b", "{{ x }}", 1],
    "storage.nvme_mount_path": ["", "/", "//", "mnt/nvme", "/mnt", "/etc", "/etc/x", "/usr/local", "/var", "/var/lib",
                                "/dev/shm", "/proc/x", "/home", "/root", "/tmp", "/mnt/../etc", "/mnt/nvme/",
                                "/mnt//nvme", "/mnt/./x", "/boot/x", "/var/lib/kubelet/x", "/mnt/nv me",
                                "/mnt/{{ x }}", "/mnt/$(id)", "/mnt/x\n", None],
    "storage.models_dir": ["", "/", "hub", "/mnt/nvme/../hub", "/etc/hub", "/mnt/nvme/hub/", None],
    "vllm.image": ["", "vllm/vllm-openai:v1", "vllm/vllm-openai@sha256:00", "VLLM/x", "http://x/y", "a//b", "a/",
                   "{{ x }}", "-a", "a b", "x" * 300, None],
    "vllm.tag": ["", ".x", "-x", "a b", "a/b", "x" * 129, "{{ x }}", 1, None],
    "vllm.port": [0, -1, 65536, "8000", 80.5, True, None],
    "kubernetes.namespace": ["", "A", "a_b", "-a", "a-", "a.b", "a" * 64, "{{ x }}", None],
    "kubernetes.service_name": ["", "1a", "A", "a-", "a.b", "a" * 64, None],
    "kubernetes.hf_secret_name": ["", "HF", "hf_abc", "a..b", "-a", "a" * 254, None],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in TAKEN.items() for value in values])
def test_a_setting_takes(path: str, value: Any) -> None:
    assert find_problems(nest({path: value})) == []


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in REFUSED.items() for value in values])
def test_a_setting_refuses(path: str, value: Any) -> None:
    found = find_problems(nest({path: value}))
    assert [problem.path for problem in found] == [path]
    assert f"judge_inference.{path} is " in found[0].text
    assert f"wanted: {FIELDS[path].wanted}" in found[0].text


def test_every_setting_is_in_both_tables() -> None:
    assert TAKEN.keys() == REFUSED.keys() == FIELDS.keys()


def test_no_setting_takes_a_template_because_ansible_would_run_it() -> None:
    texts = [path for path, field in FIELDS.items() if field.kind is str]
    assert [path for path in texts for text in ("{{ lookup('pipe', 'id') }}", "{% x %}", "a/{{x}}")
            if not find_problems(nest({path: text}))] == []


def test_the_store_must_lie_below_the_mount() -> None:
    found = find_problems(nest({"storage.nvme_device": None, "storage.nvme_mount_path": "/data",
                                "storage.models_dir": "/mnt/nvme/hub"}))
    assert [problem.text for problem in found] == [
        'judge_inference.storage.models_dir is "/mnt/nvme/hub", wanted: a path below '
        'judge_inference.storage.nvme_mount_path, which is "/data"']


def test_the_store_may_not_be_the_mount_itself() -> None:
    assert find_problems(nest({"storage.nvme_device": None, "storage.nvme_mount_path": "/data",
                               "storage.models_dir": "/data"})) != []


def test_every_setting_has_a_variable_of_its_own() -> None:
    assert len(BY_VARIABLE) == len(FIELDS)


def test_an_unknown_key_names_its_path_its_type_and_the_nearest_but_not_its_value() -> None:
    found = find_problems({"judge_inference": {"model": {"max_len": "hf_abcdefghijklmnopqrst"}}})
    assert [problem.text for problem in found] == [
        "unknown key judge_inference.model.max_len (a text), wanted: one of id, revision, quantization, max_model_len, "
        "gpu_memory_utilization; did you mean max_model_len?"]


def test_a_section_that_is_no_object_names_its_keys() -> None:
    found = find_problems({"judge_inference": {"vllm": 8000}})
    assert [problem.text for problem in found] == [
        "judge_inference.vllm is a whole number, wanted: an object with image, tag, port"]


def test_a_token_in_the_wrong_place_is_masked() -> None:
    found = find_problems(nest({"kubernetes.hf_secret_name": "hf_abcdefghijklmnopqrstuvwx"}))
    assert "abcdef" not in found[0].text
    assert "***" in found[0].text


@pytest.mark.parametrize("document", [{"judge_inference": {1: 2}}, {"judge_inference": {"model": {"\ud800": 1}}},
                                      {"judge_inference": {"model": {None: 1}}}, [], "x", None, 3.5])
def test_any_document_is_a_problem_in_words(document: Any) -> None:
    found = find_problems(document)
    assert found
    assert all(problem.text.isprintable() for problem in found)
