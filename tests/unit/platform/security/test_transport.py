"""TLS of real servers: who is let in, and certificates that are renewed."""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from typer.testing import CliRunner

from errata.cli import app
from errata.errors import StartupError
from errata.gateway.http.server import HttpServer
from errata.launch.certs import DevelopmentCa, make_ca
from errata.platform.metrics import metrics_endpoint
from errata.platform.security.active import Security, active, configure_security
from errata.platform.security.transport import client_context, is_loopback
from errata.platform.server import GrpcServer, open_channel
from errata.platform.settings import SecuritySettings, load_settings
from tests.waiting import PATIENCE


def _settings(ca: DevelopmentCa, name: str = "log", **more: Any) -> SecuritySettings:
    return SecuritySettings(
        tls_ca_file=ca.ca,
        tls_cert_file=ca.certificate(name),
        tls_key_file=ca.key(name),
        **more,
    )


@pytest.fixture
def ca(tmp_path: Path) -> DevelopmentCa:
    return make_ca(tmp_path / "ca")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = active()
    yield
    configure_security(before)


@asynccontextmanager
async def _serving(settings: SecuritySettings, *, is_front: bool = False) -> AsyncIterator[int]:
    configure_security(Security(settings))
    server = GrpcServer("127.0.0.1:0", [], is_front=is_front)
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop(0)


async def _is_healthy(channel: grpc.aio.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    async with channel:
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


async def test_services_of_one_ca_reach_each_other_and_others_do_not(
    ca: DevelopmentCa, tmp_path: Path
) -> None:
    other = make_ca(tmp_path / "other")
    async with _serving(_settings(ca)) as port:
        address = f"127.0.0.1:{port}"
        assert await _is_healthy(open_channel(address))
        configure_security(Security(_settings(other)))
        assert not await _is_healthy(open_channel(address)), "a CA that the server does not know"
        assert not await _is_healthy(grpc.aio.insecure_channel(address))
        only_ca = grpc.ssl_channel_credentials(ca.ca.read_bytes())
        assert not await _is_healthy(grpc.aio.secure_channel(address, only_ca))


async def test_people_need_no_certificate_at_the_front(ca: DevelopmentCa) -> None:
    async with _serving(_settings(ca, "gateway"), is_front=True) as port:
        only_ca = grpc.ssl_channel_credentials(ca.ca.read_bytes())
        assert await _is_healthy(grpc.aio.secure_channel(f"127.0.0.1:{port}", only_ca))


def _serial(port: int, ca: Path) -> int:
    text = ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(ca), timeout=10)
    return x509.load_pem_x509_certificate(text.encode()).serial_number


async def test_a_renewed_certificate_is_served_without_a_restart(
    ca: DevelopmentCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("errata.gateway.http.server._RENEW_SECONDS", 0.05)
    async with _serving(_settings(ca, "gateway"), is_front=True) as port:
        http = HttpServer("127.0.0.1:0", Starlette())
        await http.start()
        before = await asyncio.to_thread(_serial, port, ca.ca)
        assert await asyncio.to_thread(_serial, http.port, ca.ca) == before
        make_ca(ca.folder)
        assert await asyncio.to_thread(_serial, port, ca.ca) != before
        while await asyncio.to_thread(_serial, http.port, ca.ca) == before:
            await asyncio.sleep(0.05)
        await http.stop()


async def test_a_renewed_certificate_is_presented_without_a_restart(
    ca: DevelopmentCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("errata.platform.security.renewing._LOOK_SECONDS", 0.0)
    other = make_ca(tmp_path / "other")
    async with _serving(_settings(ca)) as port:
        files = {"tls_ca_file": "ca.pem", "tls_cert_file": "cert.pem", "tls_key_file": "key.pem"}
        own = {name: tmp_path / file for name, file in files.items()}

        def put(certificates: DevelopmentCa) -> None:
            settings = _settings(certificates, "writer")
            for name, path in own.items():
                path.write_bytes(getattr(settings, name).read_bytes())

        put(other)
        configure_security(Security(SecuritySettings(**own)))
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            put(ca)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)


def _reads_metrics(port: int, settings: SecuritySettings | None) -> bool:
    context = None if settings is None else client_context(settings)
    scheme = "http" if settings is None else "https"
    address = f"{scheme}://127.0.0.1:{port}/metrics"
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE, context=context) as page:
            return b"errata_info" in page.read()
    except OSError:
        return False


