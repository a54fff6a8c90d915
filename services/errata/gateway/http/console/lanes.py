"""The lanes: what they hold, how full they are, whether they forget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from starlette.responses import Response

from errata.errors import NotFoundError
from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.calls_convert import Filters
from errata.gateway.http.console.pages import Pages
from errata.gateway.http.console.visit import Visit
from errata_client.edits import Edit, EditState, Figures
from errata_client.types import Lane, Score

_CHECKED = 1_000
_RECHECKED = 20
_CANARIES = 1_000


@dataclass(frozen=True, slots=True)
class Fill:
    """How much of a lane is used: `used` of `most` units."""

    unit: str
    used: int
    most: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return min(self.used / self.most, 1.0)


@dataclass(frozen=True, slots=True)
class Checks:
    """Means of the figures that commits measured, over the first edits in force."""

    num_edits: int
    reliability: float
    generality: float | None
    locality: float


@dataclass(frozen=True, slots=True)
class Recheck:
    """Which of a lane's edits the model still answers, in their order."""

    lane: str
    scores: tuple[tuple[Edit, Score], ...]

    @property
    def kept(self) -> int:
        """Number of edits whose every token is still the model's first choice."""
        return sum(score.token_accuracy == 1.0 for _, score in self.scores)


class LanesPage:
    """`/console/lanes`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """All lanes of the caller."""
        return await self._page(visit, None)

    async def act(self, visit: Visit) -> Response:
        """Asks again for edits of one lane, spread over its age: have later edits undone them?

        Raises:
            NotFoundError: it has no edits in force.
        """
        lane = visit.typed("lane")
        page = await self._backend.call(
            visit.request, calls.edits(Filters(EditState.COMMITTED, lane), _CHECKED)
        )
        active = [edit for edit in page.items if not edit.superseded_by]
        if any(edit.spec.canary for edit in active):
            # What only a canary's requests read is not asked as everybody asks.
            tried = await self._backend.call(
                visit.request, calls.canaries(_CANARIES, only_open=True)
            )
            names = {canary.name for canary in tried.items}
            active = [edit for edit in active if edit.spec.canary not in names]
        if not active:
            raise NotFoundError(f"{lane or 'the lane'} has no edits in force; choose another one.")
        chosen = spread(active, _RECHECKED)
        scores = await asyncio.gather(
            *(self._backend.call(visit.request, calls.target_score(edit.spec)) for edit in chosen)
        )
        return await self._page(visit, Recheck(lane, tuple(zip(chosen, scores, strict=True))))

    async def _page(self, visit: Visit, recheck: Recheck | None) -> Response:
        lanes = await self._backend.call(visit.request, calls.lanes())
        checks = await asyncio.gather(*(self._checks(visit, lane) for lane in lanes))
        return self._pages.page(
            visit,
            "lanes",
            lanes=[
                (lane, fill_of(lane), checked) for lane, checked in zip(lanes, checks, strict=True)
            ],
            recheck=recheck,
        )

    async def _checks(self, visit: Visit, lane: Lane) -> Checks | None:
        wanted = Filters(EditState.COMMITTED, lane.name)
        page = await self._backend.call(visit.request, calls.edits(wanted, _CHECKED))
        return means([edit.figures for edit in page.items if edit.figures is not None])


def means(figures: Sequence[Figures]) -> Checks | None:
    """Means of figures; None of none."""
    if not figures:
        return None
    general = [each.generality for each in figures if each.generality is not None]
    return Checks(
        len(figures),
        fmean(each.reliability for each in figures),
        fmean(general) if general else None,
        fmean(each.locality for each in figures),
    )


def fill_of(lane: Lane) -> Fill | None:
    """How full a lane is; None if it has no limit."""
    sizes = lane.sizes
    if sizes.get("max_experts"):
        return Fill("experts", sizes.get("experts", 0), sizes["max_experts"])
    if sizes.get("capacity"):
        return Fill("edits", sizes.get("edits", 0), sizes["capacity"])
    return None


def spread(edits: Sequence[Edit], most: int) -> list[Edit]:
    """At most that many edits, from the oldest to the newest, in even steps."""
    if len(edits) <= most:
        return list(edits)
    return [edits[index * (len(edits) - 1) // (most - 1)] for index in range(most)]
