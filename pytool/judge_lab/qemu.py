"""Talks to one QEMU process: its control socket (QMP), and the names that its NVMe devices tell the guest.

QEMU's NVMe device has a property for its serial and none for its model, which is always "QEMU NVMe Ctrl". So a machine
is started paused, the answer to Identify Controller is corrected in QEMU's memory, and then the guest may begin. What
this depends on is the answer's layout, which the NVMe specification fixes, and that QEMU keeps it ready (7.2 does, and
so did every version looked at); the number of answers found is checked, and vm.py asks the guest what it sees.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from judge_lab import LabError
from judge_lab.process import Process

SOCKET = "qmp"  # in the machine's directory

# NVM Express Base Specification, Identify Controller: PCI vendor ids (2 + 2 bytes), serial, model, and the optional
# admin commands (a 16-bit field).
_VENDOR_BYTES, _SERIAL_BYTES, _MODEL_BYTES = 4, 20, 40
_COMMANDS_AFTER_MODEL = 256 - _VENDOR_BYTES - _SERIAL_BYTES
_DOORBELL_BUFFER = 1 << 8
_QEMU_MODEL = b"QEMU NVMe Ctrl".ljust(_MODEL_BYTES)
_AMAZON = (0x1D0F).to_bytes(2, "little") * 2
_LARGEST_MAPPING_BYTES = 128 * 1024**2  # the guest's memory is larger, and holds nothing yet


class Control:
    """An open QMP connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._rest = connection, b""

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer. Raises LabError with what QEMU said against it."""
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            message = self.read()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise LabError(f"QEMU refused {command}: {message['error'].get('desc')}")

    def human(self, line: str) -> str:
        """Run a command of QEMU's console for people, and return what it printed."""
        return str(self("human-monitor-command", **{"command-line": line}))

    def read(self) -> dict[str, Any]:
        """Return the next message: an answer, or an event."""
        while b"\n" not in self._rest:
            received = self._connection.recv(65536)
            if not received:
                raise LabError("QEMU ended while it was asked", hint="its log and console lie in the machine's folder")
            self._rest += received
        line, self._rest = self._rest.split(b"\n", 1)
        content: dict[str, Any] = json.loads(line)
        return content


@contextmanager
def control(folder: Path) -> Iterator[Control]:
    """Connect to the QEMU whose socket lies in `folder`; raises OSError while it does not listen."""
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(120)
            # The address of a socket has 107 bytes at most, and a test's directory may be longer than that.
            connection.connect(f"/proc/self/fd/{directory}/{SOCKET}")
            opened = Control(connection)
            opened.read()  # the greeting
            opened("qmp_capabilities")
            yield opened
    finally:
        os.close(directory)


def name_disks(process: Process, models: Mapping[str, str]) -> None:
    """Give the NVMe devices of a paused QEMU their models, by serial, and Amazon's vendor id.

    The doorbell buffer is taken out of what they offer: with it, QEMU 7.2 on emulated CPUs now and then overlooks a
    command, and the guest's I/O hangs for good ("nvme: I/O timeout, reset controller" again and again).
    Raises LabError if a device's answer is not found exactly once, or if this user may not write QEMU's memory.
    """
    found: dict[str, int] = {}
    try:
        memory = os.open(f"/proc/{process.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        raise LabError(
            "may not write the memory of QEMU, where the NVMe models are set", hint="run it as root (sudo -E)"
        ) from None
    try:
        for address, serial in _answers(process, memory):
            if serial in models:
                found[serial] = found.get(serial, 0) + 1
                model = models[serial].encode("ascii").ljust(_MODEL_BYTES)
                os.pwrite(memory, model, address)
                os.pwrite(memory, _AMAZON, address - _SERIAL_BYTES - _VENDOR_BYTES)
                commands = int.from_bytes(os.pread(memory, 2, address + _COMMANDS_AFTER_MODEL), "little")
                offered = (commands & ~_DOORBELL_BUFFER).to_bytes(2, "little")
                os.pwrite(memory, offered, address + _COMMANDS_AFTER_MODEL)
    finally:
        os.close(memory)
    if found != dict.fromkeys(models, 1):
        raise LabError(
            f"found the Identify answers of {found or 'no NVMe device'} in QEMU's memory, wanted one for each of "
            f"{', '.join(models)}: this QEMU keeps them in another way",
            hint="qemu-system-x86_64 --version: 7.2 is known to work",
        )


def _answers(process: Process, memory: int) -> Iterator[tuple[int, str]]:
    """Yield (address of the model, serial) of every Identify answer that still has QEMU's model."""
    for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if not rights.startswith("rw") or end - start > _LARGEST_MAPPING_BYTES:
            continue
        try:
            content = os.pread(memory, end - start, start)
        except OSError:  # a device's mapping
            continue
        at = content.find(_QEMU_MODEL)
        while at >= 0:
            if at >= _SERIAL_BYTES + _VENDOR_BYTES:
                yield start + at, content[at - _SERIAL_BYTES : at].decode("ascii", "replace").rstrip(" ")
            at = content.find(_QEMU_MODEL, at + 1)
