"""The writer's service as callers of canaries use it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from errata.log.canary_entries import CanaryComparison
from errata.platform.security.rules import Role
from errata.writer.record import State
from errata.writer.service import EditingService
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import editing_pb2 as pb
from errata_client._gen.errata.v1 import types_pb2
from tests.integration.retrieval.stack import FACTS, LANE
from tests.waiting import PATIENCE

PROMOTE, ROLL_BACK = pb.EndCanaryRequest.OUTCOME_PROMOTE, pb.EndCanaryRequest.OUTCOME_ROLL_BACK
NAME = "canaries/trial"
OWN = {"claim": "sentinel", "refine_steps": 0}
"""A RECIPE lane whose edits claim their own prompts."""
OPERATOR = frozenset({Role.OPERATOR})


def call(seconds: float = PATIENCE) -> Any:
    return SimpleNamespace(time_remaining=lambda: seconds)


def new_id() -> str:
    return str(uuid.uuid4())


class Desk:
    """Calls the writer's service."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.service = EditingService(writer, LANE)

    async def open(self, id: str = "", **fields: Any) -> pb.SetCanaryResponse:
        asked: dict[str, Any] = {"name": NAME, "share": 0.1, "author": "ann", **fields}
        request = pb.SetCanaryRequest(request_id=id or new_id(), **asked)
        return await self.service.SetCanary(request, call())

    async def end(
        self, outcome: Any, id: str = "", seconds: float = PATIENCE, **fields: Any
    ) -> pb.EndCanaryResponse:
        asked: dict[str, Any] = {"name": NAME, "author": "eve", "comment": "enough", **fields}
        request = pb.EndCanaryRequest(request_id=id or new_id(), outcome=outcome, **asked)
        return await self.service.EndCanary(request, call(seconds))

    async def list(self, **fields: Any) -> list[pb.Canary]:
        response = await self.service.ListCanaries(pb.ListCanariesRequest(**fields), call())
        return list(response.canaries)

    async def submit(
        self,
        target: str,
        canary: str = NAME,
        number: int = 0,
        id: str = "",
        lane: str = "",
        **fields: Any,
    ) -> str:
        spec = types_pb2.EditSpec(prompt=FACTS[number][0], target=target, canary=canary, **fields)
        asked: dict[str, Any] = {"edits": [spec], "author": "ann", "lane": lane}
        request = pb.SubmitEditsRequest(request_id=id or new_id(), **asked)
        (edit,) = (await self.service.SubmitEdits(request, call())).edits
        return str(edit.name)

    async def put(self, *args: Any, **fields: Any) -> str:
        """Submits an edit, and waits until it is in force."""
        name = await self.submit(*args, **fields)
        ledger = self.writer.ledger
        await ledger.wait_until(lambda: ledger.get(name).state.settled)
        assert ledger.get(name).state is State.COMMITTED, ledger.get(name).error
        return name

    async def get(self, name: str) -> pb.Edit:
        return (await self.service.GetEdit(pb.GetEditRequest(name=name), call())).edit


async def ended(writer: Writer) -> pb.Canary:
    """The canary, once it has ended."""
    await writer.ledger.wait_until(lambda: not writer.ledger.canaries.has_open)
    (canary,) = await Desk(writer).list()
    return canary


async def wait_for(writer: Writer, true: Callable[[CanaryComparison], bool]) -> None:
    """Waits until what was counted has this property; the writer asks every two seconds."""
    async with asyncio.timeout(PATIENCE):
        while (counts := writer.canaries.tally.of(NAME)) is None or not true(counts):
            await asyncio.sleep(0.05)
