"""The nemesis: kills, stops and failpoints at random, one process after the other."""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable

from errata.platform.failpoints import POINTS
from tests.robustness.clients import Clients
from tests.robustness.history import Fault
from tests.robustness.rig import Rig

_POINTS_OF = {
    "log": ("log.", "audit.", "artifacts.load"),
    "writer": ("writer.", "artifacts.", "subscriber."),
    "retrieval": ("replica.", "retrieval.", "subscriber."),
    "worker": ("replica.", "worker.", "subscriber."),
}


def _points_of(process: str) -> list[str]:
    """The failpoints that a process of this name passes."""
    return [p for p in sorted(POINTS) if p.startswith(_POINTS_OF[process.partition("-")[0]])]


# With these a service may end by itself: what it needs was away, or a newer writer came.
_MAY_END_WITH = {"LOG_UNAVAILABLE", "UNAVAILABLE", "STARTUP_FAILED", "EPOCH_LOST"}
_RECOVERY_SECONDS = 120.0


class Nemesis:
    """Does one thing at a time, and waits until the system is whole again."""

    def __init__(self, rig: Rig, clients: Clients, seed: int, *, kills_only: bool = False) -> None:
        """Does nothing yet; with `kills_only`, it never stops a process or sets a failpoint."""
        self._rig, self._clients = rig, clients
        self._kills_only = kills_only
        self._random = random.Random(seed)
        self.points: Counter[str] = Counter()
        self.deaths: Counter[str] = Counter()  # by failpoint
        self.recoveries: list[float] = []  # seconds from a kill to an acknowledged change
        self.restarts: list[float] = []  # the same from the start of what was killed

    def run(self, seconds: float, rounds: int = 0) -> None:
        """Works for so long, or for so many rounds if that is not 0."""
        end, done = time.monotonic() + seconds, 0
        while (done < rounds) if rounds else (time.monotonic() < end):
            self.once()
            done += 1

    def once(self) -> None:
        """One fault, and the recovery from it."""
        name = self._random.choice(self._rig.names)
        acts: list[Callable[[str], None]] = [self._kill]
        if not self._kills_only:
            acts += [self._kill, self._stop]
            if name != "redis":
                acts += [self._failpoint, self._failpoint]
        self._random.choice(acts)(name)
        self._raise_the_dead()
        time.sleep(self._random.uniform(0.0, 0.1))

    def _kill(self, name: str) -> None:
        names = [name]
        if name in ("redis", "log") and self._random.random() < 0.3:
            names = ["redis", "log"]
        begun = time.monotonic()
        for each in names:
            self._rig.kill(each)
        time.sleep(self._random.choice((0.0, 0.0, 0.3)))
        started = time.monotonic()
        for each in names:
            self._rig.start(each, ready=False)
        if self._until_whole():
            self.recoveries.append(self._clients.last_ok - begun)
            self.restarts.append(self._clients.last_ok - started)

    def _stop(self, name: str) -> None:
        self._rig.signal(name, signal.SIGSTOP)
        self._rig.history.add("faults", Fault(name, "stop", time.monotonic()))
        time.sleep(self._random.choice((0.05, 0.3, 1.0, 3.0)))
        self._rig.signal(name, signal.SIGCONT)
        self._until_whole()

    def sweep(self) -> None:
        """Every failpoint of every kind of process, with every act that it can take, once."""
        names = [name for name in self._rig.names if name not in ("redis", "retrieval-2")]
        for name in names:
            for point in _points_of(name):
                for act in ("kill", "delay:0.2", "error")[: 2 + (POINTS[point] is not None)]:
                    self._strike(name, point, act, "@1" if act == "kill" else "%0.5", 1.5)
                    self._raise_the_dead()
                    if self._clients.problems:
                        return

    def _failpoint(self, name: str) -> None:
        point = self._random.choice(_points_of(name))
        acts = ["kill", "kill", f"delay:{self._random.choice((0.01, 0.1, 0.5))}"]
        if POINTS[point] is not None:
            acts += ["error", "error"]
        act = self._random.choice(acts)
        when = f"@{self._random.choice((1, 2, 3, 10, 30))}"
        if act != "kill":
            when = self._random.choice(("", "%0.3", when))
        self._strike(name, point, act, when, self._random.uniform(0.5, 2.5))

    def _strike(self, name: str, point: str, act: str, when: str, seconds: float) -> None:
        """Runs a process with a failpoint for so long, or until that kills it."""
        self.points[f"{point}={act.partition(':')[0]}"] += 1
        rig = self._rig
        rig.kill(name)
        rig.start(name, f"{point}={act}{when}", ready=act != "kill")
        end = time.monotonic() + seconds
        while time.monotonic() < end and rig.status(name) is None:
            time.sleep(0.01)
        if rig.status(name) is None:
            rig.kill(name)
        else:
            status = rig.wait_dead(name)
            if status == -signal.SIGKILL:
                rig.history.add("faults", Fault(name, "failpoint-kill", time.monotonic()))
                self.deaths[point] += 1
            else:
                self._judge_end(name, status)
        rig.start(name, ready=False)
        self._until_whole()

    def _raise_the_dead(self) -> None:
        for name in self._rig.names:
            status = self._rig.status(name)
            if status is not None:
                self._judge_end(name, status)
                self._rig.wait_dead(name)
                self._rig.start(name)

    def _judge_end(self, name: str, status: int) -> None:
        """A service may end by itself only for a known reason."""
        tail = self._rig.tail(name)
        found = re.findall(r"error \[(\w+)\]", tail)
        self._rig.history.add("faults", Fault(name, "ended", time.monotonic()))
        if not found or found[-1] not in _MAY_END_WITH:
            self._clients.problems.append(f"{name} ended with {status}: {tail}")

    def _until_whole(self) -> bool:
        """Waits until a change is acknowledged that was not before; False if none was."""
        end = time.monotonic() + _RECOVERY_SECONDS
        since = time.monotonic()
        while self._clients.last_ok <= since:
            self._raise_the_dead()
            if self._clients.problems:
                return False
            if time.monotonic() > end:
                tails = "\n".join(f"{name}: {self._rig.tail(name)}" for name in self._rig.names)
                self._clients.problems.append(f"nothing was acknowledged any more:\n{tails}")
                return False
            time.sleep(0.005)
        return True
