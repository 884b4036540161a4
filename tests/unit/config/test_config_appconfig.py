"""AppConfig as a layer: what is applied on a bad day, and what the operator is told."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_bootstrap.adapters import appconfig
from judge_bootstrap.adapters.appconfig import AppConfigLayer, AppConfigUnavailable, Fetched, age_words
from judge_bootstrap.adapters.state import LastGood, LastGoodFile
from judge_bootstrap.core.environment import AppConfigRef, Environment
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.settings import Source, Value

REF = AppConfigRef(application="judge-bootstrap", environment="prod", profile="judge-inference")
DEFAULT = Source(layer="default", detail="roles")
BELOW = {"storage.nvme_device": Value(value=None, source=DEFAULT),
         "storage.nvme_mount_path": Value(value="/mnt/nvme", source=DEFAULT),
         "storage.models_dir": Value(value="/mnt/nvme/hub", source=DEFAULT)}
GOOD = {"judge_inference": {"vllm": {"port": 9000}}}
INVALID: dict[str, bytes] = {
    "no JSON": b"{", "a list": b"[]", "no root": b"{}", "another document": b'{"feature": {"enabled": true}}',
    "wrong type": b'{"judge_inference": {"vllm": {"port": "9000"}}}',
    "out of range": b'{"judge_inference": {"vllm": {"port": 90000}}}',
    "unknown key": b'{"judge_inference": {"vllm": {"prot": 9000}}}',
    "a key twice": b'{"judge_inference": {"vllm": {"port": 1, "port": 2}}}',
    "too large": b'{"judge_inference": {}, "x": "' + b"y" * 70_000 + b'"}',
    "does not fit the layers below": b'{"judge_inference": {"storage": {"nvme_mount_path": "/data"}}}',
    "a template": b'{"judge_inference": {"model": {"revision": "{{ x }}"}}}',
    "no UTF-8": b"\xff\xfe",
}


class FakeAppConfig:
    """Gives an answer, or the error that AWS would be."""

    def __init__(self, answer: bytes | Exception, version: str = "2") -> None:
        self.answer, self.version = answer, version

    def fetch(self) -> Fetched:
        if isinstance(self.answer, Exception):
            raise self.answer
        return Fetched(self.answer, self.version)


def environment(*, production: bool = False, ref: AppConfigRef | None = REF) -> Environment:
    return Environment(name="prod", inventory_dir=Path("inventory/prod"), production=production, region="us-east-1",
                       appconfig=ref)


Read = Callable[..., AppConfigLayer]


@pytest.fixture
def store(tmp_path: Path) -> LastGoodFile:
    return LastGoodFile(tmp_path / "state" / "prod")


@pytest.fixture
def read(store: LastGoodFile) -> Read:
    def call(answer: Any, *, version: str = "2", now: float = 1000.0, **options: Any) -> AppConfigLayer:
        body = json.dumps(answer).encode() if isinstance(answer, dict) else answer
        return appconfig.read(environment(**options), BELOW, FakeAppConfig(body, version), store, now=lambda: now)
    return call


def values(layer: AppConfigLayer) -> dict[str, Any]:
    return {path: item.value for path, item in layer.values.items()}


def test_a_valid_document_is_applied_with_its_version(read: Read) -> None:
    layer = read(GOOD)
    assert values(layer) == {"vllm.port": 9000}
    assert layer.values["vllm.port"].source == Source(layer="appconfig", detail="judge-bootstrap/prod/judge-inference",
                                                      version="2", age_seconds=0, live=True)
    assert (layer.status, layer.warnings) == ("live", ())


def test_an_environment_without_appconfig_has_no_such_layer(read: Read, store: LastGoodFile) -> None:
    assert read(GOOD, ref=None) == AppConfigLayer("absent")
    assert store.read() is None


def test_a_document_that_sets_nothing_is_valid(read: Read) -> None:
    layer = read({"judge_inference": {}})
    assert (layer.status, values(layer)) == ("live", {})


@pytest.mark.parametrize("trouble", [AppConfigUnavailable("Connect timeout"), b"", b" \n", *INVALID.values()])
def test_the_last_good_copy_stands_in_with_its_version_and_age(read: Read, trouble: Any) -> None:
    read(GOOD, version="1", now=1000)
    layer = read(trouble, version="2", now=1000 + 3 * 3600)
    assert values(layer) == {"vllm.port": 9000}
    assert (layer.status, layer.version, layer.age_seconds) == ("last good", "1", 10_800)
    assert layer.values["vllm.port"].source.live is False
    assert [warning.endswith("; using the last good copy, version 1, 3 h old") for warning in layer.warnings] == [True]


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID.keys())
def test_an_invalid_document_never_replaces_the_last_good_copy(read: Read, store: LastGoodFile, body: bytes) -> None:
    read(GOOD, version="1")
    before = store.path.read_bytes()
    read(body)
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID.keys())
def test_an_invalid_document_sets_nothing_where_there_is_no_copy(read: Read, body: bytes) -> None:
    layer = read(body)
    assert (layer.status, values(layer)) == ("unavailable", {})
    assert layer.warnings[0].startswith("AppConfig judge-bootstrap/prod/judge-inference version 2 is invalid and not "
                                        "applied: ")
    assert layer.warnings[0].isprintable()


@pytest.mark.parametrize("trouble", [AppConfigUnavailable("down"), b"", b"{"])
def test_in_production_defaults_do_not_stand_in_for_a_document(read: Read, trouble: Any) -> None:
    with pytest.raises(UsageProblem, match="there is no last good copy, and in production"):
        read(trouble, production=True)


def test_in_production_the_last_good_copy_does(read: Read) -> None:
    read(GOOD, production=True)
    assert values(read(AppConfigUnavailable("down"), production=True)) == {"vllm.port": 9000}


def test_what_is_wrong_is_named_with_key_value_and_what_is_wanted(read: Read) -> None:
    layer = read({"judge_inference": {"model": {"max_model_len": "4k"}}}, version="9")
    assert layer.warnings == (
        'AppConfig judge-bootstrap/prod/judge-inference version 9 is invalid and not applied: '
        'judge_inference.model.max_model_len is "4k" (a text), wanted: a whole number of tokens from 1 to 10000000; '
        "there is no last good copy, so it sets nothing",)


def test_a_copy_of_another_application_is_not_used(read: Read) -> None:
    read(GOOD)
    other = AppConfigRef(application="other", environment="prod", profile="judge-inference")
    assert read(AppConfigUnavailable("down"), ref=other).status == "unavailable"


def test_a_copy_that_no_longer_fits_is_not_used(read: Read, store: LastGoodFile) -> None:
    store.write(LastGood("judge-bootstrap/prod/judge-inference (us-east-1)", "1", 0.0,
                         {"judge_inference": {"vllm": {"gone": 1}}}))
    layer = read(AppConfigUnavailable("down"))
    assert (layer.status, values(layer)) == ("unavailable", {})
    assert "the last good copy (version 1) does not fit this release: unknown key judge_inference.vllm.gone" in \
        layer.warnings[0]


def test_a_clock_that_went_back_makes_no_negative_age(read: Read) -> None:
    read(GOOD, now=1000)
    assert read(b"", now=10).age_seconds == 0


def test_the_copy_is_private(read: Read, store: LastGoodFile) -> None:
    read(GOOD)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in store.path.parent.iterdir()] == ["appconfig.json"]


def test_a_state_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LastGoodFile(tmp_path / "file" / "prod")
    layer = appconfig.read(environment(), BELOW, FakeAppConfig(json.dumps(GOOD).encode()), store, now=lambda: 0.0)
    assert values(layer) == {"vllm.port": 9000}
    assert layer.warnings[0].startswith("the AppConfig document could not be kept for the day AppConfig is down: ")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', b'{"schema": 2, "document": {}}',
                                     b'{"schema": 1, "origin": "x", "version": "1", "fetched_at": "x", "document": {}}',
                                     b'{"schema": 1, "origin": "x", "version": "1", "fetched_at": 1, "document": []}'])
def test_a_damaged_copy_is_no_copy(store: LastGoodFile, content: bytes) -> None:
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(content)
    assert store.read() is None


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"),
                                                (7200, "2 h"), (172_800, "2 days")])
def test_ages_read_as_people_say_them(seconds: int, words: str) -> None:
    assert age_words(seconds) == words


def test_a_pipe_in_the_place_of_the_copy_does_not_hold_the_run(store: LastGoodFile) -> None:
    store.path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(store.path)
    assert store.read() is None
