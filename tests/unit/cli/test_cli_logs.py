"""`logs`: merged, named, clean; and followed through streams that break, containers that restart, pods that come."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cluster_desks import shipped_variables
from fakes_cli import Desk
from fakes_kube import FakeKube, api_error
from judge_bootstrap.adapters import pod_logs
from judge_bootstrap.adapters.pod_logs import Container, Follower, KubernetesCluster, NoLog, Wanted, find, read
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.logs import span_seconds
from judge_bootstrap.cli.main import cli
from judge_bootstrap.core.errors import BootstrapError, UsageProblem
from judge_bootstrap.core.log_lines import SECOND, Line, Seen, Source
from urllib3.exceptions import ProtocolError

SERVER, LOADER = "judge-inference-service-5d8f7-x7k2p", "judge-loader-9qw3z"
SPACES = {SERVER: "llm-judge", LOADER: "llm-judge-loader"}
Json = dict[str, Any]


def stamped(at: int, text: str) -> str:
    """Return a line as the API server sends it; `at` is in nanoseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // SECOND))
    return f"{whole}.{at % SECOND:09d}Z {text}"


@dataclass
class Life:
    """One life of a container: its lines so far, and whether more may come."""

    lines: list[tuple[int, str]] = field(default_factory=list)
    running: bool = True


@dataclass
class FakeLogs:
    """A cluster whose pods write what the test says. `breaks`: the stream breaks after so many lines, each time."""

    lives: dict[tuple[str, str], list[Life]] = field(default_factory=dict)
    breaks: int | None = None
    denied: tuple[str, ...] = ()
    opened: list[tuple[str, bool, int | None]] = field(default_factory=list)
    asked: list[Json] = field(default_factory=list)
    listing: BootstrapError | None = None
    listed: int = 0

    def add(self, pod: str, container: str, *lines: tuple[int, str], running: bool = True) -> Life:
        """Have a container, or the next life of one."""
        life = Life([(at * SECOND, text) for at, text in lines], running)
        self.lives.setdefault((pod, container), []).append(life)
        return life

    def pods(self, namespace: str, labels: str) -> list[Mapping[str, Any]]:
        self.listed += 1
        if self.listing:
            raise self.listing
        found: dict[str, Json] = {}
        for (pod, container), lives in list(self.lives.items()):
            if SPACES.get(pod, "llm-judge") != namespace:
                continue
            made = found.setdefault(pod, {"metadata": {"name": pod}, "spec": {"nodeName": "gpu-1"},
                                          "status": {"containerStatuses": []}})
            state: Json = {"running": {}} if lives[-1].running else {"terminated": {"exitCode": 0}}
            made["status"]["containerStatuses"].append(
                {"name": container, "state": state, "restartCount": len(lives) - 1})
        return list(found.values())

    def lines(self, source: Source, *, follow: bool = False, previous: bool = False, since_seconds: int | None = None,
              since: int | None = None, tail: int | None = None) -> Iterator[str]:
        self.opened.append((source.pod, follow, since))
        self.asked.append({"pod": source.pod, "follow": follow, "previous": previous, "since_seconds": since_seconds,
                           "since": since, "tail": tail})
        if source.pod in self.denied:
            raise BootstrapError("cannot read the log: 403", reason="CLUSTER_DENIED")
        lives = self.lives.get((source.pod, source.container)) or []
        if len(lives) < (2 if previous else 1):
            raise NoLog
        life = lives[-2 if previous else -1]
        sent = [line for line in list(life.lines) if since is None or line[0] >= since * SECOND]
        at = len(life.lines)
        sent = sent if tail is None else sent[len(sent) - min(tail, len(sent)):]
        count = 0
        while True:
            for line in sent:
                if follow and self.breaks is not None and count >= self.breaks:
                    raise ConnectionError("reset")
                yield stamped(*line)
                count += 1
            if not follow:
                return
            sent = life.lines[at:]
            at += len(sent)
            if not sent:
                if not life.running:
                    return
                time.sleep(0.002)


class FakeWorld:
    """The cluster, and a key that must not be shown."""

    def __init__(self, cluster: FakeLogs, secrets: Sequence[str] = ()) -> None:
        self.cluster, self.secrets = cluster, list(secrets)

    def open(self, settings: Any) -> tuple[FakeLogs, list[str]]:
        return self.cluster, self.secrets


