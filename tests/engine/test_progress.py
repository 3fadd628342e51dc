from __future__ import annotations

import threading

import pytest

from transship.engine.plan import Plan
from transship.engine.progress import WINDOW, Amount, Progress
from transship.engine.step import Context, Cost, Resource, Result, Step, Value


def step(key: str, size: int, files: int = 0) -> Step:
    def run(_: Context) -> Result:
        raise AssertionError("nothing runs here")

    def check(_: Value) -> bool:
        raise AssertionError("nothing is checked here")

    return Step(key, key.upper(), Resource.CPU, run, check, cost=Cost(size, files))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_done_adds_up() -> None:
    steps = [step("a:1", 100, 1), step("a:2", 200, 2), step("a:3", 300, 3), step("a:4", 400, 4)]
    progress = Progress(Plan(steps), clock=Clock())
    progress.started(steps[0])
    progress.ended(steps[0])
    progress.skipped(steps[1])
    progress.started(steps[2])
    progress.advanced("a:3", 50)
    progress.left_out(steps[3])
    seen = progress.snapshot()
    assert seen.total == Amount(4, 1000, 10)
    assert seen.done == Amount(1, 150, 1)
    assert seen.skipped == Amount(1, 200, 2)
    assert seen.left_out == Amount(1, 400, 4)
    (running,) = seen.running
    assert (running.key, running.title, running.bytes, running.bytes_done) == ("a:3", "A:3", 300, 50)


def test_a_step_counts_for_what_it_costs_whatever_it_reports() -> None:
    first, second = step("a:1", 100), step("a:2", 100)
    progress = Progress(Plan([first, second]), clock=Clock())
    progress.started(first)
    progress.advanced("a:1", 5000)
    assert progress.snapshot().done.bytes == 100
    progress.ended(first)
    progress.started(second)
    progress.ended(second)
    assert progress.snapshot().done == progress.snapshot().total
    assert progress.snapshot().eta == 0


def test_a_failed_step_takes_back_what_it_had_done() -> None:
    only = step("a:1", 100)
    progress = Progress(Plan([only]), clock=Clock())
    progress.started(only)
    progress.advanced("a:1", 60)
    progress.left_out(only)
    seen = progress.snapshot()
    assert (seen.done, seen.left_out, seen.running) == (Amount(), Amount(1, 100), ())


def test_rate_and_eta() -> None:
    clock = Clock()
    size = 1000 * 2**20
    steps = [step("a:1", size), step("a:2", size)]
    progress = Progress(Plan(steps), clock=clock)
    assert progress.snapshot().eta is None
    progress.started(steps[0])
    for _ in range(10):
        clock.now += 1
        progress.advanced("a:1", 10 * 2**20)
    seen = progress.snapshot()
    assert seen.rate == pytest.approx(10 * 2**20)
    assert seen.elapsed == pytest.approx(10)
    assert seen.eta == pytest.approx(190, rel=0.01)
    assert seen.running[0].seconds == pytest.approx(10)


def test_the_rate_forgets_what_is_long_ago() -> None:
    clock = Clock()
    only = step("a:1", 10**12)
    progress = Progress(Plan([only]), clock=clock)
    progress.started(only)
    progress.advanced("a:1", 10**9)
    for _ in range(100):
        clock.now += 1
        progress.advanced("a:1", 1000)
    assert progress.snapshot().rate == pytest.approx(1000, rel=0.1)
    clock.now += 2 * WINDOW
    seen = progress.snapshot()
    assert seen.rate == 0
    assert seen.eta is None


def test_threads_lose_nothing() -> None:
    steps = [step(f"a:{number}", 10**6) for number in range(4)]
    progress = Progress(Plan(steps))

    def work(mine: Step) -> None:
        progress.started(mine)
        for _ in range(2000):
            progress.advanced(mine.key, 7)

    threads = [threading.Thread(target=work, args=(each,)) for each in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.snapshot().done.bytes == 4 * 2000 * 7
