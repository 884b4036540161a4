"""The same call for many things, several at once, in threads that Ctrl-C need not wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def each(call: Callable[[Item], Answer], items: Sequence[Item], at_once: int) -> list[Answer]:
    """Return what `call` returns for each of the items, in their order; raises what the first of them raised.

    An executor would wait for its threads when the program is told to end.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(items)):
        todo.put(number)
    answers: dict[int, Answer] = {}
    errors: dict[int, BaseException] = {}

    def work() -> None:
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            try:
                answers[number] = call(items[number])
            except BaseException as error:  # handed to the caller below
                errors[number] = error

    threads = [threading.Thread(target=work, daemon=True, name="parallel") for _ in range(min(at_once, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return [answers[number] for number in range(len(items))]