async def test_metrics_follow_the_setting(ca: DevelopmentCa) -> None:
    ours, only_ca = _settings(ca), SecuritySettings(tls_ca_file=ca.ca)
    configure_security(Security(ours))
    with metrics_endpoint("127.0.0.1:0") as port:
        assert _reads_metrics(port, only_ca)
        before = await asyncio.to_thread(_serial, port, ca.ca)
        make_ca(ca.folder)
        assert await asyncio.to_thread(_serial, port, ca.ca) != before, "renewed"
        assert not _reads_metrics(port, None)
    configure_security(Security(_settings(ca, metrics="certificates")))
    with metrics_endpoint("127.0.0.1:0") as port:
        assert _reads_metrics(port, ours)
        assert not _reads_metrics(port, only_ca)
    configure_security(Security(_settings(ca, metrics="plaintext")))
    with metrics_endpoint("127.0.0.1:0") as port:
        assert _reads_metrics(port, None)
    configure_security(Security(SecuritySettings()))
    with pytest.raises(StartupError, match="there is no TLS"), metrics_endpoint("0.0.0.0:0"):
        pass


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_plaintext_is_refused_where_other_machines_reach_it(address: str) -> None:
    configure_security(Security(SecuritySettings()))
    with pytest.raises(StartupError, match="there is no TLS"):
        await GrpcServer(address, []).start()
    with pytest.raises(StartupError, match="there is no TLS"):
        await HttpServer(address, Starlette()).start()
    configure_security(Security(SecuritySettings(allow_plaintext=True)))
    server = GrpcServer(address, [])
    await server.start()
    await server.stop(0)


def test_what_is_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("host")


@pytest.mark.parametrize("wrong", ["missing", "no PEM", "another key"])
async def test_files_that_cannot_serve_are_refused_at_start(
    ca: DevelopmentCa, tmp_path: Path, wrong: str
) -> None:
    settings = _settings(ca)
    match wrong:
        case "missing":
            ca.certificate("log").unlink()
        case "no PEM":
            ca.certificate("log").write_text("nothing")
        case "another key":
            settings = settings.model_copy(update={"tls_key_file": ca.key("writer")})
    configure_security(Security(settings))
    with pytest.raises(StartupError, match="TLS: "):
        await GrpcServer("127.0.0.1:0", []).start()


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"TLS_CERT_FILE": "a"}, "given together"),
        ({"AUTHENTICATE": "true"}, "authenticate needs tls_cert_file"),
    ],
)
def test_settings_that_would_protect_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], why: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"ERRATA_SECURITY__{name}", value)
    with pytest.raises(StartupError, match=why):
        load_settings()


def test_the_command_makes_a_ca_and_tokens(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["certs", "make", str(tmp_path), "--host", "log.example"])
    assert made.exit_code == 0, made.output
    names = x509.load_pem_x509_certificate((tmp_path / "log.pem").read_bytes()).extensions
    alternatives = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "log.example" in alternatives.get_values_for_type(x509.DNSName)
    assert alternatives.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://errata/log"
    ]
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    ca_before = (tmp_path / "ca.pem").read_bytes()
    assert runner.invoke(app, ["certs", "make", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "ca.pem").read_bytes() == ca_before, "renewing keeps the CA"
    token = ["certs", "token", str(tmp_path), "alice", "--role", "editor"]
    assert runner.invoke(app, token).output.count(".") == 2
    refused = runner.invoke(app, [*token, "--role", "writer"])
    assert "tokens cannot give writer" in str(refused.exception)
