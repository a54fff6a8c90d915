import asyncio
import base64
import pickle
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import status_pb2

from errata import errors
from errata.platform.rpc_errors import error_classes
from errata.platform.server import GrpcServer
from errata.platform.status import code_of
from errata.platform.status_convert import from_status, to_status
from errata_client import Client
from errata_client import errors as client_errors
from errata_client._gen.errata.v1 import edit_log_pb2, edit_log_pb2_grpc, types_pb2
from tests.waiting import PATIENCE

ALL = error_classes()


def test_the_tree_in_the_docstring_names_every_class() -> None:
    for kind in ALL:
        assert kind.__name__ in (errors.__doc__ or ""), f"{kind.__name__} is not in the tree"


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_a_status_a_reason_and_a_client_class(
    kind: type[errors.ErrataError],
) -> None:
    assert code_of(kind) not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    assert f"ERROR_REASON_{kind.reason}" in types_pb2.ErrorReason.keys()
    assert kind.reason in client_errors.known_reasons()


def test_every_reason_of_the_contract_is_raised_by_a_class() -> None:
    raised = {f"ERROR_REASON_{kind.reason}" for kind in ALL}
    declared = set(types_pb2.ErrorReason.keys())
    assert declared - raised == {"ERROR_REASON_UNSPECIFIED", "ERROR_REASON_INTERNAL"}


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_a_round_trip_through_a_status(kind: type[errors.ErrataError]) -> None:
    error = kind("the message", field="edits[3].target", limit=256)
    back = from_status(status_pb2.Status.FromString(to_status(error).SerializeToString()))
    assert back.reason == error.reason
    assert back.message == "the message"
    assert back.metadata == {"limit": "256"}
    received = client_errors.from_status(to_status(error))
    assert received.reason == error.reason
    assert received.field == "edits[3].target"


def test_a_delay_reaches_the_client() -> None:
    received = client_errors.from_status(
        to_status(errors.QueueFullError("full", retry_after_seconds=1.5))
    )
    assert isinstance(received, client_errors.QueueFullError)
    assert received.retry_after_seconds == 1.5
    assert received.retryable


def test_an_error_keeps_every_attribute_between_processes() -> None:
    full = errors.LaneFullError("full", field="lane", lane_is_full=True, taken=8)
    back = pickle.loads(pickle.dumps(full))
    assert (type(back), str(back)) == (errors.LaneFullError, "full")
    assert vars(back) == vars(full)
    back = pickle.loads(pickle.dumps(errors.StartupError("stop", remedy="go")))
    assert (back.message, back.remedy) == ("stop", "go")
    back = pickle.loads(pickle.dumps(errors.QueueFullError("full", retry_after_seconds=2)))
    assert back.retry_after_seconds == 2.0


class _Service(edit_log_pb2_grpc.EditLogServiceServicer):
    async def GetHead(self, request: object, context: object) -> object:
        raise RuntimeError("a bug with a secret in its message")


async def test_bugs_are_internal_errors_that_reveal_only_a_trace_id() -> None:
    server = GrpcServer("127.0.0.1:0", [])
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(_Service(), server.server)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetHead(edit_log_pb2.GetHeadRequest())
    await server.stop(0)
    received = client_errors.from_rpc_error(caught.value)
    assert received.code is grpc.StatusCode.INTERNAL
    assert "secret" not in received.message
    assert received.metadata["trace_id"] in received.message


async def test_undecodable_bytes_are_the_callers_fault() -> None:
    server = GrpcServer("127.0.0.1:0", [])
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(_Service(), server.server)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary("/errata.v1.EditLogService/ReportPosition")
        # Field 1 (a message) whose string holds a lone surrogate's bytes: no valid UTF-8.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x0a\x05\x0a\x03\xed\xa0\x80")
    await server.stop(0)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert client_errors.from_rpc_error(caught.value).reason == "INVALID_REQUEST"


async def test_a_port_in_use_is_named() -> None:
    first = GrpcServer("127.0.0.1:0", [])
    await first.start()
    second = GrpcServer(f"127.0.0.1:{first.port}", [])
    with pytest.raises(errors.StartupError, match=f"{first.port}.*in use.*another address"):
        await second.start()
    await first.stop(0)
    for address in ("nonsense", "127.0.0.1:99999", ":80"):
        with pytest.raises(errors.StartupError, match="give host:port"):
            await GrpcServer(address, []).start()


def test_an_unmapped_class_is_detected() -> None:
    with pytest.raises(KeyError):
        code_of(errors.ErrataError)


class _Behind(edit_log_pb2_grpc.EditLogServiceServicer):
    calls = 0

    async def GetHead(self, request: Any, context: Any) -> Any:
        self.calls += 1
        raise errors.ReplicaBehindError("stands at 3", applied_seq=3)


async def test_a_replica_behind_is_reported_and_not_retried_by_the_channel() -> None:
    """A retry would run into the deadline, whose error has no details."""
    server, service = GrpcServer("127.0.0.1:0", []), _Behind()
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(service, server.server)
    await server.start()
    with Client(f"127.0.0.1:{server.port}") as client:
        with pytest.raises(client_errors.ReplicaBehindError):
            await asyncio.to_thread(client.head, timeout=PATIENCE)
    await server.stop(0)
    assert service.calls == 1


_LONG = {
    "letters": "lanes/" + "x" * 200_000,
    "letters of three bytes": "線" * 70_000,
    "per cent": "%" * 200_000,
    "characters of four bytes": "\U0001f600" * 50_000,
}


@pytest.mark.parametrize("text", _LONG.values(), ids=_LONG)
@pytest.mark.parametrize("kind", ALL)
def test_what_an_error_repeats_fits_into_metadata(
    kind: type[errors.ErrataError], text: str
) -> None:
    """A lane's name of 200 kB overflowed the metadata, and the caller got another error."""
    many = {f"key_{index}": text for index in range(40)}
    error = kind(f"there is no lane {text}; choose another.", field=text, **many)
    status = to_status(error)
    back = from_status(status)
    assert back.message.startswith("there is no lane ")
    assert back.message.endswith("; choose another.")
    encoded = len(base64.b64encode(status.SerializeToString())) + len(quote(back.message))
    assert encoded < 4_096 + len(back.message)  # gRPC quotes fewer characters than `quote`


@pytest.mark.parametrize("text", _LONG.values(), ids=_LONG)
async def test_an_error_that_repeats_a_long_text_arrives(text: str) -> None:
    class Refusing(edit_log_pb2_grpc.EditLogServiceServicer):
        async def GetHead(self, request: object, context: object) -> object:
            raise errors.UnknownLaneError(f"no lane {text}.", field=text, lane=text)

    server = GrpcServer("127.0.0.1:0", [])
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(Refusing(), server.server)
    await server.start()
    options = [("grpc.max_metadata_size", 4_096), ("grpc.absolute_max_metadata_size", 4_096)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
        stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetHead(edit_log_pb2.GetHeadRequest())
    await server.stop(0)
    received = client_errors.from_rpc_error(caught.value)
    assert isinstance(received, client_errors.UnknownLaneError)
    assert received.metadata["lane"].startswith(text[:8])


def test_short_texts_are_whole() -> None:
    message = "a" * 500
    assert from_status(to_status(errors.UnknownLaneError(message, lane="b" * 100))).message == (
        message
    )
