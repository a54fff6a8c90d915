"""A process that the system can do without: reported once when it ends, started again and again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from errata.launch.optional import OptionalProcess
from errata.launch.processes import Process
from tests.waiting import wait

ENDS = "import sys; sys.exit('the file is broken')"
STAYS = "import time; print('I stay', flush=True); time.sleep(600)"


@dataclass
class Started:
    """Real processes, one after the other, and a clock that the test sets."""

    folder: Path
    code: str = ENDS
    now: float = 0.0
    processes: list[Process] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def start(self) -> Process:
        command = [sys.executable, "-c", self.code]
        process = Process.start("catalog", command, {}, self.folder / "catalog.log")
        self.processes.append(process)
        return process

    def is_ready(self) -> bool:
        return "I stay" in self.processes[-1].tail()

    def kept(self, *, ready: bool) -> OptionalProcess:
        return OptionalProcess(
            self.start(),
            self.start,
            self.is_ready,
            self.said.append,
            ready=ready,
            without="No searches.",
            clock=lambda: self.now,
        )

    def ended(self) -> None:
        self.processes[-1].popen.wait()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    made = Started(tmp_path)
    yield made
    for process in made.processes:
        process.stop(0)


def test_an_end_is_reported_once_and_followed_by_starts_with_growing_waits(
    started: Started,
) -> None:
    kept = started.kept(ready=True)
    starts = []
    for second in range(130):
        started.now = second
        started.ended()
        before = len(started.processes)
        kept.look()
        if len(started.processes) > before:
            starts.append(second)
    # The end is seen by the look after the start.
    assert starts == [1, 4, 9, 18, 35, 68, 129]
    (report,) = started.said
    assert "the file is broken" in report
    assert "No searches." in report


def test_it_is_reported_when_it_is_up_again_and_when_it_ends_again(started: Started) -> None:
    kept = started.kept(ready=True)
    started.ended()
    kept.look()
    started.code, started.now = STAYS, 1.0
    kept.look()
    wait(started.is_ready, "the next process to be ready")
    kept.look()
    assert started.said[1:] == ["catalog is up"]
    kept.look()
    assert len(started.said) == 2
    started.processes[-1].kill()
    kept.look()
    assert len(started.said) == 3


def test_a_slow_start_is_reported_and_goes_on(started: Started) -> None:
    started.code = "import time; time.sleep(600)"
    kept = started.kept(ready=False)
    kept.look()
    (report,) = started.said
    assert "not ready yet" in report
    assert len(started.processes) == 1
    assert started.processes[0].running


def test_a_start_that_fails_is_tried_again(started: Started) -> None:
    kept = started.kept(ready=True)
    started.ended()
    kept.look()
    started.folder = Path("/dev/null")  # no log can be opened in it
    started.now = 1.0
    kept.look()
    assert len(started.processes) == 1
    started.folder, started.code, started.now = started.processes[0].log_path.parent, STAYS, 3.0
    kept.look()
    assert len(started.processes) == 2
