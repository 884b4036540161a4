"""Logs of many containers as one stream: read once in the order of their time, or followed as they grow.

A follower outlives what ends under it: a stream that breaks is opened again where it was, a container that restarts is
read to its end first, a pod that comes is picked up, a pod that goes is forgotten.
"""

from __future__ import annotations

import heapq
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import IO, Any, Protocol
from urllib.parse import quote

from judge_bootstrap.adapters.kube import ask
from judge_bootstrap.adapters.parallel import each
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.kube_objects import name_of
from judge_bootstrap.core.log_lines import Line, Seen, Source, in_order, parse_line, stamp_of

AT_ONCE = 8
# Until a pod that came is seen; its log is read from its first line all the same.
POLL_SECONDS = 2.0
# A stream that says nothing for so long may be dead: between us and the kubelet somebody may have forgotten it.
QUIET_SECONDS = 240.0
# Lines of several pods wait so long for older ones, so that they stand in order.
HOLD_SECONDS = 0.3
PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
# Up to this size a log that was read waits in memory, beyond it in a file.
_IN_MEMORY_BYTES = 1 << 20
_MOST_WAITING = 20_000


class NoLog(Exception):
    """There is no such log: the container was not started yet, or the pod is gone."""


@dataclass(frozen=True)
class Wanted:
    """Which part of the logs. `since_seconds`: no older than that; `tail`: so many lines of each container at most."""

    since_seconds: int | None = None
    tail: int | None = None
    previous: bool = False


@dataclass(frozen=True)
class Container:
    """A container that has, or had, something to say. `restarts` tells one life of it from the next."""

    source: Source
    node: str | None
    running: bool
    restarts: int


class Cluster(Protocol):
    """What is asked of the API server. Each call raises BootstrapError when it does not answer or says no."""

    def pods(self, namespace: str, labels: str) -> list[Mapping[str, Any]]: ...

    def lines(self, source: Source, *, follow: bool = False, previous: bool = False, since_seconds: int | None = None,
              since: int | None = None, tail: int | None = None) -> Iterator[str]:
        """Yield the log's lines with their stamps. Raises NoLog; OSError when the stream breaks under way."""


# Where pods are: (namespace, label selector).
Places = Sequence[tuple[str, str]]


def find(cluster: Cluster, places: Places) -> list[Container]:
    """Return the containers of all pods there, init containers too, that were ever started."""
    found = []
    for namespace, labels in places:
        for pod in cluster.pods(namespace, labels):
            status = pod.get("status") or {}
            for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or []),
                        *(status.get("ephemeralContainerStatuses") or [])]:
                state = one.get("state") or {}
                if "waiting" in state and not one.get("lastState") or not state:
                    continue
                found.append(Container(Source(namespace, name_of(pod), str(one["name"])), pod["spec"].get("nodeName"),
                                       "running" in state, int(one.get("restartCount", 0))))
    return found


def read(cluster: Cluster, containers: Sequence[Container], wanted: Wanted, seen: Mapping[Source, Seen],
         failed: Callable[[Source, BootstrapError], None]) -> Iterator[Line]:
    """Yield what the logs hold now, oldest first, and note it in `seen`; a log that cannot be read is told."""
    # With no line wanted the last one is read all the same: it says where to go on.
    asked = Wanted(wanted.since_seconds, 1, wanted.previous) if wanted.tail == 0 else wanted

    def fetch(container: Container) -> IO[bytes] | None:
        spool = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - closed when all are merged
        try:
            for line in cluster.lines(container.source, previous=asked.previous, since_seconds=asked.since_seconds,
                                      tail=asked.tail):
                spool.write(line.encode("utf-8", "surrogateescape") + b"\n")
        except NoLog:
            spool.close()
            return None
        except BootstrapError as error:
            failed(container.source, error)
        except OSError as error:
            failed(container.source, BootstrapError(f"its log broke off: {error}", reason="CLUSTER_UNREACHABLE"))
        spool.seek(0)
        return spool

    spools = each(fetch, containers, AT_ONCE)
    try:
        streams = [_parsed((raw.decode("utf-8", "surrogateescape").removesuffix("\n") for raw in spool),
                           container.source)
                   for container, spool in zip(containers, spools, strict=True) if spool is not None]
        for line in in_order(streams):
            seen[line.source].is_new(line)
            if wanted.tail != 0:
                yield line
    finally:
        for spool in spools:
            if spool is not None:
                spool.close()


