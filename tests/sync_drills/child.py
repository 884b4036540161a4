"""judge-node as it is, on any filesystem: python child.py cache sync MANIFEST --store STORE ...

The program itself refuses the root filesystem, where the drills' folders usually are. And little waits for it in the
kernel: what is there when it is killed was sent, but nobody got it, and where the machine is slow that would be a lot.
"""

from __future__ import annotations

import http.client
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "pytool"))

from judge_node.cache import sync
from judge_node.unchanged import main

_RECEIVE_BYTES = 128 << 10


class Connection(http.client.HTTPConnection):
    """A connection with a small buffer."""

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)


if __name__ == "__main__":
    http.client.HTTPConnection = Connection  # type: ignore[misc]
    assert sync.sync.__kwdefaults__ is not None
    sync.sync.__kwdefaults__["guard"] = lambda root: None
    sys.exit(main())
