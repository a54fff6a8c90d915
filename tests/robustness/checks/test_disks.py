"""Disks that forget, fail, fill up or flip a bit, and clocks that jump."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from errata.platform.security.audit import AuditLog, verify
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc
from errata_client.errors import from_rpc_error
from tests.integration.log.harness import append_request
from tests.robustness import log_reading
from tests.robustness.history import Change, History
from tests.robustness.judge import Least, judge
from tests.robustness.rig import LOG_ONLY, Rig
from tests.robustness.shim import Shim
from tests.waiting import PATIENCE


class _Writer:
    """A client that appends to a rig's log and notes what it was told."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.epoch = 0
        self.number = 0

    def acquire(self) -> None:
        with grpc.insecure_channel(self.rig.addresses["log"]) as channel:
            stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
            asked = pb.AcquireEpochRequest(writer="test")
            self.epoch = stub.AcquireEpoch(asked, timeout=PATIENCE).epoch

    def append(self, times: int = 1) -> str:
        """Appends; the reason of the last refusal, empty if there was none."""
        reason = ""
        with grpc.insecure_channel(self.rig.addresses["log"]) as channel:
            stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
            for _ in range(times):
                self.number += 1
                comment = f"change {self.number}"
                request = append_request(self.epoch, comment=comment)
                begun = time.monotonic()
                try:
                    seq = stub.Append(request, timeout=PATIENCE).seq
                except grpc.RpcError as error:
                    reason = from_rpc_error(error).reason or "UNAVAILABLE"
                    continue
                words = log_reading.words_of_lane(json.dumps({"comment": comment}))
                told = Change(
                    request.request_id,
                    words,
                    (self.epoch,),
                    begun,
                    time.monotonic(),
                    "ok",
                    seq,
                )
                self.rig.history.add("changes", told)
        return reason

    def append_until_accepted(self) -> None:
        """Waits while the log has not noticed yet that Redis is back."""
        deadline = time.monotonic() + PATIENCE
        while (reason := self.append()) in ("LOG_UNAVAILABLE", "UNAVAILABLE"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert reason == "", reason

    def judged(self) -> list[str]:
        entries = log_reading.read_log(self.rig.addresses["log"])
        return judge(self.rig.history, entries, Least(delivered=0))


@pytest.fixture
def rig(tmp_path: Path, shim: Shim) -> Iterator[Rig]:
    # Without an audit log, which would refuse before the witness is asked.
    plain = {"security": {"audit": "off"}}
    with Rig(tmp_path / "data", LOG_ONLY, History(), shim=shim, settings=plain) as rig:
        rig.start_all()
        yield rig


@pytest.mark.promise("P2")
def test_what_is_acknowledged_was_synced(rig: Rig) -> None:
    """Both die in turns, and each loses all that it has not synced."""
    writer = _Writer(rig)
    writer.acquire()
    for name in ("log", "redis", "log", "redis"):
        assert writer.append(5) == ""
        rig.kill(name)
        assert rig.start(name), rig.tail(name)
        if name == "redis":  # the log service notices, and serves again
            writer.append_until_accepted()
    assert writer.judged() == []
    assert len(rig.history.witnesses) == 2


@pytest.mark.promise("P2")
def test_a_sync_that_fails_acknowledges_nothing(rig: Rig, shim: Shim) -> None:
    writer = _Writer(rig)
    writer.acquire()
    assert writer.append(3) == ""
    shim.control("log", eio=True)
    assert writer.append(2) != ""
    shim.control("log")
    assert writer.append() != "", "after a failed sync the file is not trusted before a restart"
    rig.kill("log")
    assert rig.start("log"), rig.tail("log")
    assert writer.append(2) == ""
    shim.control("redis", eio=True)
    assert writer.append() != ""
    assert rig.wait_dead("redis") != 0, "Redis ends rather than acknowledge"
    shim.control("redis")
    rig.heal()
    writer.append_until_accepted()
    assert writer.judged() == []


@pytest.mark.promise("P1", "P2", "P3")
@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0 * 365, -86_400.0 * 365 * 20])
def test_no_promise_hangs_on_the_clock_of_day(rig: Rig, shim: Shim, jump: float) -> None:
    writer = _Writer(rig)
    writer.acquire()
    for name in ("log", "redis"):
        assert writer.append(2) == ""
        shim.control(name, clock_seconds=jump)
        assert writer.append(2) == ""
    rig.kill("log")
    assert rig.start("log"), rig.tail("log")
    writer.acquire()
    assert writer.append(2) == ""
    assert writer.judged() == []
    with grpc.insecure_channel(rig.addresses["log"]) as channel:
        stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
        page = stub.ListEntries(pb.ListEntriesRequest(), timeout=PATIENCE)
    times = [pb.EntryPayload.FromString(e.payload).append_time.seconds for e in page.entries]
    assert abs(times[-1] - times[0] - jump) < 3_600, "else the clock did not jump"


