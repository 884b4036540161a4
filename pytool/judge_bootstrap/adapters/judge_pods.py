"""The ready pods of a judge, and one local address that leads to all of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from judge_bootstrap.adapters.port_forward import Stream, open_stream, relay

# How long a pod that took no connection, or ended one without an answer, gets no new one.
LEFT_OUT_SECONDS = 30.0
# How often it is asked which pods are ready, while connections are made.
LOOK_SECONDS = 30.0


@dataclass(frozen=True)
class ReadyPod:
    """A ready pod and the name its model answers to."""

    pod: str
    model: str


def ready_pods(api_client: Any, namespace: str, labels: str) -> list[ReadyPod]:
    """Return the serving pods that are ready, with the first of the names that they serve under.

    Raises BootstrapError when the cluster does not say.
    """
    from judge_bootstrap.adapters.objects import listed
    from judge_bootstrap.core.health import served_names
    from judge_bootstrap.core.kube_objects import condition, name_of

    found = []
    for pod in listed(api_client, "v1", "Pod", namespace=namespace, labels=labels):
        ready = (condition(pod, "Ready") or {}).get("status") == "True"
        names = served_names(pod)
        if ready and names and "deletionTimestamp" not in pod["metadata"]:
            found.append(ReadyPod(name_of(pod), names[0]))
    return found


@contextmanager
def forward_to_all(api_client: Any, namespace: str, labels: str, port: int, model: str) -> Iterator[str]:
    """Yield `http://127.0.0.1:N`, where each new connection to N goes to one of the ready pods that serve `model`."""
    def find() -> list[str]:
        return [one.pod for one in ready_pods(api_client, namespace, labels) if one.model == model]

    pods = Spread(find(), find, lambda pod: open_stream(api_client, namespace, pod, port))
    with relay(pods.open) as local_port:
        yield f"http://127.0.0.1:{local_port}"


class Spread:
    """Gives each new connection to the pod that carries the fewest. One that goes away is left out for a while.

    `pods` are those that are ready now, `find` returns those that are later; `open_to` connects to one. Both may raise
    anything.
    """

    def __init__(self, pods: Sequence[str], find: Callable[[], Sequence[str]], open_to: Callable[[str], Stream],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._find, self._open_to, self._clock = find, open_to, clock
        self._lock = threading.Lock()
        self._pods, self._looked = pods, clock()
        self._carried: Counter[str] = Counter()
        self._left_out: dict[str, float] = {}

    def open(self) -> Stream:
        """Return a connection to a pod. Raises ConnectionError when none takes it."""
        if self._is_time_to_look():
            with suppress(Exception):  # those that are known may well answer, whatever the API server does
                self._look()
        stream = self._first_that_takes_it()
        if stream is None:
            # All are left out, or none is known: those that are ready now get another try.
            self._look()
            with self._lock:
                self._left_out.clear()
            stream = self._first_that_takes_it()
        if stream is None:
            raise ConnectionError("no pod takes a connection")
        return stream

    def _first_that_takes_it(self) -> Stream | None:
        tried: set[str] = set()
        while (pod := self._take(tried)) is not None:
            try:
                return _Counted(self._open_to(pod), partial(self._ended, pod))
            except Exception:  # the Kubernetes client raises many kinds; the next pod is asked
                self._ended(pod, True)
                tried.add(pod)
        return None

    def _is_time_to_look(self) -> bool:
        """Tell one of the threads that ask so, and no other until the next time."""
        with self._lock:
            now = self._clock()
            if now - self._looked < LOOK_SECONDS:
                return False
            self._looked = now
            return True

    def _look(self) -> None:
        self._pods = self._find()

    def _take(self, tried: set[str]) -> str | None:
        """Return the pod that is to have the next connection, and count it."""
        with self._lock:
            now = self._clock()
            fit = [pod for pod in self._pods if pod not in tried and self._left_out.get(pod, now) <= now]
            if not fit:
                return None
            pod = min(fit, key=lambda one: self._carried[one])
            self._carried[pod] += 1
            return pod

    def _ended(self, pod: str, silent: bool) -> None:
        with self._lock:
            self._carried[pod] -= 1
            if silent:
                self._left_out[pod] = self._clock() + LEFT_OUT_SECONDS


class _Counted:
    """A stream that tells, when it is closed, whether the pod ended it without ever having said a word."""

    def __init__(self, stream: Stream, ended: Callable[[bool], None]) -> None:
        self._stream, self._tell = stream, ended
        self._heard = self._silent = self._ours = self._told = False

    def recv(self, size: int, /) -> bytes:
        data = b""
        try:
            data = self._stream.recv(size)
        finally:
            self._heard = self._heard or bool(data)
            # Behind a port that nobody listens on a stream can be opened all the same; it ends at once.
            self._silent = self._silent or not (self._heard or self._ours)
        return data

    def sendall(self, data: bytes, /) -> None:
        self._stream.sendall(data)

    def shutdown(self, how: int, /) -> None:
        self._ours = True
        self._stream.shutdown(how)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            if not self._told:
                self._told = True
                self._tell(self._silent)
