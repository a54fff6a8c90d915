"""Handlers of `EditingService`: check, call, convert."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from errata.errors import InvalidRequestError
from errata.platform.deadlines import before_deadline
from errata.platform.paging import number_of_token, page_size, page_token
from errata.writer import convert
from errata.writer.ledger import EditRecord
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import editing_pb2, editing_pb2_grpc

T = TypeVar("T")
_LONGEST_WAIT_SECONDS = 3_600.0


class EditingService(editing_pb2_grpc.EditingServiceServicer):
    """The edit-writer's front."""

    def __init__(self, writer: Writer, default_lane: str) -> None:
        """Serves `writer`."""
        self._writer = writer
        self._default_lane = default_lane

    async def SubmitEdits(
        self, request: editing_pb2.SubmitEditsRequest, context: Any
    ) -> editing_pb2.SubmitEditsResponse:
        """Accepts edits; durable before the answer."""
        drafts = [convert.draft(spec) for spec in request.edits]
        seq, records = await self._writer.submit(
            request.request_id, drafts, request.lane, request.author
        )
        return editing_pb2.SubmitEditsResponse(seq=seq, edits=self._edits(records))

    async def GetEdit(
        self, request: editing_pb2.GetEditRequest, context: Any
    ) -> editing_pb2.GetEditResponse:
        """One edit as it stands."""
        record = self._writer.ledger.get(request.name)
        return editing_pb2.GetEditResponse(edit=self._edit(record))

    async def WaitEdits(
        self, request: editing_pb2.WaitEditsRequest, context: Any
    ) -> editing_pb2.WaitEditsResponse:
        """Waits until all are settled, or just before the deadline."""
        ledger = self._writer.ledger
        if not request.names:
            raise InvalidRequestError("name at least one edit.", field="names")
        for name in request.names:
            ledger.get(name)

        def settled() -> bool:
            return all(ledger.get(name).state.settled for name in request.names)

        left = context.time_remaining()
        wait = _LONGEST_WAIT_SECONDS if left is None else before_deadline(left)
        try:
            await asyncio.wait_for(ledger.wait_until(settled), wait)
        except TimeoutError:
            pass  # the answer says so
        records = [ledger.get(name) for name in request.names]
        return editing_pb2.WaitEditsResponse(edits=self._edits(records), all_settled=settled())

    async def ListEdits(
        self, request: editing_pb2.ListEditsRequest, context: Any
    ) -> editing_pb2.ListEditsResponse:
        """Edits in log order."""
        state = convert.state_of(request.state)
        if state is None and request.state != editing_pb2.Edit.STATE_UNSPECIFIED:
            raise InvalidRequestError(f"state {request.state} is unknown.", field="state")
        found = (r for r in self._writer.ledger.records() if state in (None, r.state))
        records, token = _page("edits", found, request.page_size, request.page_token)
        return editing_pb2.ListEditsResponse(edits=self._edits(records), next_page_token=token)

    async def RevertEdits(
        self, request: editing_pb2.RevertEditsRequest, context: Any
    ) -> editing_pb2.RevertEditsResponse:
        """Takes committed edits back."""
        seq, meanings = await self._writer.revert(
            request.request_id, request.names, request.comment, request.author
        )
        return editing_pb2.RevertEditsResponse(seq=seq, meanings=meanings)

    async def ListLanes(
        self, request: editing_pb2.ListLanesRequest, context: Any
    ) -> editing_pb2.ListLanesResponse:
        """The lanes that edits can go to."""
        lanes = sorted(self._writer.ledger.lanes.items())
        found, token = _page("lanes", lanes, request.page_size, request.page_token)
        messages = [convert.lane_message(seq, lane, self._default_lane) for _, (seq, lane) in found]
        return editing_pb2.ListLanesResponse(lanes=messages, next_page_token=token)

    def _edit(self, record: EditRecord) -> editing_pb2.Edit:
        _, lane = self._writer.ledger.lanes[record.lane]
        return convert.edit_message(record, lane.method)

    def _edits(self, records: Sequence[EditRecord]) -> list[editing_pb2.Edit]:
        return [self._edit(record) for record in records]


def _page(kind: str, items: Iterable[T], size: int, token: str) -> tuple[list[T], str]:
    start, size = number_of_token(kind, token) if token else 0, page_size(size)
    found = list(itertools.islice(items, start, start + size + 1))
    return found[:size], page_token(kind, str(start + size)) if len(found) > size else ""