def run(desk: Desk, cluster: FakeLogs, *words: str, secrets: Sequence[str] = (), **extra: Any) -> Result:
    desk.role_variables = shipped_variables()
    app = AppContext(services=desk.services(), extra={"logs": FakeWorld(cluster, secrets), **extra})
    return CliRunner().invoke(cli, ["--env", "prod", "logs", *words], obj=app)


def two_pods() -> FakeLogs:
    cluster = FakeLogs()
    cluster.add(SERVER, "check-model", (1, "all files are right"), running=False)
    cluster.add(SERVER, "vllm", (3, "loading"), (5, "ready"))
    cluster.add(LOADER, "loader", (2, "complete"), (4, "checked"))
    return cluster


def test_all_containers_are_merged_in_time_order_and_named(desk: Desk) -> None:
    done = run(desk, two_pods())
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "server-x7k2p/check-model all files are right", "loader-9qw3z/loader complete", "server-x7k2p/vllm loading",
        "loader-9qw3z/loader checked", "server-x7k2p/vllm ready"]


def test_timestamps_are_shown_where_asked_for(desk: Desk) -> None:
    done = run(desk, two_pods(), "--loader", "--timestamps")
    assert done.stdout.splitlines()[0] == "loader-9qw3z/loader 1970-01-01T00:00:02.000Z complete"


@pytest.mark.parametrize(("words", "pods"), [
    (("--loader",), {LOADER}), (("--server",), {SERVER}), (("--pod", SERVER), {SERVER}),
    (("--pod", "loader-9qw3z"), {LOADER}),
])
def test_what_is_read_can_be_narrowed(desk: Desk, words: tuple[str, ...], pods: set[str]) -> None:
    cluster = two_pods()
    assert run(desk, cluster, *words).exit_code == 0
    assert {pod for pod, _, _ in cluster.opened} == pods


@pytest.mark.parametrize(("words", "since", "tail"), [
    ((), None, 100), (("--since", "10m"), 600, None), (("--tail", "5"), None, 5), (("--tail", "-1"), None, None),
    (("--since", "1h30m", "--tail", "7"), 5400, 7),
])
def test_how_much_is_read(desk: Desk, words: tuple[str, ...], since: int | None, tail: int | None) -> None:
    cluster = two_pods()
    run(desk, cluster, "--loader", *words)
    assert [(one["since_seconds"], one["tail"]) for one in cluster.asked] == [(since, tail)]


def test_previous_shows_the_life_before(desk: Desk) -> None:
    cluster = two_pods()
    cluster.add(LOADER, "loader", (9, "again"))
    done = run(desk, cluster, "--loader", "--previous")
    assert done.stdout.splitlines() == ["loader-9qw3z/loader complete", "loader-9qw3z/loader checked"]
    # A container that has no life before this one has nothing to say, and that is no error.
    assert run(desk, two_pods(), "--previous").exit_code == 0


def test_an_unknown_pod_is_refused_with_those_that_there_are(desk: Desk) -> None:
    done = run(desk, two_pods(), "--pod", "server-nope")
    assert done.exit_code == 2
    assert "no pod 'server-nope' of ours in llm-judge-loader and llm-judge, found: loader-9qw3z, server-x7k2p" \
        in done.stderr


def test_no_pod_at_all_is_one_line(desk: Desk) -> None:
    done = run(desk, FakeLogs())
    assert (done.exit_code, done.stderr) == (
        1, "Error: POD_PENDING: no container of ours was ever started in llm-judge-loader and llm-judge\n"
           "Hint: judge-bootstrap --env prod health\n")


def test_json_is_one_object_with_a_list(desk: Desk) -> None:
    done = run(desk, two_pods(), "--json")
    answer = json.loads(done.stdout)
    assert [line["text"] for line in answer["lines"]] == [
        "all files are right", "complete", "loading", "checked", "ready"]
    assert answer["lines"][1] == {"time": "1970-01-01T00:00:02.000Z", "namespace": "llm-judge-loader", "pod": LOADER,
                                  "container": "loader", "text": "complete"}
    assert answer["containers"][0]["short_name"] == "loader-9qw3z"


