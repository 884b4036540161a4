"""One request and its answer: what is sent, how long it is waited for, what is sent again, and what a refusal means.

Nothing is sent here. The steps of a conversation (see judging.py) are values, which a client carries out.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from judge_client.verdict import Reason, Status, one_line

# A host name, an IPv4 address or an IPv6 address in its brackets; other scripts come as punycode.
_HOST: Final = re.compile(r"[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?\.?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_LONGEST_SECONDS: Final = 365 * 86_400.0
_TRANSIENT: Final = frozenset({
    Reason.SERVER_UNREACHABLE, Reason.SERVER_TIMEOUT, Reason.SERVER_RATE_LIMITED, Reason.SERVER_FAILED,
    Reason.RESPONSE_INVALID})  # fmt: skip

Result = TypeVar("Result")


@dataclass(frozen=True)
class Request:
    """A request that is to be sent to the server, and how long its answer may take to come."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    timeout_seconds: float = 60.0


@dataclass(frozen=True)
class Pause:
    """A time to wait before the conversation goes on."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What the server answered, whatever its status. Names of headers in lower case."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


Steps = Generator[Request | Pause, Answer | None, Result]


@dataclass(eq=False)
class Failure(Exception):
    """Why there is no verdict; becomes one.

    `http_status` is that of an answer which was a refusal. `lasting` says that asking again cannot help, whatever the
    reason.
    """

    reason: Reason
    message: str
    status: Status = Status.ERROR
    model: str | None = None
    retry_after_seconds: float | None = None
    http_status: int | None = None
    lasting: bool = False

    def __post_init__(self) -> None:
        self.message = one_line(self.message)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Observation:
    """How one request for a verdict went: its reason (None: a completion came) and how long it took."""

    reason: Reason | None
    seconds: float


Watch = Callable[[Observation], None]


@dataclass(frozen=True)
class Policy:
    """How patient a client is. Times in seconds; the deadline covers one call with all that is sent for it.

    `max_retries` counts what is sent again after something transient; `max_reasks` how often a reply that is no
    verdict is asked for again.
    """

    timeout_seconds: float = 60.0
    deadline_seconds: float = 300.0
    max_retries: int = 4
    max_reasks: int = 1
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "deadline_seconds"):
            if not 0 < getattr(self, name) <= _LONGEST_SECONDS:
                raise ValueError(f"{name} is {getattr(self, name)!r}, wanted more than 0 and a year at most")
        for name in ("first_pause_seconds", "longest_pause_seconds"):
            if not 0 <= getattr(self, name) <= _LONGEST_SECONDS:
                raise ValueError(f"{name} is {getattr(self, name)!r}, wanted 0 or more, and a year at most")
        for name in ("max_retries", "max_reasks"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}, wanted a whole number, 0 or more")

    def pause_before(self, retry: int, asked_seconds: float | None) -> float:
        """Return how long to wait before retry number `retry` (from 0). What the server asks for is the least."""
        import random  # here and in root_of, because who only imports us need not wait for it

        longest = min(self.longest_pause_seconds, self.first_pause_seconds * 2 ** min(retry, 32))
        # All clients of a server that comes back would otherwise do so in the same moment.
        return max(asked_seconds or 0.0, random.uniform(longest / 2, longest))


def root_of(base_url: str) -> str:
    """Return a server's address without /v1. Raises ValueError for what is none."""
    from urllib.parse import urlsplit

    wanted = "wanted http://HOST:PORT or http://HOST:PORT/v1"
    try:
        parts = urlsplit(base_url)
        usable = (parts.scheme in ("http", "https") and _HOST.fullmatch(parts.hostname or "") is not None
                  and parts.port != 0)
    except ValueError:  # brackets without an address between, a port beyond 65535
        raise ValueError(f"base_url is {base_url!r}, {wanted}") from None
    if "@" in parts.netloc:
        raise ValueError("base_url holds credentials, wanted them in api_key: a URL ends up in logs")
    # urlsplit leaves out line breaks, which would be sent.
    if not usable or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", base_url):
        raise ValueError(f"base_url is {base_url!r}, {wanted}")
    return base_url.rstrip("/").removesuffix("/v1")


class Budget:
    """How much may still be sent, and for how long, for one call."""

    def __init__(self, policy: Policy, until: float, clock: Callable[[], float], watch: Watch | None) -> None:
        self._policy, self._until, self._clock, self._watch = policy, until, clock, watch
        self._retries = 0
        self.requests = 0

    def is_over(self) -> bool:
        """Tell whether the deadline has passed."""
        return self._clock() >= self._until

    def send(self, request: Request, root_url: str, read: Callable[[Answer], Result]) -> Steps[Result]:
        """Send a request and read its answer, again after something transient as long as the budget lasts."""
        while True:
            started = self._clock()
            left = self._until - started
            if left <= 0:
                given = f"the {self._policy.deadline_seconds:g} s for one call"
                raise Failure(Reason.SERVER_TIMEOUT, f"{root_url}: {given} were over after {self.requests} requests")
            self.requests += 1
            request = replace(request, timeout_seconds=min(request.timeout_seconds, left))
            try:
                found = read(_checked(request.path, (yield from _send(request)), root_url))
            except Failure as failure:
                self._saw(request, failure.reason, started)
                pause = self._policy.pause_before(self._retries, failure.retry_after_seconds)
                if (failure.lasting or failure.reason not in _TRANSIENT or self._retries >= self._policy.max_retries
                        or self._clock() + pause >= self._until):
                    raise
                self._retries += 1
                yield Pause(pause)
            else:
                self._saw(request, None, started)
                return found

    def _saw(self, request: Request, reason: Reason | None, started: float) -> None:
        if self._watch is not None and request.method == "POST":
            self._watch(Observation(reason, self._clock() - started))


def _send(request: Request) -> Steps[Answer]:
    """Have a request sent once; return its answer, whatever its status."""
    answer = yield request
    assert answer is not None
    return answer


def _checked(path: str, answer: Answer, root_url: str) -> Answer:
    """Return an answer of status 2xx; any other is a Failure."""
    if 200 <= answer.status < 300:
        return answer
    message = f"{root_url}{path} answered {answer.status}: {_told(answer)}"
    raise Failure(_reason(answer.status), message, retry_after_seconds=_retry_after(answer), http_status=answer.status)


def _reason(status: int) -> Reason:
    if status in (401, 403):
        return Reason.SERVER_DENIED
    if status == 429:
        return Reason.SERVER_RATE_LIMITED
    if status == 408:
        return Reason.SERVER_TIMEOUT
    # 501 and 505 are no passing trouble: the server will never know how.
    return Reason.SERVER_FAILED if status >= 500 and status not in (501, 505) else Reason.REQUEST_REFUSED


def _retry_after(answer: Answer) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110: seconds, or a date); None for none."""
    told = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", told):
        return min(float(told), _LONGEST_SECONDS)
    if not told or len(told) > 40:
        return None
    from email.utils import parsedate_to_datetime  # not needed but here, and slow to import

    try:
        at = parsedate_to_datetime(told)
        return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError, LookupError):
        return None


def _told(answer: Answer) -> str:
    """Return what the server said, in one short line."""
    if 300 <= answer.status < 400:
        return f"it sends to {one_line(answer.headers.get('location', ''), 200) or 'nowhere'}, which is not followed"
    try:
        document = json.loads(answer.text)
        error = document["error"]
        said = error["message"] if isinstance(error, Mapping) else error
    except (ValueError, LookupError, TypeError, RecursionError):
        said = answer.text
    return one_line(str(said), 200) or "nothing"
