"""A server that audits: what cannot be audited does not happen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from errata.platform.security.active import Security, active, configure_security
from errata.platform.server import GrpcServer
from errata.platform.settings import SecuritySettings

_SERVICE = "errata.v1.EditingService"


@pytest.fixture
def security(tmp_path: Path) -> Iterator[Security]:
    before = active()
    settings = SecuritySettings(audit="changes", audit_dir=tmp_path)
    made = Security(settings, service="writer")
    configure_security(made)
    yield made
    configure_security(before)


async def _asked(name: str, happened: list[str]) -> grpc.StatusCode:
    """Calls one method of a real server, whose handler notes that it ran."""

    async def handle(request: bytes, context: Any) -> bytes:
        happened.append(name)
        return b""

    server = GrpcServer("127.0.0.1:0", [])
    methods = {name: grpc.unary_unary_rpc_method_handler(handle)}
    server.server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(_SERVICE, methods)]
    )
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call: Any = channel.unary_unary(f"/{_SERVICE}/{name}")
            await call(b"", timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await server.stop(0)
    return grpc.StatusCode.OK


async def test_a_change_is_audited_before_and_after_it(security: Security, tmp_path: Path) -> None:
    happened: list[str] = []
    assert await _asked("CompactLane", happened) is grpc.StatusCode.OK
    assert await _asked("ListLanes", happened) is grpc.StatusCode.OK
    lines = [json.loads(line) for line in (tmp_path / "writer.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["begun", "ok"], "reads are not audited"
    assert {line["what"] for line in lines} == {f"{_SERVICE}/CompactLane"}
    assert happened == ["CompactLane", "ListLanes"]


async def test_a_change_that_cannot_be_audited_does_not_happen(security: Security) -> None:
    audit = security.audit
    assert audit is not None
    os.close(audit._file)
    audit._file = os.open("/dev/full", os.O_WRONLY)
    happened: list[str] = []
    assert await _asked("CompactLane", happened) is grpc.StatusCode.UNAVAILABLE
    assert not happened
    assert await _asked("ListLanes", happened) is grpc.StatusCode.OK, "reads go on"