@pytest.mark.parametrize(("words", "said"), [
    (("-f", "--json"), "one object"), (("-f", "--previous"), "nothing follows"), (("--since", "soon"), '"soon"'),
    (("--since", "0"), "wanted a span"), (("--since", ""), ""), (("--tail", "-2"), "tail"),
])
def test_what_cannot_be_is_refused(desk: Desk, words: tuple[str, ...], said: str) -> None:
    done = run(desk, two_pods(), *words)
    assert done.exit_code == (0 if words == ("--since", "") else 2)
    assert said in done.output


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("45", 45)])
def test_spans_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert span_seconds(text) == seconds


@pytest.mark.parametrize("text", ["-5m", "1.5h", "m", "10x", "٣m", "9" * 12])
def test_other_spans_are_refused(text: str) -> None:
    with pytest.raises(UsageProblem):
        span_seconds(text)


def test_secrets_are_masked_and_control_signs_shown(desk: Desk) -> None:
    key, token = "judge-" + "k" * 30, "hf_" + "Ab1" * 11
    cluster = FakeLogs()
    cluster.add(SERVER, "vllm", (1, f"key {key} token {token}"), (2, "\x1b[2J\x1b]0;x\x07gone"),
                (3, "\x1b[31mred\x1b[0m"))
    done = run(desk, cluster, secrets=[key])
    assert done.stdout.splitlines() == ["server-x7k2p/vllm key *** token ***",
                                        r"server-x7k2p/vllm \x1b[2J\x1b]0;x\x07gone", "server-x7k2p/vllm red"]
    answer = run(desk, cluster, "--json", secrets=[key])
    assert key not in answer.stdout and token not in answer.stdout


