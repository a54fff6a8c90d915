from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest
from structlog.testing import capture_logs

from errata.artifacts import ArtifactStore, digest_of
from errata.errors import (
    ArtifactCorruptError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
    StartupError,
    UnavailableError,
)


@pytest.fixture(params=["local", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    urls = {"local": str(tmp_path / "a"), "file": f"file://{tmp_path}/a", "memory": "memory://a"}
    yield ArtifactStore(urls[request.param])
    fsspec.filesystem("memory").store.clear()


async def test_stored_bytes_are_returned(store: ArtifactStore) -> None:
    data = b"tensor" * 100_000
    digest = await store.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert await store.put(data) == digest
    assert await store.get(digest) == data
    assert b"".join([chunk async for chunk in store.chunks(digest)]) == data
    assert store.path_of(digest).endswith(f"/a/{digest[:2]}/{digest}.safetensors")


async def test_empty_artifact(store: ArtifactStore) -> None:
    assert await store.get(await store.put(b"")) == b""


def test_files_are_listed_and_removed_unless_they_are_stored_again(store: ArtifactStore) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    assert list(store.files()) == []
    digests = {store.save(b"one"), store.save(b"three")}
    files = {file.digest: file for file in store.files()}
    assert set(files) == digests
    assert sorted(file.size_bytes for file in files.values()) == [3, 5]
    file = files[digest_of(b"one")]
    first = store.modified(file)
    assert not store.remove(file, before)
    store.save(b"one")
    assert store.modified(file) > first
    assert store.remove(file, datetime.now(UTC) + timedelta(minutes=1))
    assert store.remove(file, before), "it is gone already"
    assert [file.size_bytes for file in store.files()] == [5]


async def test_unknown_digest(store: ArtifactStore) -> None:
    digest = digest_of(b"unknown")
    with pytest.raises(NotFoundError, match=digest):
        await store.get(digest)
    with pytest.raises(NotFoundError, match=digest):
        await anext(store.chunks(digest))


@pytest.mark.parametrize("digest", ["", "ab", "A" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
async def test_digest_that_could_be_a_path_is_refused(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(InvalidRequestError):
        await store.get(digest)
    with pytest.raises(InvalidRequestError):
        await anext(store.chunks(digest))


async def test_damage_is_noticed_and_put_repairs_it(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    digest = await store.put(b"tensor")
    Path(store.path_of(digest)).write_bytes(b"tenser")
    with pytest.raises(ArtifactCorruptError, match=digest):
        await store.get(digest)
    with pytest.raises(ArtifactCorruptError, match=digest):
        assert [chunk async for chunk in store.chunks(digest)]
    await store.put(b"tensor")
    assert await store.get(digest) == b"tensor"


async def test_concurrent_puts_leave_one_file(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    digests = await asyncio.gather(*(store.put(b"same") for _ in range(16)))
    assert set(digests) == {digest_of(b"same")}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        f"{digests[0]}.safetensors"
    ]


async def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    store = ArtifactStore(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", failing)
        with pytest.raises(UnavailableError, match="No space left"):
            await store.put(b"tensor")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    await store.put(b"tensor")


async def test_sizes_are_checked_before_anything_is_read_or_written(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path), max_bytes=1_024)
    with pytest.raises(LimitExceededError, match="ERRATA_ARTIFACTS__MAX_BYTES"):
        await store.put(bytes(1_025))
    assert not list(tmp_path.rglob("*")), "nothing was written"
    digest = await store.put(b"tensor")
    assert await store.get(digest, 6) == b"tensor"
    for size in (5, 7, 0):
        with pytest.raises(ArtifactCorruptError, match="bytes that the log announces"):
            await store.get(digest, size)
    with pytest.raises(ArtifactCorruptError, match="announced with -1"):
        await store.get(digest, -1)
    Path(store.path_of(digest)).write_bytes(bytes(1_025))
    with pytest.raises(LimitExceededError):
        await store.get(digest)


def test_unknown_protocol_is_refused() -> None:
    with pytest.raises(StartupError, match="nowhere"):
        ArtifactStore("nowhere://bucket")


@pytest.mark.parametrize("method", ["info", "pipe_file"])
async def test_any_exception_of_an_object_store_means_unavailable(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    class EndpointError(Exception):
        """Object stores' clients raise exceptions that are no OSError."""

    def fail(*_: object, **__: object) -> bytes:
        raise EndpointError("could not connect")

    monkeypatch.setattr(fsspec.filesystem("memory"), method, fail)
    with capture_logs() as logs, pytest.raises(UnavailableError, match="log has the cause"):
        await ArtifactStore("memory://away").put(b"tensor")
    assert logs[0]["cause"] == "could not connect"