def _parsed(raws: Iterator[str], source: Source) -> Iterator[Line]:
    at = 0
    for raw in raws:
        line = parse_line(raw, source, at)
        at = line.at
        yield line


@dataclass
class Follower:
    """Follows the containers of some pods until it is stopped.

    `chosen` says which containers; `warn` is told once what cannot be read. `seen` is what `read` showed already.
    """

    cluster: Cluster
    places: Places
    chosen: Callable[[Container], bool]
    warn: Callable[[str], None]
    wanted: Wanted = field(default_factory=Wanted)
    seen: dict[Source, Seen] = field(default_factory=dict)
    poll_seconds: float = POLL_SECONDS
    pause_seconds: float = PAUSE_SECONDS
    hold_seconds: float = HOLD_SECONDS
    on_found: Callable[[Container], None] = lambda container: None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lines: queue.Queue[Line] = queue.Queue(_MOST_WAITING)
        # Written by the poller alone; what a follower reads may be a moment old.
        self._now: dict[Source, Container] = {}
        self._started: set[Source] = set()
        self._began = time.monotonic()

    def lines(self, first: Sequence[Container]) -> Iterator[Line]:
        """Yield lines as they come; `first` are the containers that `read` has read. Ends when it is closed."""
        self._take(first, known=True)
        poller = threading.Thread(target=self._poll, daemon=True, name="pods")
        poller.start()
        # (in the order of their time, the number of arrival) -> kept for a moment
        waiting: list[tuple[int, int, float, Line]] = []
        newest: dict[Source, int] = {}
        numbers = count()
        try:
            while not self._stop.is_set():
                try:
                    line = self._lines.get(timeout=min(0.1, self.hold_seconds))
                    newest[line.source] = max(line.at, newest.get(line.source, 0))
                    heapq.heappush(waiting, (newest[line.source], next(numbers), time.monotonic(), line))
                except queue.Empty:
                    pass
                while waiting and (time.monotonic() - waiting[0][2] >= self.hold_seconds
                                   or len(waiting) > _MOST_WAITING):
                    yield heapq.heappop(waiting)[3]
        finally:
            self._stop.set()

    def stop(self) -> None:
        """End the stream at its next line or pause."""
        self._stop.set()

    def _poll(self) -> None:
        silent = False
        while not self._stop.wait(self.poll_seconds):
            try:
                found = find(self.cluster, self.places)
            except BootstrapError as error:
                if not silent:
                    self.warn(f"the pods cannot be listed now, which is tried again: {error.message}")
                silent = True
                continue
            silent = False
            self._take(found, known=False)

    def _take(self, found: Sequence[Container], *, known: bool) -> None:
        chosen = {one.source: one for one in found if self.chosen(one)}
        self._now = chosen
        for source, container in chosen.items():
            if source in self._started:
                continue
            self._started.add(source)
            if not known:
                self.on_found(container)
            seen = self.seen.setdefault(source, Seen())
            threading.Thread(target=self._follow, args=(container, seen, known), daemon=True).start()

    def _follow(self, container: Container, seen: Seen, known: bool) -> None:
        """Follow one container through its lives, until its pod is gone."""
        source, life, told = container.source, container.restarts, False
        pause, drained = self.pause_seconds, -1
        while not self._stop.is_set():
            now = self._now.get(source)
            if now is None:
                self._started.discard(source)
                return
            try:
                if now.restarts > life:
                    # The life before this one may have said more after its stream broke.
                    life, drained = now.restarts, -1
                    with suppress(NoLog):
                        self._hand_on(source, seen, known, previous=True)
                if now.running:
                    got = self._hand_on(source, seen, known, follow=True)
                elif drained != life:
                    got, drained = self._hand_on(source, seen, known), life
                else:
                    got = False
                pause = self.pause_seconds if got else min(LONGEST_PAUSE_SECONDS, pause * 2)
            except NoLog:
                pass
            except BootstrapError as error:
                if error.reason == "CLUSTER_DENIED":
                    self.warn(f"{source.pod}/{source.container}: {error.message}")
                    return
                if not told:
                    self.warn(f"{source.pod}/{source.container} cannot be read now, which is tried again: "
                              f"{error.message}")
                told, pause = True, min(LONGEST_PAUSE_SECONDS, pause * 2)
            except OSError:
                pass  # a stream that broke: it goes on where it was
            self._stop.wait(pause)

    def _hand_on(self, source: Source, seen: Seen, known: bool, *, follow: bool = False, previous: bool = False,
                 looked_back: bool = False) -> bool:
        """Open the stream where it was and hand on what is new; return whether anything was.

        The container may have restarted since, before the cluster says so: then this is its next life, and what it
        wrote last in the one before is read first.
        """
        seen.reopened()
        since_seconds = None
        if seen.since is None and known and self.wanted.since_seconds is not None:
            since_seconds = self.wanted.since_seconds + int(time.monotonic() - self._began) + 1
        got = False
        stream = self.cluster.lines(source, follow=follow, previous=previous, since=seen.since,
                                    since_seconds=since_seconds)
        for line in _parsed(stream, source):
            if self._stop.is_set():
                return got
            if seen.is_other(line) and not previous and not looked_back:
                with suppress(NoLog):
                    got = self._hand_on(source, seen, known, previous=True)
                return self._hand_on(source, seen, known, follow=follow, looked_back=True) or got
            if seen.is_new(line):
                got = True
                self._put(line)
        return got

    def _put(self, line: Line) -> None:
        while not self._stop.is_set():
            try:
                self._lines.put(line, timeout=0.5)
                return
            except queue.Full:
                continue


