"""Failpoints: named places where tests let a process die, wait or fail.

A place costs one look into an empty dictionary unless `ERRATA_FAILPOINTS` switches it on:

    ERRATA_FAILPOINTS="log.witness.before_sync=kill@3, artifacts.before_rename=error%0.1"

`kill` ends the process as SIGKILL does, `delay:SECONDS` waits, `error` raises what the place can
meet anyway: an I/O error at a file, an unavailable service at a call. `@N` strikes at the Nth pass
only, `%P` at each pass with probability P; `#SEED` behind it makes the draw repeatable.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from errata.errors import LogUnavailableError, StartupError, UnavailableError

_log = structlog.get_logger(__name__)


def _io(name: str) -> Exception:
    return OSError(errno.EIO, f"failpoint {name}")


def _log_away(name: str) -> Exception:
    return LogUnavailableError(f"failpoint {name}; retry with the same request id.")


def _away(name: str) -> Exception:
    return UnavailableError(f"failpoint {name}; retry.")


_Failure = Callable[[str], Exception] | None
POINTS: Mapping[str, _Failure] = {
    # The log service.
    "log.open.before_witness": None,
    "log.append.before_redis": _log_away,
    "log.append.after_redis": _log_away,
    "log.append.before_witness": _log_away,
    "log.append.after_witness": _log_away,
    "log.epoch.before_redis": _log_away,
    "log.epoch.after_redis": _log_away,
    "log.epoch.after_witness": _log_away,
    "log.witness.before_write": _io,
    "log.witness.before_sync": _io,
    "log.witness.after_sync": None,
    "log.publish.before_head": None,
    "log.tail.before_adopt": _log_away,
    "log.admission.page": _log_away,
    "log.read.page": _log_away,
    "log.trim.before_redis": None,
    "log.trim.after_redis": None,
    "log.subscribe.begin": _log_away,
    "log.subscribe.page": _log_away,
    "log.artifact.chunk": _away,
    "log.report": _log_away,
    # The artifact store, in every process that has one.
    "artifacts.before_write": _io,
    "artifacts.before_sync": _io,
    "artifacts.before_rename": _io,
    "artifacts.after_rename": _io,
    "artifacts.load": _io,
    # The writer.
    "writer.epoch.before": None,
    "writer.epoch.after": None,
    "writer.submit.before_append": _away,
    "writer.submit.after_append": _away,
    "writer.fit.before": None,
    "writer.fit.after": None,
    "writer.commit.before_store": None,
    "writer.commit.after_store": None,
    "writer.append.before_send": _log_away,
    "writer.append.before_fold": None,
    "writer.follow.before_fold": None,
    "writer.revert.before_append": None,
    "writer.revert.after_append": None,
    "writer.review.before_append": None,
    "writer.review.after_append": None,
    "writer.canary.before_reject": None,
    "writer.canary.before_append": None,
    "writer.canary.after_append": None,
    "writer.release.before_append": None,
    "writer.expire.before_append": None,
    "writer.compact.before_store": None,
    "writer.compact.after_append": None,
    "writer.snapshot.before_store": None,
    "writer.snapshot.before_check": None,
    "writer.snapshot.before_entry": None,
    "writer.snapshot.after_entry": None,
    # Every replica.
    "subscriber.before_verify": None,
    "subscriber.before_deliver": None,
    "replica.before_prepare": None,
    "replica.before_apply": None,
    "replica.after_apply": None,
    "replica.before_report": None,
    # The retrieval service and the workers.
    "retrieval.before_position": None,
    "retrieval.route": _away,
    "retrieval.snapshot.restored": None,
    "worker.before_position": None,
    "worker.generate": _away,
    # The catalog.
    "catalog.before_write": None,
    "catalog.after_write": None,
    "catalog.webhook.before_send": None,
    "catalog.webhook.after_send": None,
    # The audit log.
    "audit.before_write": _io,
    "audit.before_sync": _io,
    "audit.after_sync": None,
}
"""Every failpoint, and the error of its place; None where the code cannot meet one."""

_RULE = re.compile(
    r"(?P<name>[\w.]+)=(?P<act>kill|error|delay:(?P<seconds>\d+(\.\d+)?))"
    r"(@(?P<nth>[1-9]\d*)|%(?P<share>[01]?\.\d+|1)(#(?P<seed>\d+))?)?"
)


@dataclass(slots=True)
class _Rule:
    """What happens at one failpoint.

    Attributes:
        act: kill, error or delay.
        seconds: of a delay.
        nth: the only pass that is struck; 0 strikes all.
        share: probability that a pass is struck.
        draws: decide on passes.
        passes: so far.
    """

    name: str
    act: str
    seconds: float
    nth: int
    share: float
    draws: random.Random
    passes: int = field(default=0)

    def strikes(self) -> bool:
        self.passes += 1
        if self.nth:
            return self.passes == self.nth
        return self.share >= 1 or self.draws.random() < self.share

    def strike(self) -> None:
        """Ends the process or raises; a delay is the caller's to wait."""
        if self.act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.act == "error":
            failure = POINTS[self.name]
            assert failure is not None, "parsed rules have one"
            raise failure(self.name)


_active: dict[str, _Rule] = {}


def configure_failpoints(text: str) -> None:
    """Switches on the failpoints that `text` names, and all others off.

    Args:
        text: as in the module's docstring; empty switches all off.

    Raises:
        StartupError: an unknown name, or a rule that cannot be read; nothing was switched.
    """
    rules = [_parsed(part.strip()) for part in text.split(",") if part.strip()]
    if rules:
        _log.warning("failpoints are on: this process fails on purpose", failpoints=text)
    _active.clear()
    _active.update({rule.name: rule for rule in rules})


def failpoint(name: str) -> None:
    """A place in blocking code."""
    if _active and (rule := _active.get(name)) is not None and rule.strikes():
        rule.strike()
        time.sleep(rule.seconds)


async def failpoint_async(name: str) -> None:
    """A place in a coroutine; a delay lets other tasks run."""
    if _active and (rule := _active.get(name)) is not None and rule.strikes():
        rule.strike()
        await asyncio.sleep(rule.seconds)


def _parsed(text: str) -> _Rule:
    found = _RULE.fullmatch(text)
    if found is None:
        raise StartupError(
            f"failpoints (ERRATA_FAILPOINTS): {text!r} is no rule; write NAME=kill, NAME=error or "
            "NAME=delay:SECONDS, then @N or %PROBABILITY#SEED if you like."
        )
    name, act = found["name"], found["act"].partition(":")[0]
    if name not in POINTS:
        raise StartupError(
            f"failpoints (ERRATA_FAILPOINTS): there is no failpoint {name!r}; choose one of "
            f"{', '.join(sorted(POINTS))}."
        )
    if act == "error" and POINTS[name] is None:
        raise StartupError(
            f"failpoints (ERRATA_FAILPOINTS): {name} cannot meet an error; use kill or delay."
        )
    seed = int(found["seed"]) if found["seed"] else None
    return _Rule(
        name,
        act,
        float(found["seconds"] or 0),
        int(found["nth"] or 0),
        float(found["share"] or 1),
        random.Random(seed),
    )
