"""A stand-in for the GPU: a Kubernetes device plugin that advertises `nvidia.com/gpu: 1`.

    python -m judge_lab.gpu --folder NODE_VAR_LIB_KUBELET/device-plugins --vllm DIR

Where the real plugin brings driver libraries into the containers that ask for a GPU, this one brings the CPU build of
vLLM. So the pod's spec stays the one that production gets, and Pod Security has no say in what is mounted.

It runs on the host: only files are shared with kubelet, and a Unix socket is one. Messages are of the device plugin API
v1beta1; they are few and small, so they are written by hand and need no generated code.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from judge_lab.images import CONTAINER_VLLM_DIR

RESOURCE = "nvidia.com/gpu"
SOCKET = "judge-lab-gpu.sock"
DEVICE = "judge-lab-gpu-0"
_POLL_SECONDS = 0.3
# One GiB is far more than the tiny model can use. Without `nobind` the vLLMs of two nodes would choose the same core.
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}


def field(number: int, value: bytes | str | bool) -> bytes:
    """Encode one protobuf field: text, bytes or an embedded message, or a bool."""
    if isinstance(value, bool):
        return bytes([number << 3, int(value)])
    raw = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2]) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def count_containers(allocate_request: bytes) -> int:
    """Return how many containers an AllocateRequest asks for: its top-level fields 1, each with a length."""
    count = position = 0
    while position < len(allocate_request):
        position += 1  # every field is number 1, type 2
        length = shift = 0
        while True:
            byte = allocate_request[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        position += length
        count += 1
    return count


def register_request() -> bytes:
    return field(1, "v1beta1") + field(2, SOCKET) + field(3, RESOURCE)


def device_list() -> bytes:
    return field(1, field(1, DEVICE) + field(2, "Healthy"))


def allocation(vllm: str, environment: Mapping[str, str]) -> bytes:
    """Return a ContainerAllocateResponse: environment (field 1, a map) and mounts (field 2)."""
    variables = b"".join(field(1, field(1, name) + field(2, value)) for name, value in environment.items())
    return variables + field(2, field(1, CONTAINER_VLLM_DIR) + field(2, vllm) + field(3, True))


class Plugin:
    """The device plugin's server. `vllm` is the directory to mount, as the node sees it."""

    def __init__(self, vllm: str) -> None:
        self._vllm = vllm
        self._ended = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(4))
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "v1beta1.DevicePlugin",
                    {
                        "GetDevicePluginOptions": unary(lambda request, context: b""),
                        "ListAndWatch": stream(self._watch),
                        "Allocate": unary(self._allocate),
                        "PreStartContainer": unary(lambda request, context: b""),
                    },
                ),
            )
        )
        # Relative to the folder: a socket's path may have 107 characters only.
        self._server.add_insecure_port(f"unix:{SOCKET}")

    def _watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield device_list()
        while context.is_active() and not self._ended.wait(1):  # the stream stays open as long as the device is there
            pass

    def _allocate(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return field(1, allocation(self._vllm, ENVIRONMENT)) * count_containers(request)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._ended.set()
        self._server.stop(grace=0).wait()


def register() -> None:
    """Announce the plugin to the kubelet whose socket lies in the current directory; raises grpc.RpcError."""
    with grpc.insecure_channel("unix:kubelet.sock") as channel:
        channel.unary_unary("/v1beta1.Registration/Register")(register_request(), timeout=5)


def serve(vllm: str, ended: threading.Event) -> None:
    """Serve in the current directory until `ended`; announce anew whenever kubelet starts, which deletes our socket."""
    while not ended.is_set():
        if not Path("kubelet.sock").exists():
            ended.wait(_POLL_SECONDS)
            continue
        Path(SOCKET).unlink(missing_ok=True)
        plugin = Plugin(vllm)
        plugin.start()
        try:
            register()
            while Path(SOCKET).exists() and not ended.wait(_POLL_SECONDS):
                pass
        except grpc.RpcError:
            ended.wait(_POLL_SECONDS)  # the socket of a kubelet that is gone, or it is not ready yet
        plugin.stop()


def main(argv: list[str] | None = None) -> int:
    """Run the device plugin of one node until it is killed."""
    parser = argparse.ArgumentParser(
        prog="python -m judge_lab.gpu", description=RESOURCE + " stand-in for one lab node."
    )
    parser.add_argument(
        "--folder", required=True, help="the node's /var/lib/kubelet/device-plugins, as this process sees it"
    )
    parser.add_argument("--vllm", required=True, help="the CPU build of vLLM, as the node sees it")
    options = parser.parse_args(argv)
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    serve(options.vllm, threading.Event())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
