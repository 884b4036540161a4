"""A local TCP port that leads to a port of a pod, as `kubectl port-forward` makes it, without kubectl.

A Service address is only reachable inside the cluster; a port-forward goes through the API server, so it works from
wherever the playbook runs, with the same credentials and no further opening in any firewall.
"""

from __future__ import annotations

import copy
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

_CHUNK_BYTES = 65536
_END_SECONDS = 5.0


class Stream(Protocol):
    """The end of a connection to the pod: what a socket can, as far as it is needed here."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...

    def shutdown(self, how: int, /) -> None: ...

    def close(self) -> None: ...


@contextmanager
def forward(api_client: Any, namespace: str, pod: str, port: int) -> Iterator[str]:
    """Yield `http://127.0.0.1:N`, where N leads to `port` of the pod until the block ends.

    Each connection gets a stream of its own, because the API server's carry one connection each. A connection that the
    API server or the pod refuses is closed at once, which the caller sees as a reset.
    """
    with relay(lambda: open_stream(api_client, namespace, pod, port)) as local_port:
        yield f"http://127.0.0.1:{local_port}"


@contextmanager
def relay(open_stream: Callable[[], Stream]) -> Iterator[int]:
    """Yield a local TCP port; each connection to it is carried by a new stream. All are closed when the block ends.

    `open_stream` is called from a thread for each connection, several at once; one that hangs keeps no other waiting.
    """
    carried: list[_Carried] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        acceptor = threading.Thread(target=_accept, args=(server, open_stream, carried), daemon=True)
        acceptor.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            # Closing a listening socket does not wake its accept(); shutting it down does.
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join(_END_SECONDS)
            for one in carried:
                one.wake()
            give_up = time.monotonic() + _END_SECONDS
            for one in carried:
                one.join(max(0.0, give_up - time.monotonic()))


def _accept(server: socket.socket, open_stream: Callable[[], Stream], carried: list[_Carried]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        carried[:] = [one for one in carried if not one.is_over]
        carried.append(_Carried(connection, open_stream))


class _Carried:
    """One connection and the stream that carries it, with a thread for each direction; closed when either side ends."""

    def __init__(self, connection: socket.socket, open_stream: Callable[[], Stream]) -> None:
        self._connection, self._open_stream = connection, open_stream
        self._stream: Stream | None = None
        self._woken = False
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether both sides are closed."""
        return not self._thread.is_alive()

    def wake(self) -> None:
        """End both directions."""
        self._woken = True
        # Only shutting down wakes a thread in recv(); closing would not, and the number could go to another file.
        for side in (self._connection, self._stream):
            if side is not None:
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def join(self, seconds: float) -> None:
        """Wait until both sides are closed."""
        self._thread.join(seconds)

    def _carry(self) -> None:
        with self._connection:
            try:
                self._stream = self._open_stream()
            except Exception:  # whatever the client raises, the caller's connection must not hang
                return
            if self._woken:
                self.wake()
            back = threading.Thread(target=self._pump, args=(self._stream, self._connection), daemon=True)
            back.start()
            self._pump(self._connection, self._stream)
            back.join()
            with suppress(OSError):
                self._stream.close()

    def _pump(self, source: Stream, sink: Stream) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                sink.sendall(data)
        # Either side's end ends both: an HTTP client never half-closes.
        self.wake()


def open_stream(api_client: Any, namespace: str, pod: str, port: int) -> Stream:
    """Return a new connection to a port of a pod. Raises what the Kubernetes client does when it is refused."""
    from kubernetes import client, stream

    # portforward() replaces the client's request method while it runs: that of a copy, so that several at once, or a
    # call that somebody else makes meanwhile, do not mix up.
    own = client.CoreV1Api(copy.copy(api_client))
    opened = stream.portforward(own.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
    end: Stream = opened.socket(port)
    return end
