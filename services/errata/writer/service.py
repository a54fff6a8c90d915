"""Handlers of `EditingService`: check, call, convert."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from errata.editing.namespaces import DEFAULT, own_namespace
from errata.errors import (
    InvalidRequestError,
    LimitExceededError,
)
from errata.log.entries import Verdict
from errata.log.read_only import refuse_change
from errata.platform.deadlines import before_deadline
from errata.platform.paging import number_of_token, page_size, page_token
from errata.platform.security.identity import (
    author_of,
    has_role,
    may_see,
    require_lanes,
    require_namespaces,
    require_sight_of,
)
from errata.platform.security.rules import Role
from errata.writer import canary_convert, convert, policy_convert
from errata.writer.canaries import no_canary
from errata.writer.canary_book import CanaryBook, CanaryRecord
from errata.writer.canary_sight import require_changeable, seen_readers
from errata.writer.conflicts import Conflict
from errata.writer.intake import Draft
from errata.writer.record import EditRecord
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import editing_pb2, editing_pb2_grpc, types_pb2

SERVICE_NAME = editing_pb2.DESCRIPTOR.services_by_name["EditingService"].full_name
M = TypeVar("M", bound=Message)
_LONGEST_WAIT_SECONDS = 3_600.0
_MAX_PAGE_BYTES = 2 * 1024 * 1024
_MAX_ANSWER_BYTES = 8 * 1024 * 1024


class EditingService(editing_pb2_grpc.EditingServiceServicer):
    """Serves a writer over gRPC."""

    def __init__(self, writer: Writer, default_lane: str, read_only_at: int | None = None) -> None:
        """Serves `writer`; refuses changes if the system shows the earlier `read_only_at`."""
        self._writer = writer
        self._default_lane = default_lane
        self._read_only_at = read_only_at

    async def SubmitEdits(
        self, request: editing_pb2.SubmitEditsRequest, context: Any
    ) -> editing_pb2.SubmitEditsResponse:
        """Accepts edits; they are durable before the response."""
        self._check_writable()
        drafts = self._drafts(request.edits)
        lane = self._lane(request.lane, drafts)
        require_lanes([lane])
        require_namespaces({draft.namespace for draft in drafts})
        seq, records = await self._writer.submit(
            request.request_id, drafts, lane, author_of(request.author)
        )
        ledger = self._writer.ledger
        found = ledger.conflicts_of([record.edit for record in records], records[0].lane)
        return editing_pb2.SubmitEditsResponse(
            seq=seq, edits=self._edits(records), warnings=self._conflicts(found)
        )

    async def GetEdit(
        self, request: editing_pb2.GetEditRequest, context: Any
    ) -> editing_pb2.GetEditResponse:
        """One edit and its state."""
        record = self._writer.ledger.get(request.name)
        self._require([request.name])
        return editing_pb2.GetEditResponse(edit=self._edit(record))

    async def WaitEdits(
        self, request: editing_pb2.WaitEditsRequest, context: Any
    ) -> editing_pb2.WaitEditsResponse:
        """Waits until all edits are settled, at most until shortly before the deadline."""
        ledger = self._writer.ledger
        if not request.names:
            raise InvalidRequestError("name at least one edit.", field="names")
        self._require(request.names)
        moving = set(request.names)

        def at_rest() -> bool:
            """Evaluated after every change of the ledger, for what was not at rest before."""
            moving.difference_update([n for n in moving if self._writer.rests(ledger.get(n))])
            return not moving

        try:
            async with asyncio.timeout(_wait_seconds(context)):
                await ledger.wait_until(at_rest)
        except TimeoutError:
            pass  # the response says so
        edits = _within_a_message(self._edits_named(request.names))
        all_settled = all(ledger.get(name).state.settled for name in request.names)
        return editing_pb2.WaitEditsResponse(edits=edits, all_settled=all_settled)

    async def ListEdits(
        self, request: editing_pb2.ListEditsRequest, context: Any
    ) -> editing_pb2.ListEditsResponse:
        """The edits that match the request's filters, in log order."""
        wanted = convert.edit_filter(request)
        if wanted.namespace is not None:
            require_namespaces([wanted.namespace])
        records = self._writer.ledger.records()
        seen = (record for record in records if may_see(record.lane, record.namespace))
        messages = map(self._edit, filter(wanted.matches, seen))
        edits, token = _page("edits", messages, request.page_size, request.page_token)
        return editing_pb2.ListEditsResponse(edits=edits, next_page_token=token)

    async def RevertEdits(
        self, request: editing_pb2.RevertEditsRequest, context: Any
    ) -> editing_pb2.RevertEditsResponse:
        """Reverts committed edits."""
        self._check_writable()
        self._require(request.names)
        seq, meanings = await self._writer.revert(
            request.request_id,
            request.names,
            request.comment,
            author_of(request.author),
            _wait_seconds(context),
        )
        return editing_pb2.RevertEditsResponse(seq=seq, meanings=meanings)

    async def CompactLane(
        self, request: editing_pb2.CompactLaneRequest, context: Any
    ) -> editing_pb2.CompactLaneResponse:
        """Retrains a lane from its active edits."""
        self._check_writable()
        require_lanes([request.lane])
        for edit in self._writer.ledger.active_edits(request.lane):
            require_sight_of(edit.name, request.lane, own_namespace(edit.namespace))
        order, author = convert.order(request), author_of(request.author)
        seq, made = await self._writer.compact(
            request.request_id, request.lane, order, author, _wait_seconds(context)
        )
        return convert.compacted_message(seq, made)

    async def PreviewEdits(
        self, request: editing_pb2.PreviewEditsRequest, context: Any
    ) -> editing_pb2.PreviewEditsResponse:
        """What edits would do; commits and appends nothing."""
        self._check_writable()
        wait = _wait_seconds(context)
        if request.names:
            if request.edits:
                raise InvalidRequestError("give edits or names, not both.", field="names")
            lane = self._writer.ledger.get(request.names[0]).lane
            self._require(request.names)
            seq, made = await self._writer.previews.waiting(request.names, wait)
        else:
            drafts = self._drafts(request.edits)
            lane = self._lane(request.lane, drafts)
            require_lanes([lane])
            require_namespaces({draft.namespace for draft in drafts})
            seq, made = await self._writer.preview(drafts, lane, wait)
        previews = [
            policy_convert.preview_message(one, self._conflicts(one.conflicts)) for one in made
        ]
        return editing_pb2.PreviewEditsResponse(previews=previews, seq=seq, lane=lane)

    async def ReviewEdits(
        self, request: editing_pb2.ReviewEditsRequest, context: Any
    ) -> editing_pb2.ReviewEditsResponse:
        """Approves or rejects proposed edits."""
        self._check_writable()
        self._require(request.names)
        _within_a_message(self._edits_named(request.names))
        seq, records = await self._writer.reviews.decide(
            request.request_id,
            request.names,
            policy_convert.verdict_of(request),
            request.comment,
            author_of(request.author),
            _wait_seconds(context),
        )
        return editing_pb2.ReviewEditsResponse(seq=seq, edits=self._edits(records))

    async def WithdrawEdits(
        self, request: editing_pb2.WithdrawEditsRequest, context: Any
    ) -> editing_pb2.WithdrawEditsResponse:
        """Withdraws edits that wait."""
        self._check_writable()
        self._require(request.names)
        _within_a_message(self._edits_named(request.names))
        seq, records = await self._writer.reviews.decide(
            request.request_id,
            request.names,
            Verdict.WITHDRAWN,
            request.comment,
            author_of(request.author),
            _wait_seconds(context),
            of_others=has_role(Role.OPERATOR),
        )
        return editing_pb2.WithdrawEditsResponse(seq=seq, edits=self._edits(records))

    async def SetProbes(
        self, request: editing_pb2.SetProbesRequest, context: Any
    ) -> editing_pb2.SetProbesResponse:
        """Replaces the deployment's probe set."""
        self._check_writable()
        seq = await self._writer.set_probes(
            request.request_id, policy_convert.probes_of(request), author_of(request.author)
        )
        return editing_pb2.SetProbesResponse(seq=seq)

    async def GetProbes(
        self, request: editing_pb2.GetProbesRequest, context: Any
    ) -> editing_pb2.GetProbesResponse:
        """The deployment's probe set."""
        ledger = self._writer.ledger
        return policy_convert.probes_message(ledger.probes_seq, ledger.probes)

    async def SetCanary(
        self, request: editing_pb2.SetCanaryRequest, context: Any
    ) -> editing_pb2.SetCanaryResponse:
        """Opens a canary, or changes an open one."""
        self._check_writable()
        known = self._canaries.get(request.name)
        if known is not None:
            require_changeable(known)
        wanted = canary_convert.wanted_of(request, known, self._default_lane)
        require_lanes([wanted.lane])
        require_namespaces({wanted.namespace, *wanted.readers})
        seq, record = await self._writer.canaries.set(
            request.request_id,
            wanted,
            author_of(request.author),
            _wait_seconds(context),
            must_be_new=request.must_be_new,
        )
        return editing_pb2.SetCanaryResponse(seq=seq, canary=self._canary(record))

    async def EndCanary(
        self, request: editing_pb2.EndCanaryRequest, context: Any
    ) -> editing_pb2.EndCanaryResponse:
        """Promotes a canary, or rolls it back."""
        self._check_writable()
        known = self._canaries.get(request.name)
        if known is None or not may_see(known.lane, known.namespace):
            raise no_canary(request.name)
        ending = canary_convert.ending_of(request, author_of(request.author))
        seq, record = await self._writer.canaries.end(
            request.request_id, ending, _wait_seconds(context)
        )
        return editing_pb2.EndCanaryResponse(seq=seq, canary=self._canary(record))

    async def ListCanaries(
        self, request: editing_pb2.ListCanariesRequest, context: Any
    ) -> editing_pb2.ListCanariesResponse:
        """The canaries, newest first."""
        token = request.page_token
        before = number_of_token("canaries", token) if token else None
        found = [
            record
            for record in (self._canaries.open_ones() if request.only_open else self._canaries)
            if may_see(record.lane, record.namespace)
            and request.name in ("", record.name)
            and (before is None or record.opened_seq < before)
        ]
        if request.name and not found and before is None:
            raise no_canary(request.name)
        messages = map(self._canary, found)
        canaries, more = _page("canaries", messages, request.page_size, "")
        # Canaries that are opened meanwhile must not move the next page.
        following = page_token("canaries", str(canaries[-1].opened_seq)) if more else ""
        return editing_pb2.ListCanariesResponse(canaries=canaries, next_page_token=following)

    async def ListLanes(
        self, request: editing_pb2.ListLanesRequest, context: Any
    ) -> editing_pb2.ListLanesResponse:
        """The configured lanes."""
        messages = (
            convert.lane_message(
                seq,
                lane,
                self._default_lane,
                self._writer.report(lane.lane),
                requires_approval=name in self._writer.ledger.reviewed_lanes,
            )
            for name, (seq, lane) in sorted(self._writer.ledger.lanes.items())
            if may_see(name)
        )
        lanes, token = _page("lanes", messages, request.page_size, request.page_token)
        return editing_pb2.ListLanesResponse(lanes=lanes, next_page_token=token)

    @property
    def _canaries(self) -> CanaryBook:
        return self._writer.ledger.canaries

    def _canary(self, record: CanaryRecord) -> editing_pb2.Canary:
        counted = self._writer.canaries.tally.of(record.name)
        return canary_convert.canary_message(
            replace(record, readers=seen_readers(record)),
            self._canaries.edits_of(record.name),
            counted,
        )

    def _drafts(self, specs: Iterable[types_pb2.EditSpec]) -> list[Draft]:
        """The edits; one that names a canary and no namespace belongs to the canary's."""
        drafts = []
        for index, spec in enumerate(specs):
            known = self._canaries.get(spec.canary)
            is_seen = known is not None and may_see(known.lane, known.namespace)
            unnamed = known.namespace if known is not None and is_seen else DEFAULT
            drafts.append(convert.draft(index, spec, unnamed))
        return drafts

    def _lane(self, named: str, drafts: Iterable[Draft]) -> str:
        """The lane that a request names; else that of its edits' canaries, or the default lane."""
        known = (self._canaries.get(draft.canary) for draft in drafts)
        lanes = {one.lane for one in known if one and may_see(one.lane, one.namespace)}
        return named or (lanes.pop() if len(lanes) == 1 else self._default_lane)

    def _require(self, names: Iterable[str]) -> None:
        """Returns if the caller may use the lanes and the namespaces of these edits."""
        records = [self._writer.ledger.get(name) for name in names]
        require_lanes({record.lane for record in records})
        for record in records:
            require_sight_of(record.edit.name, record.lane, record.namespace)

    def _check_writable(self) -> None:
        if self._read_only_at is not None:
            refuse_change(self._read_only_at)

    def _conflicts(self, found: Iterable[Conflict]) -> list[editing_pb2.EditConflict]:
        """The conflicts with edits that the caller may see."""
        records = ((each, self._writer.ledger.get(each.name)) for each in found)
        return [
            policy_convert.conflict_message(each, record)
            for each, record in records
            if may_see(record.lane, record.namespace)
        ]

    def _edit(self, record: EditRecord) -> editing_pb2.Edit:
        _, lane = self._writer.ledger.lanes[record.lane]
        superseded_by = self._writer.ledger.superseded_by(record)
        return convert.edit_message(record, lane.method, superseded_by)

    def _edits_named(self, names: Iterable[str]) -> Iterator[editing_pb2.Edit]:
        return (self._edit(self._writer.ledger.get(name)) for name in names)

    def _edits(self, records: Sequence[EditRecord]) -> list[editing_pb2.Edit]:
        return [self._edit(record) for record in records]


