"""One local address for all ready pods: connections are shared out, and a pod that goes away gets no new one."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from judge_bootstrap.adapters.judge_pods import LEFT_OUT_SECONDS, LOOK_SECONDS, Spread
from judge_bootstrap.adapters.port_forward import relay
from judge_client import AsyncJudgeClient
from judge_client.batch import Progress, Summary, run_batch
from judge_drills.standin import standing_in


@dataclass
class FakeStream:
    """A connection to a pod. `says`: what the pod sends before it ends the connection."""

    says: list[bytes] = field(default_factory=list)
    closed: bool = False

    def recv(self, size: int, /) -> bytes:
        return self.says.pop(0) if self.says else b""

    def sendall(self, data: bytes, /) -> None:
        return

    def shutdown(self, how: int, /) -> None:
        return

    def close(self) -> None:
        self.closed = True


@dataclass
class FakePods:
    """Pods by name; those in `refusing` take no connection. `ready` is what the cluster says, None: nothing."""

    ready: list[str] | None = field(default_factory=lambda: ["p-1", "p-2"])
    refusing: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)
    looked: int = 0
    now: float = 0.0

    def spread(self) -> Spread:
        return Spread(self.ready or [], self.find, self.open_to, lambda: self.now)

    def find(self) -> list[str]:
        self.looked += 1
        if self.ready is None:
            raise TimeoutError
        return self.ready

    def open_to(self, pod: str) -> FakeStream:
        if pod in self.refusing:
            raise ConnectionRefusedError(pod)
        self.opened.append(pod)
        return FakeStream()


def test_connections_are_shared_out_by_what_each_pod_carries_now() -> None:
    pods = FakePods()
    spread = pods.spread()
    streams = [spread.open() for _ in range(4)]
    assert sorted(pods.opened) == ["p-1", "p-1", "p-2", "p-2"]
    on_second = [stream for stream, pod in zip(streams, pods.opened, strict=True) if pod == "p-2"]
    for stream in on_second:
        stream.shutdown(socket.SHUT_RDWR)  # our side ended it, which says nothing about the pod
        stream.close()
    pods.opened.clear()
    spread.open()
    spread.open()
    assert pods.opened == ["p-2", "p-2"]


def test_a_pod_that_takes_no_connection_is_left_out_and_the_next_one_asked() -> None:
    pods = FakePods(refusing={"p-1"})
    spread = pods.spread()
    for _ in range(3):
        spread.open()
    assert pods.opened == ["p-2"] * 3
    pods.refusing.clear()
    spread.open()
    assert pods.opened[-1] == "p-2", "it is left out for a while, not only for one connection"
    pods.now += LEFT_OUT_SECONDS
    spread.open()
    assert pods.opened[-1] == "p-1"


def test_a_pod_that_ends_a_connection_without_a_word_is_left_out() -> None:
    pods = FakePods()
    spread = pods.spread()
    first = spread.open()
    assert (pods.opened, first.recv(1)) == (["p-1"], b"")
    first.close()
    for _ in range(2):
        spread.open()
    assert pods.opened[1:] == ["p-2", "p-2"]


def test_a_pod_that_ends_a_connection_after_an_answer_is_not_left_out() -> None:
    pods = FakePods(ready=["p-1"])
    spread = pods.spread()
    stream = spread.open()
    stream._stream.says.append(b"HTTP/1.1 200 OK")  # type: ignore[attr-defined]
    assert (stream.recv(99), stream.recv(99)) == (b"HTTP/1.1 200 OK", b"")
    stream.close()
    spread.open()
    assert pods.looked == 0, "the cluster is asked again only where no pod is left"


def test_the_pods_that_came_meanwhile_are_taken_when_all_known_ones_have_gone() -> None:
    pods = FakePods(ready=["old-1"])
    spread = pods.spread()
    pods.ready, pods.refusing = ["new-1"], {"old-1"}
    spread.open()
    assert (pods.opened, pods.looked) == (["new-1"], 1)


def test_the_only_pod_is_tried_again_at_once() -> None:
    pods = FakePods(ready=["p-1"], refusing={"p-1"})
    spread = pods.spread()
    with pytest.raises(ConnectionError, match="no pod takes a connection"):
        spread.open()
    pods.refusing.clear()
    spread.open()
    assert pods.opened == ["p-1"]


def test_a_new_replica_gets_its_share_after_a_while() -> None:
    pods = FakePods(ready=["p-1"])
    spread = pods.spread()
    spread.open()
    pods.ready = ["p-1", "p-2"]
    pods.now += LOOK_SECONDS
    spread.open()
    assert pods.opened == ["p-1", "p-2"]


def test_a_cluster_that_does_not_answer_keeps_nobody_from_the_pods_that_are_known() -> None:
    pods = FakePods()
    spread = pods.spread()
    pods.ready = None
    pods.now += LOOK_SECONDS
    spread.open()
    assert (pods.opened, pods.looked) == (["p-1"], 1)


# --- the relay under it ----------------------------------------------------------------------------------------------


@contextmanager
def echo() -> Iterator[tuple[str, int]]:
    """Yield the address of a server that says back what it is told, once, and ends the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(connection.recv(99))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def said_back(port: int, word: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(word)
        found = b""
        while data := connection.recv(99):
            found += data
        return found


def test_what_has_ended_is_closed_while_others_go_on() -> None:
    opened: list[socket.socket] = []
    with echo() as address:
        def open_stream() -> socket.socket:
            opened.append(socket.create_connection(address))
            return opened[-1]

        with relay(open_stream) as port:
            for number in range(50):
                assert said_back(port, b"%d" % number) == b"%d" % number
            waited = threading.Event()
            for _ in range(3000):
                if sum(stream.fileno() != -1 for stream in opened) <= 1:
                    break
                waited.wait(0.02)
            assert sum(stream.fileno() != -1 for stream in opened) <= 1, "a long batch would run out of files"


def test_a_pod_that_hangs_while_it_is_connected_to_keeps_no_other_connection_waiting() -> None:
    hang, first = threading.Event(), threading.Event()
    with echo() as address:
        def open_stream() -> socket.socket:
            if not first.is_set():
                first.set()
                hang.wait(30)
            return socket.create_connection(address)

        with relay(open_stream) as port, socket.create_connection(("127.0.0.1", port)):
            assert first.wait(30)
            assert said_back(port, b"word") == b"word"
            hang.set()


def test_a_batch_loses_nothing_when_a_pod_goes_away(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"prompt": f"q{number}", "response": f"r{number}"}) + "\n"
                             for number in range(200)))
    opened: list[str] = []
    with standing_in(seconds=0.02) as stays, standing_in(seconds=0.02) as goes:
        places = {"stays": urlsplit(stays.url), "goes": urlsplit(goes.url)}

        def open_to(pod: str) -> socket.socket:
            opened.append(pod)
            return socket.create_connection((str(places[pod].hostname), int(places[pod].port or 0)), timeout=30)

        def watch(progress: Progress) -> None:
            if progress.done >= 60 and "goes" in opened:
                goes.process.kill()

        spread = Spread(list(places), lambda: list(places), open_to)
        with relay(spread.open) as port:
            async def judged() -> Summary:
                async with AsyncJudgeClient(f"http://127.0.0.1:{port}", timeout_seconds=30) as client:
                    return await run_batch(client, items, tmp_path / "out.jsonl", window=8, canaries=(), progress=watch)

            summary = asyncio.run(judged())
        assert goes.process.poll() is not None, "it went away in the middle"
    assert (summary.total, summary.scored, summary.errored) == (200, 200, 0)
    assert {"goes", "stays"} == set(opened)