def test_on_a_terminal_each_pod_has_its_colour_and_the_text_has_none(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = run(desk, two_pods()).stdout.splitlines()
    assert lines[0] == "\x1b[36mserver-x7k2p/check-model\x1b[0m all files are right"
    # Padded, so that the texts stand below each other.
    assert lines[1] == "\x1b[32mloader-9qw3z/loader     \x1b[0m complete"
    assert "\x1b" not in run(desk, two_pods(), "--no-color").stdout


def test_one_log_that_cannot_be_read_does_not_hide_the_others(desk: Desk) -> None:
    cluster = two_pods()
    cluster.denied = (LOADER,)
    done = run(desk, cluster)
    assert done.exit_code == 1
    assert "server-x7k2p/vllm ready" in done.stdout
    assert done.stderr == "Warning: loader-9qw3z/loader: cannot read the log: 403\n"
    assert json.loads(run(desk, cluster, "--json").stdout)["reason"] == "CLUSTER_DENIED"


def test_ctrl_c_ends_the_following_with_130_and_no_error(desk: Desk) -> None:
    class Interrupted:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def lines(self, _first: Any) -> Iterator[Line]:
            yield Line(9 * SECOND, Source("llm-judge", SERVER, "vllm"), "new")
            raise KeyboardInterrupt

    done = run(desk, two_pods(), "-f", follower=Interrupted)
    assert (done.exit_code, done.stderr) == (130, "")
    assert done.stdout.splitlines()[-1] == "server-x7k2p/vllm new"


def test_with_no_tail_only_what_is_new_is_followed(desk: Desk) -> None:
    cluster = two_pods()
    given: list[Any] = []

    class Remembers:
        def __init__(self, *_: Any, seen: Any, **__: Any) -> None:
            given.append(seen)

        def lines(self, _first: Any) -> Iterator[Line]:
            yield from ()

    done = run(desk, cluster, "-f", "--tail", "0", "--loader", follower=Remembers)
    assert (done.exit_code, done.stdout) == (0, "")
    # The last line was read, so it is known where to go on.
    assert [seen.since for seen in given[0].values()] == [4]


# --- following --------------------------------------------------------------------------------------------------------

PLACES = [("llm-judge-loader", "x"), ("llm-judge", "x")]


class Following:
    """A follower in a thread of its own, and the lines that it has handed on."""

    def __init__(self, cluster: FakeLogs, **options: Any) -> None:
        self.lines: list[Line] = []
        self.warned: list[str] = []
        self.seen: dict[Source, Seen] = {}
        first = find(cluster, PLACES)
        self.seen = {one.source: Seen() for one in first}
        self.first = list(read(cluster, first, options.get("wanted", Wanted()), self.seen, lambda *_: None))
        self.follower = Follower(cluster, PLACES, lambda one: True, self.warned.append, seen=self.seen,
                                 poll_seconds=0.02, pause_seconds=0.005, **{"hold_seconds": 0.02, **options})
        self.thread = threading.Thread(target=self._run, args=(first,), daemon=True)
        self.thread.start()

    def _run(self, first: Sequence[Container]) -> None:
        for line in self.follower.lines(first):
            self.lines.append(line)

    def texts(self, pod: str | None = None) -> list[str]:
        return [line.text for line in [*self.first, *self.lines] if pod in (None, line.source.pod)]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds; fails after a minute."""
        give_up = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < give_up, (self.texts(), self.warned)
            time.sleep(0.005)

    def end(self) -> None:
        self.follower.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


def test_streams_that_break_all_the_time_double_and_lose_nothing() -> None:
    cluster = FakeLogs()
    life = cluster.add(SERVER, "vllm", (1, "0"), (1, "1"))
    following = Following(cluster)
    written = ["0", "1"]
    for number in range(2, 120):
        # Many lines in one second, in one nanosecond even, and some that are alike.
        at, text = SECOND + (number // 4) * 400_000_000, str(number if number % 3 else "same")
        life.lines.append((at, text))
        written.append(text)
        if number % 10 == 0:
            time.sleep(0.003)
        # A stream begins with the whole last second again, so it must get past those ten lines.
        cluster.breaks = 17 + number % 5
    following.wait(lambda: len(following.texts()) >= len(written))
    life.lines.append((99 * SECOND, "end"))
    following.wait(lambda: "end" in following.texts())
    following.end()
    assert following.texts() == [*written, "end"]
    assert len(cluster.opened) > 5


def test_a_pod_that_comes_is_read_from_its_first_line() -> None:
    cluster = FakeLogs()
    cluster.add(SERVER, "vllm", (1, "old"))
    following = Following(cluster)
    cluster.add(LOADER, "loader", (2, "first"), (3, "second"))
    following.wait(lambda: following.texts(LOADER) == ["first", "second"])
    following.end()


def test_a_container_that_restarts_is_read_to_its_end_first() -> None:
    cluster = FakeLogs(breaks=2)
    life = cluster.add(SERVER, "vllm", (1, "a"))
    following = Following(cluster)
    life.lines.append((2 * SECOND, "b"))
    following.wait(lambda: "b" in following.texts())
    cluster.breaks = 0  # nothing more comes through, and then it is gone
    life.lines.append((3 * SECOND, "last words"))
    time.sleep(0.02)
    life.running = False
    cluster.add(SERVER, "vllm", (5, "again"))
    cluster.breaks = None
    following.wait(lambda: "again" in following.texts())
    following.end()
    assert following.texts() == ["a", "b", "last words", "again"]


def test_a_container_that_ended_is_read_once_and_then_left() -> None:
    cluster = FakeLogs()
    cluster.add(SERVER, "check-model", (1, "done"), running=False)
    following = Following(cluster)
    following.wait(lambda: len(cluster.opened) >= 2)
    time.sleep(0.15)
    following.end()
    assert following.texts() == ["done"]
    assert len(cluster.opened) == 2  # read, and once more from where that ended


def test_lines_of_two_pods_stand_in_the_order_of_their_time() -> None:
    cluster = FakeLogs()
    one, two = cluster.add(SERVER, "vllm"), cluster.add(LOADER, "loader")
    following = Following(cluster, hold_seconds=1.0)
    following.wait(lambda: len([1 for _, follow, _ in cluster.opened if follow]) == 2)
    # The later one is there first.
    two.lines.append((8 * SECOND, "second"))
    one.lines.append((7 * SECOND, "first"))
    following.wait(lambda: len(following.lines) == 2)
    following.end()
    assert following.texts() == ["first", "second"]


def test_a_log_that_may_not_be_read_is_told_once() -> None:
    cluster = FakeLogs(denied=(LOADER,))
    cluster.add(LOADER, "loader", (1, "x"))
    following = Following(cluster)
    following.wait(lambda: bool(following.warned))
    time.sleep(0.1)
    following.end()
    assert following.warned == [f"{LOADER}/loader: cannot read the log: 403"]


def test_pods_that_cannot_be_listed_for_a_while_are_told_once_and_found_later() -> None:
    cluster = FakeLogs()
    cluster.add(SERVER, "vllm", (1, "old"))
    following = Following(cluster)
    cluster.listing = BootstrapError("no answer", reason="CLUSTER_UNREACHABLE")
    following.wait(lambda: bool(following.warned))
    time.sleep(0.06)
    cluster.add(LOADER, "loader", (2, "new"))
    cluster.listing = None
    following.wait(lambda: following.texts(LOADER) == ["new"])
    following.end()
    assert following.warned == ["the pods cannot be listed now, which is tried again: no answer"]


def test_a_pod_that_goes_is_forgotten_and_one_of_its_name_is_new_again() -> None:
    cluster = FakeLogs()
    cluster.add(SERVER, "vllm", (1, "a"), running=False)
    following = Following(cluster)
    del cluster.lives[SERVER, "vllm"]
    listed = cluster.listed
    following.wait(lambda: cluster.listed >= listed + 3)
    time.sleep(0.1)
    cluster.add(SERVER, "vllm", (2, "b"))
    following.wait(lambda: "b" in following.texts())
    following.end()
    assert following.texts() == ["a", "b"]


def test_since_goes_for_a_log_that_had_nothing_of_that_time() -> None:
    cluster = FakeLogs()
    cluster.add(SERVER, "vllm")
    following = Following(cluster, wanted=Wanted(since_seconds=60))
    following.wait(lambda: any(one["follow"] for one in cluster.asked))
    following.end()
    asked = next(one for one in cluster.asked if one["follow"])
    assert asked["since"] is None and 60 < asked["since_seconds"] < 120


# --- the real adapter -------------------------------------------------------------------------------------------------


class FakeResponse:
    """What urllib3 gives: chunks, and perhaps a broken end."""

    def __init__(self, *chunks: bytes, broken: bool = False) -> None:
        self.chunks, self.broken, self.closed = chunks, broken, False

    def stream(self, _size: int) -> Iterator[bytes]:
        yield from self.chunks
        if self.broken:
            raise ProtocolError("cut")

    def close(self) -> None:
        self.closed = True


def test_lines_are_put_together_from_chunks_and_a_cut_line_is_not_shown_as_whole() -> None:
    whole = FakeResponse(b"a\nb", b"c\n\xc3", b"\xa4\nrest")
    assert list(pod_logs._lines_of(whole, whole=True)) == ["a", "bc", "ä", "rest"]
    assert list(pod_logs._lines_of(FakeResponse(b"a\nhal"), whole=False)) == ["a"]
    cut = FakeResponse(b"a\nhal", broken=True)
    found = []
    with pytest.raises(ConnectionError):
        found.extend(line for line in pod_logs._lines_of(cut, whole=True))
    assert cut.closed


class LogKube(FakeKube):
    """An API server that has logs."""

    status = 200

    def call_api(self, path: str, method: str, **options: Any) -> Any:
        if path.endswith("/log"):
            self.calls.append(options["query_params"])
            if self.status != 200:
                raise api_error(self.status, "no such log")
            return FakeResponse(b"x\n")
        return super().call_api(path, method, **options)


def test_the_api_server_is_asked_for_what_is_wanted() -> None:
    kube = LogKube()
    source = Source("llm-judge", SERVER, "vllm")
    assert list(KubernetesCluster(kube).lines(source, follow=True, since=61, tail=3)) == ["x"]
    assert list(KubernetesCluster(kube).lines(source, since_seconds=5, previous=True)) == ["x"]
    assert kube.calls == [
        [("container", "vllm"), ("timestamps", "true"), ("follow", "true"), ("tailLines", "3"),
         ("sinceTime", "1970-01-01T00:01:01.000Z")],
        [("container", "vllm"), ("timestamps", "true"), ("previous", "true"), ("sinceSeconds", "5")]]


@pytest.mark.parametrize("status", [400, 404])
def test_a_log_that_is_not_there_yet_or_not_any_more_is_no_error(status: int) -> None:
    kube = LogKube()
    kube.status = status
    with pytest.raises(NoLog):
        list(KubernetesCluster(kube).lines(Source("llm-judge", SERVER, "vllm")))


def test_containers_that_were_never_started_are_left_out() -> None:
    kube = FakeKube()
    kube.put("/api/v1/namespaces/llm-judge/pods/p", {"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {
        "initContainerStatuses": [{"name": "check-model", "state": {"running": {}}, "restartCount": 1}],
        "containerStatuses": [{"name": "vllm", "state": {"waiting": {"reason": "PodInitializing"}}, "lastState": {}}]}})
    assert find(KubernetesCluster(kube), [("llm-judge", "")]) == [
        Container(Source("llm-judge", "p", "check-model"), "n", True, 1)]