def _wait_seconds(context: Any) -> float:
    """How long a handler can wait for work to end."""
    left: float | None = context.time_remaining()
    return _LONGEST_WAIT_SECONDS if left is None else before_deadline(left)


def _within_a_message(edits: Iterable[editing_pb2.Edit]) -> list[editing_pb2.Edit]:
    """The edits, if one message can carry them."""
    found: list[editing_pb2.Edit] = []
    num_bytes = 0
    for edit in edits:
        num_bytes += edit.ByteSize()
        if num_bytes > _MAX_ANSWER_BYTES:
            raise LimitExceededError(
                f"the first {len(found) + 1:,} edits have more than {_MAX_ANSWER_BYTES:,} bytes; "
                "name fewer at once.",
                field="names",
                limit=_MAX_ANSWER_BYTES,
            )
        found.append(edit)
    return found


def _page(kind: str, items: Iterable[M], size: int, token: str) -> tuple[list[M], str]:
    """Up to `size` messages within `_MAX_PAGE_BYTES`, but at least one if there is one."""
    start, size = number_of_token(kind, token) if token else 0, page_size(size)
    page: list[M] = []
    num_bytes = 0
    for item in itertools.islice(items, start, None):
        num_bytes += item.ByteSize()
        if page and (len(page) == size or num_bytes > _MAX_PAGE_BYTES):
            return page, page_token(kind, str(start + len(page)))
        page.append(item)
    return page, ""
