"""Reports of long computations: rare, in order, with a finite time left."""

from __future__ import annotations

from errata.platform.countdown import Countdown


class _Clock:
    """Time passes when the test says so."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_reports_are_rare_and_estimate_the_time_left() -> None:
    clock, told = _Clock(), list[tuple[int, int, float]]()
    progress = Countdown(lambda *report: told.append(report), every_seconds=5.0, clock=clock)
    for done in range(0, 101, 10):  # 10 in each 2 s
        progress(done, 100)
        clock.seconds += 2.0
    assert told == [(30, 100, 14.0), (60, 100, 8.0), (90, 100, 2.0), (100, 100, 0.0)]


def test_quick_work_is_reported_once_and_no_work_has_no_estimate() -> None:
    clock, told = _Clock(), list[tuple[int, int, float]]()
    progress = Countdown(lambda *report: told.append(report), every_seconds=5.0, clock=clock)
    progress(0, 7)
    clock.seconds += 60.0
    progress(0, 7)
    assert told == [], "nothing is done, so nothing can be estimated"
    clock.seconds += 1.0
    progress(7, 7)
    assert told == [(7, 7, 0.0)]


def test_what_was_done_before_takes_no_time() -> None:
    clock, told = _Clock(), list[tuple[int, int, float]]()
    progress = Countdown(lambda *report: told.append(report), every_seconds=5.0, clock=clock)
    progress(50, 100)
    clock.seconds += 5.0
    progress(75, 100)
    assert told == [(75, 100, 5.0)]
