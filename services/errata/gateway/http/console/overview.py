"""The first page: is everything well, what happens, what waits."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import Counter as Metric
from starlette.responses import Response

from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.calls_convert import Entry, Filters, Placed
from errata.gateway.http.console.entries import entries_between
from errata.gateway.http.console.pages import Pages
from errata.gateway.http.console.visit import Visit
from errata.platform.metrics import GRPC_REQUESTS, HTTP_REQUESTS
from errata_client.edits import EditState
from errata_client.types import Head

_RECENT = 8
_COUNTED = 100
_WINDOW_SECONDS = 60.0
_ASKING = ("Generate", "Score", "completions")
_WAITING = (EditState.PROPOSED, EditState.SCHEDULED, EditState.REQUESTED, EditState.FITTING)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the replicas are what they should be, in a word and a sentence."""

    grade: str
    title: str
    detail: str


class Pulse:
    """How many answers this gateway gave a second, lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Counts from now on."""
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque([(clock(), _answers())])

    def per_second(self) -> float:
        """The rate of the last minute, or since the console was last looked at."""
        now, count = self._clock(), _answers()
        while len(self._samples) > 1 and self._samples[1][0] < now - _WINDOW_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        if now - self._samples[-1][0] >= 1:
            self._samples.append((now, count))
        return (count - before) / max(now - then, 1.0)


def _answers() -> float:
    """Answers that this gateway gave since its start."""
    return _total(GRPC_REQUESTS, "method") + _total(HTTP_REQUESTS, "route")


def _total(metric: Metric, label: str) -> float:
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels[label].endswith(_ASKING)
    )


class OverviewPage:
    """`/console`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages
        self._pulse = Pulse()

    async def show(self, visit: Visit) -> Response:
        """Head, replicas, lanes, what waits and what happened last."""
        request = visit.request
        head = await self._backend.call(request, calls.head())
        replicas, lanes, entries, waiting = await asyncio.gather(
            self._backend.call(request, calls.replicas(head.seq)),
            self._backend.call(request, calls.lanes()),
            self._recent(visit, head),
            asyncio.gather(
                *(
                    self._backend.call(request, calls.edits(Filters(state), _COUNTED))
                    for state in _WAITING
                )
            ),
        )
        counts = {
            state: (len(page.items), bool(page.next_page_token))
            for state, page in zip(_WAITING, waiting, strict=True)
        }
        return self._pages.page(
            visit,
            "overview",
            head=head,
            replicas=replicas,
            verdict=verdict_on(replicas, head),
            lanes=lanes,
            in_force=sum(lane.sizes.get("edits", 0) for lane in lanes),
            waiting=counts,
            answers=self._pulse.per_second(),
            entries=entries,
            refreshes=visit.asked("refresh") != "off",
        )

    async def _recent(self, visit: Visit, head: Head) -> list[Entry]:
        """The newest entries, newest first; none for somebody who may not read the log."""
        if not visit.may("ListEntries") or not head.seq:
            return []
        first = max(head.floor_seq, head.seq - _RECENT + 1, 1)
        return (await entries_between(self._backend, visit.request, first, head.seq))[::-1]


def verdict_on(replicas: Sequence[Placed], head: Head) -> Verdict:
    """Compares histories with the log, and states with those of peers at the same position.

    Only replicas of one role are peers: a retrieval replica holds less than a worker.
    """
    strays = [each.replica.name for each in replicas if not each.replica.agrees]
    peers: dict[str, Counter[str]] = {}
    for each in replicas:
        if each.digest_at:
            peers.setdefault(each.replica.role, Counter())[each.digest_at] += 1
    behind = [each.replica.name for each in replicas if each.replica.lag > 0]
    if strays:
        named = ", ".join(strays)
        return Verdict("bad", "A replica contradicts the log", f"{named}: another history.")
    if split := sorted(role for role, digests in peers.items() if len(digests) > 1):
        named = ", ".join(split)
        return Verdict("bad", "Replicas differ", f"At {head.seq}, {named} hold different states.")
    if not replicas:
        return Verdict("bad", "No replica reports", "Nothing can answer; look at the workers.")
    if behind:
        named = ", ".join(behind)
        return Verdict("busy", "Catching up", f"{named} will reach {head.seq} soon.")
    which = "The replica agrees" if len(replicas) == 1 else f"All {len(replicas)} replicas agree"
    return Verdict("good", which, f"Same history, same state, all at position {head.seq}.")
