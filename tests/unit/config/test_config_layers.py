"""Layers: which one wins, what each value remembers of its origin, and what a wrong name or value says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judge_bootstrap.core import layers
from judge_bootstrap.core.documents import InvalidDocument, read_json_object, read_yaml_mapping
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.layers import NamedText
from judge_bootstrap.core.schema import FIELDS
from judge_bootstrap.core.settings import Source, Value

ROOT = Path(__file__).parents[3]
LIVE = Source(layer="appconfig", detail="a/b/c", version="7", age_seconds=0, live=True)


def role_defaults() -> dict[str, Value]:
    return layers.from_role_defaults([NamedText(str(path.relative_to(ROOT)), path.read_text())
                                      for path in sorted(ROOT.glob("roles/*/defaults/main.yml"))])


def no_file(name: str) -> str:
    raise AssertionError(f"nothing should be read, {name} was")


def flags(*extra: str, **options: Any) -> tuple[layers.Flags, list[str]]:
    return layers.from_flags(extra, read_file=options.pop("read_file", no_file), **options)


def test_the_roles_give_every_setting_a_default_that_its_rule_allows() -> None:
    found = role_defaults()
    assert found.keys() == FIELDS.keys()
    assert {item.source.layer for item in found.values()} == {"default"}
    assert found["vllm.port"].source.detail == "roles/vllm_k8s/defaults/main.yml"


def test_a_role_without_its_default_is_a_broken_installation() -> None:
    with pytest.raises(UsageProblem, match=r"no default for model_cache_repo_id in roles/model_cache/defaults"):
        layers.from_role_defaults([NamedText("x", "vllm_k8s_port: 8000")])


def test_each_layer_wins_over_the_ones_before_it() -> None:
    document = {"judge_inference": {"vllm": {"port": 3}, "model": {"max_model_len": 3}}}
    below = [role_defaults(),
             layers.from_inventory([NamedText("all.yml", "vllm_k8s_port: 2\nvllm_k8s_max_model_len: 2\n"
                                                         "vllm_k8s_namespace: two\nmodel_cache_repo_id: two/two")])]
    above = [layers.from_document(document, LIVE),
             layers.from_environment({"JUDGE_BOOTSTRAP_VLLM__PORT": "4", "JUDGE_BOOTSTRAP_MODEL__ID": "four/four"}),
             flags("vllm.port=5")[0].values]
    settings = layers.merge("prod", [*below, *above])
    assert {path: settings[path] for path in ("vllm.port", "model.id", "model.max_model_len", "kubernetes.namespace",
                                              "storage.nvme_mount_path")} == {
        "vllm.port": 5, "model.id": "four/four", "model.max_model_len": 3, "kubernetes.namespace": "two",
        "storage.nvme_mount_path": "/mnt/nvme"}
    assert {path: str(settings.values[path].source) for path in ("vllm.port", "model.id", "model.max_model_len",
                                                                 "kubernetes.namespace")} == {
        "vllm.port": "flag: -e vllm.port", "model.id": "env: JUDGE_BOOTSTRAP_MODEL__ID",
        "model.max_model_len": "appconfig: a/b/c version 7", "kubernetes.namespace": "inventory: all.yml"}


def test_extra_vars_hold_only_what_was_set_above_the_inventory_as_json_types() -> None:
    inventory = layers.from_inventory([NamedText("all.yml", "vllm_k8s_namespace: two")])
    document = {"judge_inference": {"storage": {"nvme_device": None}, "model": {"gpu_memory_utilization": 0.5}}}
    given, _ = flags("vllm.port=5", "my_own=x y")
    settings = layers.merge("prod", [role_defaults(), inventory, layers.from_document(document, LIVE), given.values],
                            passed_on=given.passed_on)
    assert settings.extra_vars() == {"vllm_k8s_port": 5, "my_own": "x y", "nvme_device": None,
                                     "vllm_k8s_gpu_memory_utilization": 0.5}


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = layers.merge("prod", [role_defaults()])
    with pytest.raises(ValueError, match="frozen"):
        settings.env = "other"


@pytest.mark.parametrize("line", ["nvme_device: '{{ lookup(\"env\", \"DISK\") }}'",
                                  "nvme_device: !vault |\n  $ANSIBLE_VAULT;1.1"])
def test_what_only_ansible_can_render_is_neither_shown_nor_passed_on(line: str) -> None:
    settings = layers.merge("prod", [role_defaults(), layers.from_inventory([NamedText("all.yml", line)])])
    value = settings.values["storage.nvme_device"]
    assert (value.templated, value.shown, settings["storage.nvme_device"]) == (True, "(templated, not shown)", None)
    assert settings.extra_vars() == {}


@pytest.mark.parametrize(("text", "message"), [
    ("vllm_k8s_port: '8000'", 'vllm_k8s_port in all.yml: judge_inference.vllm.port is "8000" (a text), wanted: a port'),
    ("vllm_k8s_port: 1\nvllm_k8s_port: 2", "all.yml: line 2: the key 'vllm_k8s_port' stands twice"),
    ("- a", "all.yml: it holds a list, wanted: variables as `name: value`"),
    ("a: [", "all.yml: line 1: "), ("a: !!int x", "all.yml: it is not YAML that can be read"),
    ("a: 2001-99-99", "all.yml: it is not YAML that can be read"), ("{[]: 1}", "all.yml: line 1: "),
    ("a: " + "[" * 3000, "all.yml: "), ("1: 2", "all.yml: the name 1 is no text"),
])
def test_a_wrong_group_vars_file_is_named_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        layers.from_inventory([NamedText("all.yml", text)])
    assert caught.value.message.startswith(message)
    assert caught.value.message.isprintable()
    assert "all.yml" in (caught.value.hint or "")


@pytest.mark.parametrize(("name", "value", "found"), [
    ("JUDGE_BOOTSTRAP_MODEL__MAX_MODEL_LEN", "2048", 2048),
    ("JUDGE_BOOTSTRAP_MODEL__GPU_MEMORY_UTILIZATION", ".5", 0.5),
    ("JUDGE_BOOTSTRAP_STORAGE__NVME_DEVICE", "", None), ("JUDGE_BOOTSTRAP_STORAGE__NVME_DEVICE", "null", None),
    ("JUDGE_BOOTSTRAP_STORAGE__NVME_DEVICE", "/dev/nvme1n1", "/dev/nvme1n1"), ("JUDGE_BOOTSTRAP_VLLM__TAG", "1", "1"),
    ("JUDGE_BOOTSTRAP_MODEL__QUANTIZATION", "null", None),
])
def test_a_variable_is_read_as_its_settings_type(name: str, value: str, found: Any) -> None:
    values = layers.from_environment({name: value, "PATH": "/bin"})
    assert [item.value for item in values.values()] == [found]


@pytest.mark.parametrize(("name", "value", "message"), [
    ("JUDGE_BOOTSTRAP_MODEL__MAX_LEN", "1",
     "unknown environment variable JUDGE_BOOTSTRAP_MODEL__MAX_LEN; did you mean JUDGE_BOOTSTRAP_MODEL__MAX_MODEL_LEN?"),
    ("JUDGE_BOOTSTRAP_STAT", "1",
     "unknown environment variable JUDGE_BOOTSTRAP_STAT; did you mean JUDGE_BOOTSTRAP_STATE?"),
    ("JUDGE_BOOTSTRAP_VLLM__PORT", "8k",
     'JUDGE_BOOTSTRAP_VLLM__PORT: judge_inference.vllm.port is "8k" (a text), wanted: a port number from 1 to 65535'),
    ("JUDGE_BOOTSTRAP_MODEL__ID", "",
     'JUDGE_BOOTSTRAP_MODEL__ID: judge_inference.model.id is "" (a text), wanted: a Hub '),
    ("JUDGE_BOOTSTRAP_MODEL__ID", "{{ 1 }}/x",
     'JUDGE_BOOTSTRAP_MODEL__ID: judge_inference.model.id is "{{ 1 }}/x" (a text), wanted: a Hub repository'),
    ("JUDGE_BOOTSTRAP_VLLM__PORT", "9" * 5000, "JUDGE_BOOTSTRAP_VLLM__PORT: judge_inference.vllm.port is "),
])
def test_a_wrong_variable_is_named_with_the_nearest_or_what_is_wanted(name: str, value: str, message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        layers.from_environment({name: value})
    assert caught.value.message.startswith(message)
    assert len(caught.value.message) < 400


def test_reserved_variables_are_no_settings() -> None:
    assert layers.from_environment(dict.fromkeys(layers.RESERVED_VARIABLES, "x")) == {}


@pytest.mark.parametrize(("extra", "found", "passed_on"), [
    (["model.id=a/b"], {"model.id": "a/b"}, {}),
    (["model=a/b"], {"model.id": "a/b"}, {}),
    (["judge_inference.model.id=a/b"], {"model.id": "a/b"}, {}),
    (["nvme_device=/dev/nvme1n1"], {"storage.nvme_device": "/dev/nvme1n1"}, {}),
    (["vllm.port=1 vllm.tag=x"], {"vllm.port": 1, "vllm.tag": "x"}, {}),
    (["vllm.port=1", "vllm_k8s_port=2"], {"vllm.port": 2}, {}),
    (['{"vllm.port": 1, "vllm_k8s_extra_args": ["--x"]}'], {"vllm.port": 1}, {"vllm_k8s_extra_args": ["--x"]}),
    (['{"judge_inference": {"vllm": {"port": 1}}}'], {"vllm.port": 1}, {}),
    (["{vllm_k8s_port: 1}"], {"vllm.port": 1}, {}),
    (["greeting='two words' x=1"], {}, {"greeting": "two words", "x": "1"}),
    (["greeting=two words"], {}, {"greeting": "two words"}),
    (["x=a=b"], {}, {"x": "a=b"}),
])
def test_flags_are_settings_role_variables_or_ansibles(extra: list[str], found: dict[str, Any], passed_on: Any) -> None:
    given, warnings = flags(*extra, role_variables=["vllm_k8s_extra_args"])
    assert {path: item.value for path, item in given.values.items()} == found
    assert given.passed_on == passed_on
    assert warnings == []


def test_a_flag_file_is_read_like_ansible_reads_it() -> None:
    given, _ = flags("@vars.yml", read_file={"vars.yml": "vllm_k8s_port: 9\nother: [1]"}.__getitem__)
    assert {path: item.value for path, item in given.values.items()} == {"vllm.port": 9}
    assert given.passed_on == {"other": [1]}


@pytest.mark.parametrize(("extra", "message"), [
    ("vllm.prot=1", "-e vllm.prot is no setting and no variable name; did you mean vllm.port?"),
    ("model.id", "-e model.id is no assignment"), ("=x", "-e =x is no assignment"), ("", "-e  is no assignment"),
    ("vllm.port=http",
     '-e vllm.port: judge_inference.vllm.port is "http" (a text), wanted: a port number from 1 to 65535'),
    ('{"vllm.port": "1"}',
     '-e vllm.port: judge_inference.vllm.port is "1" (a text), wanted: a port number from 1 to 65535'),
    ('{"judge_inference": {"vlm": 1}}',
     "-e judge_inference: unknown key judge_inference.vlm (a whole number), wanted: one of model, storage, vllm, "
     "kubernetes; did you mean vllm?"),
    ("{", "-e {: line 1: "),
])
def test_a_wrong_flag_is_named_with_what_is_wanted(extra: str, message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        flags(extra)
    assert caught.value.message.startswith(message)
    assert caught.value.hint


@pytest.mark.parametrize("value", ['["a", "b"]', "[a]", '{"A": "1"}'])
def test_a_list_in_the_form_for_texts_is_refused_with_the_form_that_keeps_it_one(value: str) -> None:
    with pytest.raises(UsageProblem, match="a list or an object in the form for texts") as caught:
        flags(f"vllm_k8s_extra={value}", role_variables=["vllm_k8s_extra"])
    assert caught.value.hint == """-e '{"vllm_k8s_extra": ...}'   # JSON keeps its types"""
    kept, _ = flags('{"vllm_k8s_extra": ["a"]}', role_variables=["vllm_k8s_extra"])
    assert kept.passed_on == {"vllm_k8s_extra": ["a"]}