class KubernetesCluster:
    """The real one."""

    def __init__(self, api_client: Any) -> None:
        self._api_client = api_client

    def pods(self, namespace: str, labels: str) -> list[Mapping[str, Any]]:
        """Return the pods; of a namespace that is not there, none."""
        from judge_bootstrap.adapters.objects import listed

        return list(listed(self._api_client, "v1", "Pod", namespace=namespace, labels=labels))

    def lines(self, source: Source, *, follow: bool = False, previous: bool = False, since_seconds: int | None = None,
              since: int | None = None, tail: int | None = None) -> Iterator[str]:
        """Yield the lines of a log as they come."""
        from kubernetes.client.exceptions import ApiException

        query = [("container", source.container), ("timestamps", "true")]
        query += [("follow", "true")] if follow else []
        query += [("previous", "true")] if previous else []
        query += [("tailLines", str(tail))] if tail is not None else []
        if since is not None:
            query.append(("sinceTime", stamp_of(since * 1_000_000_000)))
        elif since_seconds is not None:
            query.append(("sinceSeconds", str(max(1, since_seconds))))
        path = f"/api/v1/namespaces/{quote(source.namespace)}/pods/{quote(source.pod)}/log"

        def call() -> Any:
            try:
                return self._api_client.call_api(
                    path, "GET", query_params=query, header_params={"Accept": "*/*"}, auth_settings=["BearerToken"],
                    _preload_content=False, **({"_request_timeout": (5.0, QUIET_SECONDS)} if follow else {}))
            except ApiException as error:
                # 400: not started yet, or no life before this one; 404: the pod is gone.
                if error.status in (400, 404):
                    raise NoLog from error
                raise

        response = ask(f"read the log of {source.pod}/{source.container}", call)
        return _lines_of(response, whole=not follow)


def _lines_of(response: Any, *, whole: bool) -> Iterator[str]:
    """Yield the lines of an answer. The start of a line that was cut is dropped unless the log is read as a `whole`."""
    from urllib3.exceptions import HTTPError

    left = b""
    try:
        for chunk in response.stream(65536):
            *lines, left = (left + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")
        if whole and left:
            yield left.decode("utf-8", "replace")
    except HTTPError as error:
        raise ConnectionError(str(error)) from error
    finally:
        response.close()
