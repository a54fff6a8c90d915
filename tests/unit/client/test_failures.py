"""The SDK's messages for failures for which no server sends a reason."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager

import grpc
import pytest

from errata.platform.addresses import free_port
from errata_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    ErrataError,
    InvalidRequestError,
    PreconditionError,
    UnavailableError,
)

_RAW = ("ipv4:", "last error", "errors resolving", "lookup", "Failed to connect", "Deadline Exceed")
# A TLS server's response to a client that does not start with TLS: a fatal alert.
_TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"


@contextmanager
def _http() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _tls() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with caller:
                    caller.settimeout(5)
                    caller.recv(64)
                    caller.sendall(_TLS_ALERT)

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _failure(target: str, timeout: float = 20.0) -> ErrataError:
    with Client(target, timeout=timeout) as client, pytest.raises(ErrataError) as caught:
        client.head()
    _check_words(caught.value, target)
    return caught.value


def _check_words(error: ErrataError, target: str) -> None:
    assert target in error.message
    assert error.reason
    assert not [raw for raw in _RAW if raw in error.message], error.message
    assert isinstance(error.__cause__, grpc.RpcError), "what gRPC said is still to be found"


@pytest.mark.parametrize("timeout", [20.0, 0.5])
def test_nobody_there_is_said_however_short_the_time(timeout: float) -> None:
    error = _failure(f"127.0.0.1:{free_port()}", timeout)
    assert isinstance(error, UnavailableError)
    assert "nothing answers" in error.message
    assert "`errata up`" in error.message


def test_both_clients_and_their_streams_say_the_same() -> None:
    target = f"127.0.0.1:{free_port()}"
    with Client(target, timeout=1.0) as client, pytest.raises(UnavailableError) as caught:
        list(client.stream("a"))
    _check_words(caught.value, target)


async def test_the_asynchronous_client_says_it_too() -> None:
    target = f"127.0.0.1:{free_port()}"
    async with AsyncClient(target, timeout=1.0) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.head()
        _check_words(caught.value, target)
        with pytest.raises(UnavailableError) as caught:
            [chunk async for chunk in client.stream("a")]
        _check_words(caught.value, target)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere.invalid:7700", "host of nowhere.invalid:7700 is unknown"),
        ("http://127.0.0.1:7700", "is not an address; give host:port"),
        ("localhost", "is not an address; give host:port"),
    ],
)
def test_an_address_that_leads_nowhere(target: str, said: str) -> None:
    error = _failure(target)
    assert isinstance(error, UnavailableError)
    assert said in error.message


@pytest.mark.parametrize("serve", [_http, _tls])
def test_another_kind_of_server(serve: object) -> None:
    assert callable(serve)
    with serve() as port:
        error = _failure(f"127.0.0.1:{port}")
    assert isinstance(error, UnavailableError)
    assert "something listens" in error.message


def test_another_grpc_server() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        error = _failure(f"127.0.0.1:{port}")
    finally:
        server.stop(0).wait()
    assert isinstance(error, PreconditionError)
    assert "not an Errata gateway" in error.message


def test_a_deadline_names_the_call_and_its_seconds() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        error = _failure(f"127.0.0.1:{silent.getsockname()[1]}", 0.5)
    assert isinstance(error, DeadlineExceededError)
    assert error.reason == "DEADLINE_EXCEEDED"
    assert error.retryable
    assert "GetHead got no answer" in error.message
    assert "within 0.5 s" in error.message
    assert error.metadata["timeout_seconds"] == "0.5"


def test_where_to_ask_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("ERRATA_TARGET", target)
    monkeypatch.setenv("ERRATA_TIMEOUT", "1")
    with Client() as client, pytest.raises(UnavailableError, match=target):
        client.head()
    other = f"127.0.0.1:{free_port()}"
    with Client(other) as client, pytest.raises(UnavailableError, match=other):
        client.head()


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("ERRATA_TIMEOUT", seconds)
    with pytest.raises(InvalidRequestError, match="ERRATA_TIMEOUT must be a number of seconds"):
        Client()
    Client(timeout=5).close()
