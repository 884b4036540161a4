"""The window follows the server: narrower when it turns requests away or is late, wider again when it is not."""

from __future__ import annotations

import asyncio

import pytest
from judge_client.batch.breaker import Breaker
from judge_client.batch.window import Window
from judge_client.verdict import Reason


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _round(window: Window, clock: Clock, seconds: float, refused: int = 0) -> None:
    """Let one round of requests be answered."""
    sent = clock.now
    answers = max(8, window.limit) - refused
    clock.now += seconds
    for _ in range(refused):
        window.refused(sent)
    for _ in range(answers):
        window.answered(sent, seconds)


def test_it_opens_at_its_ceiling_and_stays_there(clock: Clock) -> None:
    window = Window(32, clock)
    for _ in range(20):
        _round(window, clock, 1.0)
    assert (window.limit, window.lowest) == (32, 32)


def test_refusals_halve_it_once_for_all_that_were_sent_before(clock: Clock) -> None:
    window = Window(32, clock)
    clock.now = 1.0
    for _ in range(20):
        window.refused(sent=0.5)
    assert window.limit == 16


def test_single_refusals_are_no_sign_of_load(clock: Clock) -> None:
    window = Window(32, clock)
    for _ in range(50):
        _round(window, clock, 1.0, refused=2)
    assert window.limit == 32


def test_it_finds_what_a_small_server_bears(clock: Clock) -> None:
    window = Window(32, clock)
    seen = []
    for _ in range(60):
        _round(window, clock, 0.1, refused=max(0, window.limit - 6))
        seen.append(window.limit)
    assert 3 <= min(seen[5:]) <= max(seen[5:]) <= 10


def test_it_grows_to_its_ceiling_again(clock: Clock) -> None:
    window = Window(32, clock)
    for _ in range(3):
        _round(window, clock, 0.1, refused=4)
    assert window.limit == 4
    for _ in range(40):
        _round(window, clock, 0.1)
    assert window.limit == 32


def test_it_is_never_less_than_one(clock: Clock) -> None:
    window = Window(4, clock)
    for _ in range(10):
        _round(window, clock, 0.1, refused=5)
    assert window.limit == 1


def test_latency_well_above_the_best_halves_it(clock: Clock) -> None:
    window = Window(32, clock)
    for _ in range(5):
        _round(window, clock, 1.0)
    _round(window, clock, 3.5)
    assert window.limit == 16


def test_a_few_slow_answers_are_no_sign_of_load(clock: Clock) -> None:
    window = Window(32, clock)
    for _ in range(20):
        sent = clock.now
        clock.now += 1.0
        for place in range(32):
            window.answered(sent, 20.0 if place % 8 == 0 else 1.0)
    assert (window.limit, window.lowest) == (32, 32)


def test_latency_that_stays_high_is_taken_as_the_new_normal(clock: Clock) -> None:
    window = Window(32, clock)
    for _ in range(5):
        _round(window, clock, 1.0)
    for _ in range(40):
        _round(window, clock, 3.5)
    assert (window.limit, window.lowest) == (32, 16)


def test_short_times_are_never_late(clock: Clock) -> None:
    window = Window(32, clock)
    _round(window, clock, 0.001)
    for _ in range(5):
        _round(window, clock, 0.2)
    assert window.limit == 32


@pytest.mark.parametrize("ceiling", [0, -1, 1025, 2.0, True, "3"])
def test_a_ceiling_that_is_none_is_refused(ceiling: object) -> None:
    with pytest.raises(ValueError, match="wanted a whole number from 1 to 1024"):
        Window(ceiling)  # type: ignore[arg-type]


def test_places_go_to_those_who_wait_longest_and_none_is_lost_with_a_waiter_that_gave_up() -> None:
    async def go() -> list[int]:
        window, order = Window(1), list[int]()

        async def work(number: int) -> None:
            await window.enter()
            order.append(number)
            await asyncio.sleep(0)
            window.leave()

        await window.enter()
        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        window.leave()
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert window.in_flight == 0
        return order

    assert asyncio.run(go()) == [0, 3, 4]


def test_a_waiter_that_gives_up_in_the_moment_it_gets_a_place_hands_it_on() -> None:
    async def go() -> int:
        window = Window(1)
        await window.enter()
        waiting = asyncio.create_task(window.enter())
        await asyncio.sleep(0)
        window.leave()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(window.enter(), 60)
        return window.in_flight

    assert asyncio.run(go()) == 1


def test_a_narrower_window_lets_nobody_in_until_enough_have_left() -> None:
    async def go() -> tuple[bool, bool]:
        window = Window(4)
        for _ in range(4):
            await window.enter()
        for _ in range(3):
            window.refused(sent=1e12)
        room = asyncio.create_task(window.room())
        window.leave()
        window.leave()
        await asyncio.sleep(0)
        before = room.done()
        window.leave()
        await asyncio.wait_for(room, 60)
        return before, room.done()

    assert asyncio.run(go()) == (False, True)


class Health:
    """A server that is away for so many probes."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.probes = 0

    async def __call__(self) -> bool:
        self.probes += 1
        return self.probes > self.away


def test_failures_in_a_row_have_the_server_probed_until_it_is_back() -> None:
    async def go() -> tuple[int, int, float | None, bool]:
        health = Health(away=1)
        breaker = Breaker(health)
        for _ in range(5):
            breaker.told(Reason.SERVER_UNREACHABLE)
        await asyncio.wait_for(breaker.closed(), 60)
        return health.probes, breaker.outages, breaker.gone_since, breaker.given_up

    assert asyncio.run(go()) == (2, 1, None, False)


def test_an_answer_in_between_shows_that_the_server_is_there() -> None:
    async def go() -> int:
        health = Health(away=9)
        breaker = Breaker(health)
        for _ in range(20):
            for _ in range(4):
                breaker.told(Reason.SERVER_TIMEOUT)
            breaker.told(429)
        await breaker.closed()
        return health.probes

    assert asyncio.run(go()) == 0


def test_a_server_that_stays_away_is_given_up() -> None:
    async def go() -> tuple[bool, bool]:
        breaker = Breaker(Health(away=10**9), patience_seconds=0.05)
        for _ in range(5):
            breaker.told(503)
        await asyncio.wait_for(breaker.closed(), 60)
        return breaker.given_up, breaker.gone_since is not None

    assert asyncio.run(go()) == (True, True)


def test_failures_of_a_server_that_says_it_is_well_are_no_outage() -> None:
    async def go() -> int:
        breaker = Breaker(Health(away=0))
        for _ in range(50):
            breaker.told(500)
            await breaker.closed()
        return breaker.outages

    assert asyncio.run(go()) == 0
