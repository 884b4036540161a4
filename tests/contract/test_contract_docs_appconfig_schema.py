"""terraform/appconfig.schema.json is fresh, and AppConfig with it refuses what judge-bootstrap refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from judge_bootstrap.core import rules
from judge_bootstrap.core.layers import document_problems
from judge_bootstrap.core.schema import FIELDS

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "terraform" / "appconfig.schema.json").read_text())
VALIDATOR = Draft4Validator(SCHEMA)

GOOD = {
    "model.id": ["Qwen/Qwen2.5-7B-Instruct-AWQ", "a/b"],
    "model.revision": ["main", "b25037543e9394b818fdfca67ab2a00ecc7dd641", "feature/x", "v1.0"],
    "model.quantization": [None, "awq", "compressed-tensors"],
    "model.max_model_len": [1, 4096, 10_000_000],
    "model.gpu_memory_utilization": [0.01, 0.9, 1, 1.0],
    "storage.nvme_device": [None, "/dev/nvme1n1", "/dev/disk/by-id/x"],
    "storage.nvme_mount_path": ["/mnt/nvme", "/data"],
    "storage.models_dir": ["/mnt/nvme/hub"],
    "vllm.image": ["vllm/vllm-openai", "localhost:5000/a", "111122223333.dkr.ecr.us-east-1.amazonaws.com/x/y"],
    "vllm.tag": ["v0.11.0", "latest"],
    "vllm.port": [1, 8000, 65535],
    "kubernetes.namespace": ["llm-judge", "0a"],
    "kubernetes.service_name": ["judge-inference-service"],
    "kubernetes.hf_secret_name": ["hf-secret", "a.b"],
}
BAD: dict[str, list[Any]] = {
    "model.id": ["no-slash", "a/b/c", "a--b/c", "a..b/c", "a/b.git", "a/b\n", "", None, 7],
    "model.revision": ["a..b", "a//b", "a/.b", "a/", "a.", "a.lock", "main\n", " main", "x" * 201, None],
    "model.quantization": ["AWQ", "", "x" * 41, 4, "awq\n"],
    "model.max_model_len": [0, -1, 10_000_001, 4096.0, "4096", True, None],
    "model.gpu_memory_utilization": [0, 0.0, 1.01, -0.5, "0.9", True, None],
    "storage.nvme_device": ["nvme1n1", "/mnt/nvme1n1", "/dev/", "/dev/x y", "/dev//x", "/dev/../etc/x"],
    "storage.nvme_mount_path": ["/", "/mnt", "/var/lib", "/etc/x", "/usr", "/var/lib/kubelet/x", "mnt/nvme", "/a/../b",
                                "/mnt/nvme/", "/mnt/nvme\n", None],
    "storage.models_dir": ["/proc/x", "hub", "/mnt/nvme/hub\r"],
    "vllm.image": ["Vllm/Vllm", "a/b:tag", "a//b", "vllm/vllm-openai\n", ""],
    "vllm.tag": ["", ".v1", "a b", "x" * 129, "latest\n"],
    "vllm.port": [0, 65536, 8000.0, "8000", True],
    "kubernetes.namespace": ["-a", "a-", "A", "a.b", "x" * 64, "a\n"],
    "kubernetes.service_name": ["0a", "a_b", "x" * 64],
    "kubernetes.hf_secret_name": ["hf_abc", ".a", "a..b", "x" * 254],
}


def document(path: str, value: Any) -> dict[str, Any]:
    section, _, key = path.partition(".")
    return {"judge_inference": {section: {key: value}}}


def accepted_by_both(found: Any) -> bool:
    """Return the verdict on which both agree; fail when they do not."""
    by_schema, problems = VALIDATOR.is_valid(found), document_problems(found, {})
    assert by_schema == (not problems), f"{found!r}: the schema {by_schema}, judge-bootstrap {problems}"
    return by_schema


def test_docs_appconfig_schema_is_what_the_generator_writes() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "pytool")}
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "appconfig_schema.py"), "--check"], env=environ,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_docs_show_settings_that_the_schema_takes() -> None:
    files = ("docs/terraform.md", "terraform/variables_support.tf", "terraform/examples/complete/main.tf")
    found = [(name, text) for name in files
             for text in re.findall(r"(?:settings *=|such as) (\{ *\w+ *= *\{[^{}]*\} *\})", (ROOT / name).read_text())]
    assert {name for name, _ in found} == set(files)
    assert [(name, text) for name, text in found
            if not VALIDATOR.is_valid({"judge_inference": hcl2.loads(f"settings = {text}\n")["settings"]})] == []


def test_the_schema_is_of_draft_4_and_fits_into_a_validator_of_appconfig() -> None:
    Draft4Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-04/schema#"
    assert len((ROOT / "terraform" / "appconfig.schema.json").read_text()) <= 32_768


def test_there_are_good_and_bad_values_for_every_setting() -> None:
    assert set(GOOD) == set(BAD) == set(FIELDS)


@pytest.mark.parametrize("path, value", [(path, value) for path, values in GOOD.items() for value in values])
def test_both_take_a_good_value(path: str, value: Any) -> None:
    assert accepted_by_both(document(path, value))


@pytest.mark.parametrize("path, value", [(path, value) for path, values in BAD.items() for value in values])
def test_both_refuse_a_bad_value(path: str, value: Any) -> None:
    assert not accepted_by_both(document(path, value))


@pytest.mark.parametrize("found", [{"judge_inference": {}}, {"judge_inference": {"model": {}}}])
def test_both_take_a_document_in_parts(found: Any) -> None:
    assert accepted_by_both(found)


@pytest.mark.parametrize("found", [
    {}, [], None, "x", {"judge_inference": None}, {"judge_inference": []}, {"judge_inference": {"model": None}},
    {"judge_inference": {"models": {}}}, {"judge_inference": {"model": {"name": "x"}}},
    {"judge_inference": {}, "other": 1}])
def test_both_refuse_another_shape(found: Any) -> None:
    assert not accepted_by_both(found)


_TEXTS = [path for path, field in FIELDS.items() if field.kind is str]


@given(path=st.sampled_from(_TEXTS), value=st.text(alphabet="ab0AZ.-_/:@ \n\u00e9", max_size=12))
@example(path="model.revision", value="a\u2028")
def test_both_agree_on_any_short_text(path: str, value: str) -> None:
    accepted_by_both(document(path, value))


@given(data=st.data(), path=st.sampled_from(_TEXTS))
def test_both_agree_on_texts_near_the_pattern(data: st.DataObject, path: str) -> None:
    keywords = FIELDS[path].keywords
    value = data.draw(st.from_regex(keywords["pattern"]), label=path)
    accepted_by_both(document(path, value))


@pytest.mark.parametrize("path", ["storage.nvme_mount_path", "storage.models_dir"])
@pytest.mark.parametrize("tree", [*rules._SYSTEM_TREES, *rules._SHARED_DIRECTORIES])
@pytest.mark.parametrize("below", ["", "/x", "x"])
def test_both_agree_on_the_directories_of_the_system(tree: str, below: str, path: str) -> None:
    accepted_by_both(document(path, f"{tree.rstrip('/') if below else tree}{below}"))


def test_only_judge_bootstrap_sees_a_store_beside_its_disk() -> None:
    storage = {"nvme_device": None, "nvme_mount_path": "/mnt/a", "models_dir": "/mnt/b/hub"}
    found = {"judge_inference": {"storage": storage}}
    assert VALIDATOR.is_valid(found)
    assert "wanted: a path below" in document_problems(found, {})[0].text
