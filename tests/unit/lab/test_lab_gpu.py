"""The GPU stand-in speaks the device plugin API: exact bytes, and a registration against a fake kubelet."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from judge_lab import gpu


def fields(message: bytes) -> list[tuple[int, bytes]]:
    """Decode a protobuf message into (number, payload), as a reader that knows no schema would."""
    found, position = [], 0
    while position < len(message):
        number, kind = message[position] >> 3, message[position] & 7
        position += 1
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if kind == 0:
            found.append((number, bytes([value])))
            continue
        found.append((number, message[position : position + value]))
        position += value
    return found


def test_registration_is_the_documented_message() -> None:
    assert gpu.register_request() == b"\x0a\x07v1beta1\x12\x12judge-lab-gpu.sock\x1a\x0envidia.com/gpu"


def test_one_healthy_device_is_listed() -> None:
    assert gpu.device_list() == b"\x0a\x1a\x0a\x0fjudge-lab-gpu-0\x12\x07Healthy"


def test_an_allocation_mounts_vllm_read_only_and_sets_its_environment() -> None:
    answer = fields(gpu.allocation("/run/judge-lab/vllm", {"A": "1"}))
    assert [fields(payload) for _, payload in answer] == [
        [(1, b"A"), (2, b"1")],
        [(1, b"/opt/judge-lab/vllm"), (2, b"/run/judge-lab/vllm"), (3, b"\x01")],
    ]
    assert [number for number, _ in answer] == [1, 2]


def test_a_field_longer_than_127_bytes_has_a_length_of_two_bytes() -> None:
    assert gpu.field(2, "x" * 300)[:3] == b"\x12\xac\x02"
    assert fields(gpu.field(2, "x" * 300)) == [(2, b"x" * 300)]


@pytest.mark.parametrize("containers", [0, 1, 3])
def test_containers_of_a_request_are_counted(containers: int) -> None:
    request = gpu.field(1, gpu.field(1, "judge-lab-gpu-0" * 10)) * containers
    assert gpu.count_containers(request) == containers


class Kubelet:
    """Takes registrations, as kubelet does on kubelet.sock."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[bytes] = []
        self.registered = threading.Semaphore(0)
        self._server = grpc.server(ThreadPoolExecutor(1))
        handler = grpc.unary_unary_rpc_method_handler(self._register)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
        )
        self._server.add_insecure_port(f"unix:{folder}/kubelet.sock")
        self._server.start()

    def _register(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.requests.append(request)
        self.registered.release()
        return b""

    def stop(self) -> None:
        self._server.stop(grace=0).wait()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_the_plugin_registers_serves_and_registers_anew_after_kubelet_restarts(folder: Path) -> None:
    kubelet = Kubelet(folder)
    ended = threading.Event()
    server = threading.Thread(target=gpu.serve, args=("/run/judge-lab/vllm", ended))
    server.start()
    try:
        assert kubelet.registered.acquire(timeout=120)
        with grpc.insecure_channel(f"unix:{folder}/{gpu.SOCKET}") as channel:
            devices = next(iter(channel.unary_stream("/v1beta1.DevicePlugin/ListAndWatch")(b"", timeout=60)))
            answer = channel.unary_unary("/v1beta1.DevicePlugin/Allocate")(
                gpu.field(1, gpu.field(1, gpu.DEVICE)), timeout=60
            )
        assert devices == gpu.device_list()
        assert answer == gpu.field(1, gpu.allocation("/run/judge-lab/vllm", gpu.ENVIRONMENT))

        (folder / gpu.SOCKET).unlink()  # what a kubelet does when it starts
        assert kubelet.registered.acquire(timeout=120)
        assert kubelet.requests == [gpu.register_request()] * 2
    finally:
        ended.set()
        server.join(60)
        kubelet.stop()
    assert not server.is_alive()


def test_the_plugin_waits_for_a_kubelet_that_is_not_there_yet(folder: Path) -> None:
    ended = threading.Event()
    server = threading.Thread(target=gpu.serve, args=("/vllm", ended))
    server.start()
    time.sleep(0.05)
    kubelet = Kubelet(folder)
    try:
        assert kubelet.registered.acquire(timeout=120)
    finally:
        ended.set()
        server.join(60)
        kubelet.stop()
