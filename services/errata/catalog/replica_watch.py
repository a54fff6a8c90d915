"""Notices replicas that leave, lag behind or contradict the log, and that return."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

import grpc
import structlog

from errata.catalog.catalog import Catalog
from errata.catalog.happenings import Event, Kind
from errata.catalog.log_convert import Reported, list_replicas_request, reported
from errata.platform.settings import CatalogSettings
from errata_client._gen.errata.v1 import edit_log_pb2_grpc

_TIMEOUT_SECONDS = 5.0
_MAX_KNOWN = 20_000

_log = structlog.get_logger(__name__)


class Health:
    """What is known of the replicas: compares each list of them with the one before."""

    def __init__(self, lagging_entries: int) -> None:
        """Knows none; a replica lags beyond `lagging_entries`."""
        self._lagging = lagging_entries
        self._known: dict[str, Kind | None] = {}  # name → what is wrong with it

    def note(self, replicas: Sequence[Reported], now: float) -> list[Event]:
        """The events that a list of replicas shows; of replicas that are new, only what is wrong.

        Args:
            replicas: all that reported recently.
            now: seconds since 1970.
        """
        found, present = list[Event](), {each.name for each in replicas}
        for each in replicas:
            wrong, comment = self._wrong(each)
            before = self._known.pop(each.name, None)
            if wrong is not before:
                what = wrong or Kind.REPLICA_RETURNED
                found.append(_event(what, now, each.name, comment or f"{each.role}: it is back"))
            self._known[each.name] = wrong
        for name, before in list(self._known.items()):
            if name not in present and before is not Kind.REPLICA_LEFT:
                self._known[name] = Kind.REPLICA_LEFT
                found.append(_event(Kind.REPLICA_LEFT, now, name, "it no longer reports"))
        while len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]  # the one that was seen longest ago
        return found

    def _wrong(self, replica: Reported) -> tuple[Kind | None, str]:
        if not replica.agrees:
            return Kind.REPLICA_DISAGREES, f"{replica.role}: its history is not the log's"
        if replica.lag > self._lagging:
            return Kind.REPLICA_LAGGING, f"{replica.role}: {replica.lag:,} entries behind"
        return None, ""


def _event(kind: Kind, now: float, replica: str, comment: str) -> Event:
    return Event(0, kind, int(now * 1e6), None, "", "", comment, replica)


class ReplicaWatch:
    """Asks the log for its replicas again and again, and notes what happened to them."""

    def __init__(
        self, catalog: Catalog, channel: grpc.aio.Channel, settings: CatalogSettings
    ) -> None:
        """Asks over `channel`; the caller closes it."""
        self._catalog = catalog
        self._seconds = settings.replicas_seconds
        self._health = Health(settings.lagging_entries)
        self._stub = cast(
            "edit_log_pb2_grpc.EditLogServiceAsyncStub",
            edit_log_pb2_grpc.EditLogServiceStub(channel),
        )

    async def run(self) -> None:
        """Asks until it is cancelled."""
        while True:
            try:
                replicas = await self._replicas()
            except grpc.aio.AioRpcError as error:
                _log.warning("the log does not list its replicas", code=error.code().name)
            else:
                others = [each for each in replicas if each.name != self._catalog.name]
                if events := self._health.note(others, time.time()):
                    await self._catalog.note_replicas(events)
            await asyncio.sleep(self._seconds)

    async def _replicas(self) -> list[Reported]:
        found, token = list[Reported](), ""
        while True:
            response = await self._stub.ListReplicas(
                list_replicas_request(token), timeout=_TIMEOUT_SECONDS
            )
            found += reported(response)
            token = response.next_page_token
            if not token:
                return found