def test_a_variable_that_looks_like_one_of_ours_is_passed_on_with_a_warning() -> None:
    given, warnings = flags("vllm_k8s_replica=2", role_variables=["vllm_k8s_replicas"])
    assert given.passed_on == {"vllm_k8s_replica": "2"}
    assert warnings == ["-e vllm_k8s_replica is no variable of our roles; did you mean vllm_k8s_replicas? "
                        "Ansible gets it as it is"]


def test_values_that_do_not_fit_each_other_name_both_sources() -> None:
    above = flags("storage.nvme_mount_path=/data")[0].values
    with pytest.raises(UsageProblem) as caught:
        layers.merge("prod", [role_defaults(), above])
    assert caught.value.message == (
        'judge_inference.storage.models_dir is "/mnt/nvme/hub", wanted: a path below '
        'judge_inference.storage.nvme_mount_path, which is "/data" (storage.models_dir from default: '
        "roles/model_cache/defaults/main.yml; storage.nvme_mount_path from flag: -e storage.nvme_mount_path)")
    assert "together" in (caught.value.hint or "")


@pytest.mark.parametrize(("body", "message"), [
    (b"", "it is not JSON"), (b"{", "it is not JSON"), (b"[]", "it holds a list, wanted: an object"),
    (b"1", "it holds a number"),
    (b"\xff", "byte 0 is not UTF-8"), (b'{"a": 1, "a": 2}', "the key 'a' stands twice in one object"),
    (b'{"a": NaN}', "NaN is not a JSON number"), (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
    (b"[" * 60_000, "it is nested too deeply"), (b'{"a": ' + b"9" * 5000 + b"}", "it has a number that cannot be read"),
    (b" " * 70_000, "it has 70000 bytes, wanted: at most 65536"),
])
def test_json_that_is_no_document_says_why(body: bytes, message: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_json_object(body)
    assert str(caught.value).startswith(message)


def test_unsafe_text_is_plain_text() -> None:
    assert read_yaml_mapping("a: !unsafe '{{ x }}'\nb: !unsafe [1]\nc: !unsafe {d: 1}") == {
        "a": "{{ x }}", "b": [1], "c": {"d": 1}}