_SAVE = """
import sys
from errata.artifacts.store import ArtifactStore
from errata.platform.failpoints import configure_failpoints
configure_failpoints(sys.argv[2])
ArtifactStore(sys.argv[1]).save(b"tensors " * 1000)
"""


def _save(folder: Path, shim: Shim, failpoints: str = "") -> int:
    environment = {**os.environ, **shim.environment("writer")}
    command = [sys.executable, "-c", _SAVE, str(folder / "artifacts"), failpoints]
    return subprocess.run(command, env=environment, check=False).returncode


@pytest.mark.promise("P2", "P9")
def test_an_artifact_with_a_name_is_whole_and_synced(tmp_path: Path, shim: Shim) -> None:
    for point in ("before_write", "before_sync", "before_rename", "after_rename"):
        assert _save(tmp_path, shim, f"artifacts.{point}=kill") < 0
        shim.lose_unsynced("writer", tmp_path)
        named = list((tmp_path / "artifacts").glob("*/*.safetensors"))
        assert len(named) == (point == "after_rename"), f"killed at {point}"
        for path in named:
            assert path.read_bytes() == b"tensors " * 1000
            path.unlink()
    assert _save(tmp_path, shim) == 0


@pytest.mark.promise("P2")
@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
def test_a_flipped_bit_of_redis_file_is_refused(rig: Rig, where: float) -> None:
    """The history that comes back is the one that was acknowledged, or nothing serves."""
    writer = _Writer(rig)
    writer.acquire()
    assert writer.append(10) == ""
    rig.kill("log")
    rig.kill("redis")
    (path,) = [p for p in rig.folder.glob("redis/**/*") if "incr" in p.name or p.suffix == ".aof"]
    _flip(path, int(path.stat().st_size * where))
    serves = rig.start("redis") and rig.start("log")
    if serves:  # the bit was in what Redis does not read
        assert writer.judged() == []
    else:
        assert (
            "DATA_LOSS" in rig.tail("log")
            or "Bad file format" in rig.tail("redis")
            or ("LOG_BEHIND_WITNESS" in rig.tail("log"))
        )


@pytest.mark.promise("P2")
def test_flipped_bits_of_the_witness_lose_nothing(rig: Rig) -> None:
    """One slot: the other is used. Both: the log refuses to start unwitnessed."""
    writer = _Writer(rig)
    writer.acquire()
    assert writer.append(5) == ""
    rig.kill("log")
    _flip(rig.witness, 40)
    assert rig.start("log"), rig.tail("log")
    assert writer.append(2) == ""
    assert writer.judged() == []
    rig.kill("log")
    for slot in (0, 4096):
        _flip(rig.witness, slot + 40)
    assert not rig.start("log")
    assert "WITNESS_MISSING" in rig.tail("log")


def test_a_flipped_bit_of_an_audit_log_shows(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, service="log", max_bytes=1_000_000)
    for number in range(6):
        log.write("who", "from", f"method {number}", "ok")
    log.close()
    size = path.stat().st_size
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
    data = path.read_bytes()
    for at in range(20, size - last, 37):
        _flip(path, at)
        assert verify(path)[1] is not None, f"bit 0 of byte {at}"
        path.write_bytes(data)


_FULL = """
mount -t tmpfs -o size=64k none "$0" || exit 77
exec "$@"
"""
_FILL = """
import sys
from pathlib import Path
from errata.artifacts.store import ArtifactStore
from errata.errors import UnavailableError
from errata.platform.security.audit import AuditLog, verify
folder = Path(sys.argv[1])
log = AuditLog(folder / "audit.jsonl", service="log", max_bytes=10**9)
written = 0
try:
    while True:
        log.write("who", "from", "method", "ok")
        written += 1
except UnavailableError:
    pass
assert verify(folder / "audit.jsonl") == (written, None), "a half line was left"
store = ArtifactStore(str(folder / "artifacts"))
try:
    store.save(bytes(100_000))
    raise SystemExit("it was stored")
except UnavailableError:
    pass
assert not [p for p in folder.rglob("artifacts/**/*") if p.is_file()], "a part was left"
log.close()
(folder / "audit.jsonl").unlink()
store.save(b"small")
"""


def test_a_full_disk_refuses_and_leaves_no_half(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("a small tmpfs needs unshare")
    place = tmp_path / "small"
    place.mkdir()
    command = ["unshare", "-m", "sh", "-c", _FULL, str(place), sys.executable, "-c", _FILL]
    done = subprocess.run([*command, str(place)], capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr or done.returncode == 77:
        pytest.skip(f"this machine mounts no tmpfs for this user: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
