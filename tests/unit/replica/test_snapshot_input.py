"""Manifests and parts that cannot be used are refused, and what they say is what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from errata.editing.artifact import Artifact
from errata.editing.lane.pages import LaneTable, cut, join
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    ErrataError,
    LogBehindWitnessError,
    NotFoundError,
    PreconditionError,
    SeqTrimmedError,
)
from errata.log.chain import Position
from errata.log.entries import ArtifactRef, SnapshotTaken
from errata.log.fold import LogFold
from errata.log.history import LogState
from errata.log.reader import EntryReader
from errata.replica.fold_pages import fold_pages, read_fold
from errata.replica.snapshot import Manifest, Snapshot
from errata.replica.snapshot_start import begin

REF = ArtifactRef("ab" * 32, 7)
MODEL = "5" * 64
MANIFEST = Manifest(
    "log", Position(3, b"\1" * 32), MODEL, "6" * 64, "6" * 64, {"lanes/a": ""}, {"fold": (REF,)}
)
NAMED = SnapshotTaken(3, b"\1" * 32, REF, "6" * 64, MODEL, "worker")


def _with(**changes: Any) -> bytes:
    return json.dumps({**json.loads(MANIFEST.to_bytes()), **changes}).encode()


def test_what_is_written_is_read() -> None:
    again = Manifest.from_bytes(MANIFEST.to_bytes())
    assert again.to_bytes() == MANIFEST.to_bytes()
    again.check(NAMED, MODEL)
    again.check(NAMED, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MANIFEST.to_bytes()[:-1],
        MANIFEST.to_bytes().replace(b'"seq"', b'"sek"'),
        MANIFEST.to_bytes().replace(b"errata-snapshot", b"errata-snapshop"),
        b"[]",
        b"\xff\xfe",
        _with(version=0),
        _with(parts={"fold": [["../../etc/passwd", 1]]}),
        _with(parts={"fold": [[REF.digest]]}),
        _with(parts=[1]),
        _with(chain_digest="zz"),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactCorruptError, match="cannot be read"):
        Manifest.from_bytes(data)


def test_a_newer_format_is_left_to_newer_versions() -> None:
    with pytest.raises(PreconditionError, match=r"format version 5.*Upgrade"):
        Manifest.from_bytes(_with(version=5, parts="of another form"))


@pytest.mark.parametrize(
    "named",
    [
        replace(NAMED, seq=4),
        replace(NAMED, chain_digest=b"\2" * 32),
        replace(NAMED, state_digest="7" * 64),
        replace(NAMED, base_model_digest="7" * 64),
    ],
)
def test_a_manifest_of_another_log_or_position_is_refused(named: SnapshotTaken) -> None:
    with pytest.raises(ArtifactCorruptError, match="not the snapshot that the log names"):
        MANIFEST.check(named, MODEL)


def test_a_manifest_of_another_base_model_is_refused() -> None:
    with pytest.raises(BaseModelMismatchError, match="load the model"):
        MANIFEST.check(NAMED, "8" * 64)


def _state(floor: int = 1) -> LogState:
    return LogState("log", Position(9, bytes(32)), floor, 1, snapshot=NAMED)


@pytest.mark.parametrize(
    "error", [NotFoundError("there is no artifact x."), ArtifactCorruptError("")]
)
async def test_what_cannot_be_loaded_is_told_and_the_log_is_read(error: ErrataError) -> None:
    async def load(named: SnapshotTaken) -> Snapshot:
        raise error

    async def restore(snapshot: Snapshot) -> None:
        raise AssertionError("nothing was loaded")

    with capture_logs() as events:
        assert await begin(_state(), load, restore) is None
    (event,) = events
    assert event["log_level"] == "error"
    assert "the log is read from entry 1" in event["event"]
    assert event["reason"] == error.message
    with pytest.raises(SeqTrimmedError, match=r"trimmed up to entry 4.*from a backup"):
        await begin(_state(floor=5), load, restore)
    assert await begin(replace(_state(floor=5), snapshot=None), load, restore) is None


TABLE = LaneTable(
    tuple(f"edits/{n}-0" for n in range(2_000)),
    Artifact(
        {"keys": torch.arange(4_000.0).reshape(2_000, 2), "idf": torch.ones(3)}
        | {f"expert.{n}.up": torch.full((2, 2), float(n)) for n in range(12)},
        {"method": "x"},
    ),
    frozenset({"keys"}),
    "expert.",
)


def _same(one: LaneTable, other: LaneTable) -> bool:
    return (one.edits, one.rows, one.units) == (other.edits, other.rows, other.units) and (
        one.artifact.to_bytes() == other.artifact.to_bytes()
    )


def test_a_table_is_cut_and_joined() -> None:
    pages = list(cut(TABLE))
    assert len(pages) > 3
    assert _same(join([Artifact.from_bytes(page.to_bytes()) for page in pages]), TABLE)
    empty = LaneTable((), Artifact({"keys": torch.zeros(0, 2)}, {}), frozenset({"keys"}))
    assert _same(join(list(cut(empty))), empty)


@pytest.mark.parametrize("removed", [0, 1_000, 1_999])
def test_a_removed_row_changes_its_page_only(removed: int) -> None:
    kept = [n for n in range(2_000) if n != removed]
    keys = TABLE.artifact.tensors["keys"]
    tensors = {**TABLE.artifact.tensors, "keys": keys[kept]}
    less = replace(
        TABLE,
        edits=tuple(TABLE.edits[n] for n in kept),
        artifact=Artifact(tensors, TABLE.artifact.metadata),
    )
    before, after = ({page.to_bytes() for page in cut(table)} for table in (TABLE, less))
    assert len(after - before) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pages: pages[1:],
        lambda pages: [],
        lambda pages: [pages[0], Artifact({}, {}), *pages[1:]],
        lambda pages: [pages[0], Artifact({"keys": torch.ones(3, 2)}, pages[1].metadata)],
        lambda pages: [pages[0], Artifact({"other": torch.ones(3, 2)}, pages[1].metadata)],
        lambda pages: [pages[0], pages[1], Artifact(pages[2].tensors, {"page": "rows"})],
    ],
)
def test_pages_that_do_not_belong_together_are_refused(
    spoil: Callable[[list[Artifact]], list[Artifact]],
) -> None:
    with pytest.raises(ArtifactCorruptError, match="do not belong together"):
        join(spoil(list(cut(TABLE))))


@pytest.mark.parametrize(
    "pages", [[], [b"{}"], [b"x"], [*fold_pages(LogFold(), {}), b"[[1]]"], [b"\xff"]]
)
def test_what_is_no_fold_is_refused(pages: list[bytes]) -> None:
    with pytest.raises(ArtifactCorruptError, match="the fold in the snapshot"):
        read_fold(pages)


async def test_a_reader_must_come_upon_the_entry_that_names_its_snapshot() -> None:
    async def none() -> list[int]:
        return []

    reader = EntryReader(none)
    reader.check_confirmed()
    reader.begin(LogFold(), NAMED)
    with pytest.raises(LogBehindWitnessError, match="no entry of the log names"):
        reader.check_confirmed()
