"""Is this server ready to judge? Its engine runs, it serves the right model at the right commit and judges as accepted.

The golden answers are asked once for each start of the process, one after the other: what else is in a batch can change
a model's numbers. They are asked again after an error, and never after a drift: a judge that is asked until it says the
right thing has not been checked. Until the check has ended well the server is not ready, whatever happens.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from .config import GatewayConfig, GoldenItem
from .golden import Drift, ReplyInvalid, drift, scores_of
from .inner import Inner, Scope
from .keys import Keys

# The slowest card needs half a minute for the longest verdict; the first answer may compile something before.
ANSWER_SECONDS = 180.0
ENGINE_SECONDS = 5.0
# Anybody may ask for readiness: however many do, the engine is asked once a second.
ENGINE_FRESH_SECONDS = 1.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0


class Problem(NamedTuple):
    """Why the server is not ready: a reason code, or None while nothing is wrong yet."""

    reason: str | None
    message: str


class Readiness:
    """The state of one server process."""

    def __init__(
        self,
        config: GatewayConfig,
        inner: Inner,
        keys: Keys,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._inner, self._keys = config, inner, keys
        self._sleep, self._clock = sleep, clock
        self._task: asyncio.Task[None] | None = None
        self._engine: asyncio.Task[Problem | None] | None = None
        self._engine_at = 0.0
        # None once the golden answers held; until then what they wait for or fail at.
        self._golden: Problem | None = Problem(None, "the golden answers are not asked yet")
        self._drift = Drift(None, None)
        self._started_at = _now()
        self._ready_at: str | None = None
        self._said: object = None

    def start(self, scope: Scope) -> None:
        """Begin to check, with the first request that comes: before that there is nothing to ask with."""
        if self._task is None:
            self._inner.know(scope)
            self._task = asyncio.get_running_loop().create_task(self._check())

    async def report(self) -> dict[str, Any]:
        """Return what GET /health/ready answers."""
        problem = await self._problem()
        if problem is None and self._ready_at is None:
            self._ready_at = _now()
        if problem is None:
            answered = f"{len(self._config.items)} golden answers hold"
            said = Problem(None, f"{self._config.served_name} serves commit {self._config.commit}, {answered}")
        else:
            said = problem
        self._say(problem is None, said)
        return {
            "ready": problem is None,
            "reason": said.reason,
            "message": said.message,
            "served_name": self._config.served_name,
            "commit": self._config.commit,
            "golden": {
                "items": len(self._config.items),
                "drift": None if self._drift.mean is None else round(self._drift.mean, 4),
                "worst": self._drift.worst,
            },
            "started_at": self._started_at,
            "ready_at": self._ready_at if problem is None else None,
        }

    async def _problem(self) -> Problem | None:
        no_keys = self._keys.problem()
        if no_keys is not None:
            return Problem("API_KEY_UNAVAILABLE", no_keys)
        return await self._engine_problem() or self._golden

    async def _engine_problem(self) -> Problem | None:
        """Return what is wrong with the engine or the model; all who ask within a second share one answer."""
        asked = self._engine
        old = asked is not None and asked.done() and self._clock() - self._engine_at >= ENGINE_FRESH_SECONDS
        if asked is None or old or asked.cancelled():
            self._engine_at = self._clock()
            self._engine = asked = asyncio.get_running_loop().create_task(self._ask_engine())
        # Shielded: whoever asks and goes away takes the answer from nobody else.
        return await asyncio.shield(asked)

    async def _ask_engine(self) -> Problem | None:
        try:
            health = await self._inner.ask("GET", "/health", seconds=ENGINE_SECONDS)
            if health.status != 200:
                return Problem("PROBE_FAILING", f"the engine answers /health with {health.status}, wanted 200")
            models = await self._inner.ask("GET", "/v1/models", seconds=ENGINE_SECONDS)
        except asyncio.TimeoutError:
            return Problem("PROBE_FAILING", f"the engine does not answer within {ENGINE_SECONDS:g} s")
        except Exception as error:  # whatever the server raises, it is not ready
            return Problem("PROBE_FAILING", f"the engine fails: {type(error).__name__}")
        return wrong_model(models.body, self._config.served_name, self._config.commit)

    async def _check(self) -> None:
        """Ask every golden item; keep what came of it."""
        try:
            await self._until_good(self._engine_problem)
            answers: list[tuple[GoldenItem, Mapping[str, int]]] = []
            for item in self._config.items:
                await self._until_good(functools.partial(self._ask, item, answers))
            self._drift = drift(answers)
        except ReplyInvalid as error:
            self._golden = Problem("VERDICT_INVALID", str(error))
            return
        except Exception as error:  # a mistake of ours must not make a server ready, nor go unheard
            self._golden = Problem("VERDICT_INVALID", f"the golden answers could not be checked: {error!r}"[:300])
            return
        mean, tolerance = self._drift.mean, self._config.tolerance
        if mean is not None and mean > tolerance:
            self._golden = Problem("GOLDEN_DRIFT", f"the golden answers are {mean:.2f} points from what was accepted, "
                                   f"wanted at most {tolerance:g}; the furthest is {self._drift.worst}")
        else:
            self._golden = None
        await self.report()

    async def _until_good(self, attempt: Callable[[], Awaitable[Problem | None]]) -> None:
        """Repeat until there is no problem, with longer and longer waits."""
        wait = FIRST_WAIT_SECONDS
        while True:
            problem = await attempt()
            if problem is None:
                return
            self._golden = problem
            await self._sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _ask(self, item: GoldenItem, answers: list[tuple[GoldenItem, Mapping[str, int]]]) -> Problem | None:
        """Ask one item and add its scores to `answers`; return what is wrong with the answer."""
        if self._golden is None or self._golden.reason is None:
            self._golden = Problem(None, f"asking golden answer {len(answers) + 1} of {len(self._config.items)}")
        try:
            reply = await self._inner.ask("POST", "/v1/chat/completions", dict(item.request), seconds=ANSWER_SECONDS)
        except asyncio.TimeoutError:
            return Problem("VERDICT_INVALID", f"golden answer {item.id} took more than {ANSWER_SECONDS:g} s")
        except Exception as error:  # whatever the server raises, there is no verdict
            return Problem("VERDICT_INVALID", f"golden answer {item.id}: the server fails: {type(error).__name__}")
        if reply.status != 200:
            said = " ".join(ascii(reply.body[:200]).split())
            return Problem("VERDICT_INVALID", f"golden answer {item.id}: status {reply.status}: {said}")
        try:
            answers.append((item, scores_of(reply.body, item.request)))
        except ReplyInvalid as error:
            return Problem("VERDICT_INVALID", f"golden answer {item.id}: {error}")
        self._golden = Problem(None, f"{len(answers)} of {len(self._config.items)} golden answers asked")
        return None

    def _say(self, ready: bool, said: Problem) -> None:
        """Write a line to the server's log whenever the state is another one."""
        state = (ready, said.reason)
        if state != self._said:
            self._said = state
            reason = f"{said.reason}: " if said.reason else ""
            sys.stderr.write(f"judge-gateway: {'ready' if ready else 'not ready'}: {reason}{said.message}\n")
            sys.stderr.flush()


def wrong_model(models: bytes, served_name: str, commit: str) -> Problem | None:
    """Return what is wrong with an answer of /v1/models: `served_name` must be served from a path that has `commit`."""
    try:
        roots = {str(entry["id"]): str(entry["root"]) for entry in json.loads(models)["data"]}
    except (ValueError, LookupError, TypeError, RecursionError):
        return Problem("WRONG_MODEL_SERVED", f"/v1/models answers no list of models, wanted {served_name}")
    if served_name not in roots:
        names = ", ".join(sorted(roots)) or "nothing"
        return Problem("WRONG_MODEL_SERVED", f"the server serves {names}, wanted {served_name}")
    if commit not in roots[served_name].split("/"):
        found = f"{served_name} is served from {roots[served_name]}"
        return Problem("WRONG_MODEL_SERVED", f"{found}, wanted commit {commit}")
    return None


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
