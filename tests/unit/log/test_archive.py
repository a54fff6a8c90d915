"""Files of the archive come back as they were, and say what is wrong with them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import ArtifactCorruptError, DataLossError, PreconditionError
from errata.log.archive.container import pack, unpack
from errata.log.archive.index import (
    ArchiveIndex,
    pack_fold,
    pack_index,
    unpack_fold,
    unpack_index,
)
from errata.log.archive.segment import SegmentRef, pack_segment, unpack_segment
from errata.log.chain import ORIGIN, ChainedEntry, Position, extend
from errata.log.entries import ArtifactRef
from errata.log.fold import LogFold
from errata.log.manifest import lane_models_of, parts_of
from errata.log.standing import Standing

LOG = "a" * 32
REF = ArtifactRef("ab" * 32, 7)


def chained(base: Position, payloads: list[bytes]) -> list[ChainedEntry]:
    entries = []
    for payload in payloads:
        base = extend(base, payload)
        entries.append(ChainedEntry(base.seq, payload, base.chain_digest))
    return entries


@given(st.integers(0, 2**40), st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_a_segment_holds_its_entries_byte_for_byte(seq: int, payloads: list[bytes]) -> None:
    base = Position(seq, bytes(range(32)))
    entries = chained(base, payloads)
    data = pack_segment(LOG, base, entries)
    segment = SegmentRef(base, entries[-1].position, REF)
    assert unpack_segment(data, LOG, segment) == tuple(entries)
    assert data == pack_segment(LOG, base, entries), "so that two services make the same file"


@given(st.data())
def test_no_changed_byte_of_a_segment_is_taken_for_another_entry(draw: st.DataObject) -> None:
    """The digest of the file would tell, too; here the segment has to by itself."""
    entries = chained(ORIGIN, [b"first", b"second " * 9, b""])
    data = pack_segment(LOG, ORIGIN, entries)
    segment = SegmentRef(ORIGIN, entries[-1].position, REF)
    where = draw.draw(st.integers(0, len(data) - 1))
    value = draw.draw(st.integers(0, 255).filter(lambda value: value != data[where]))
    changed = data[:where] + bytes([value]) + data[where + 1 :]
    try:
        found = unpack_segment(changed, LOG, segment)
    except (DataLossError, PreconditionError):
        return
    assert found == tuple(entries), "a byte of the header that nothing depends on"


@given(st.integers(0, 200))
def test_a_segment_that_is_cut_short_is_refused(length: int) -> None:
    entries = chained(ORIGIN, [b"first", b"second"])
    data = pack_segment(LOG, ORIGIN, entries)
    segment = SegmentRef(ORIGIN, entries[-1].position, REF)
    with pytest.raises(ArtifactCorruptError, match="Restore the artifact store"):
        unpack_segment(data[: min(length, len(data) - 1)], LOG, segment)


def test_a_stored_fold_keeps_the_order_of_requests() -> None:
    """Also of edits in different states, which its JSON keeps apart."""
    fold = LogFold()
    states = (Standing.COMMITTED, Standing.REQUESTED, Standing.COMMITTED, Standing.REQUESTED)
    names = ("edits/2-0", "edits/3-0", "edits/10-0", "edits/10-1")
    fold.restore_standings(
        (name, "lanes/a", state) for name, state in zip(names, states, strict=True)
    )
    fold.seq = 12
    position = Position(12, bytes(32))
    found = unpack_fold(pack_fold(LOG, position, fold), LOG, position)
    assert tuple(found.standings()) == names
    assert found.active("lanes/a") == fold.active("lanes/a")


def test_an_index_names_contiguous_segments() -> None:
    ends = [Position(seq, bytes([seq]) * 32) for seq in (4, 9)]
    bases = [ORIGIN, ends[0]]
    segments = tuple(SegmentRef(base, end, REF) for base, end in zip(bases, ends, strict=True))
    index = ArchiveIndex(segments, ArtifactRef("cd" * 32, 9))
    found = unpack_index(pack_index(LOG, index), LOG)
    assert found == index
    assert (found.position, found.size_bytes) == (ends[1], 14)
    assert found.artifacts() == (REF, REF, index.fold)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"segments": [], "fold": ["ab", 1]}',
        b'{"segments": [[0, "", "ab", 1]], "fold": ["ab", 1]}',
        b'{"segments": [[4, "zz", "ab", 1]], "fold": ["ab", 1]}',
        b'{"segments": [[4, "00", "ab", 1], [4, "00", "ab", 1]], "fold": ["ab", 1]}',
        b'{"segments": [[4, "00", "ab", 1]]}',
        b'{"segments": [[4, "00"]], "fold": ["ab", 1]}',
    ],
)
def test_an_index_without_its_content_is_refused(body: bytes) -> None:
    with pytest.raises(ArtifactCorruptError):
        unpack_index(pack("index", LOG, {}, body), LOG)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_reason(data: bytes) -> None:
    for each in (data, b"errata archive\n" + data):
        with pytest.raises(ArtifactCorruptError):
            unpack(each, "segment", LOG)


def test_a_manifest_names_its_parts() -> None:
    values = {"parts": {"fold": [[REF.digest, 7]], "a/contents": [[REF.digest, 7]]}}
    manifest = json.dumps({**values, "lane_models": {"a": "cd" * 32, "b": ""}}).encode()
    assert parts_of(manifest) == (REF,)
    assert lane_models_of(manifest) == ("cd" * 32,)
    assert parts_of(b'{"parts": {}}') == ()


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"parts": 3}', b'{"parts": {"a": [{}]}}', b"\xff"]
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactCorruptError, match="manifest"):
        parts_of(data)
