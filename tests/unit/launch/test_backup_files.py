"""The files of a backup: what was written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import DataLossError, PreconditionError
from errata.launch.backup import manifest as form
from errata.launch.backup import segments
from errata.launch.backup.manifest import Manifest, read_manifest
from errata.launch.backup.segments import SegmentWriter, decode_segment, encode_segment, is_full
from errata.log.chain import ORIGIN, ChainedEntry, extend
from errata.log.entries import ArtifactRef


def chained(*payloads: bytes) -> list[ChainedEntry]:
    position, found = ORIGIN, []
    for payload in payloads:
        position = extend(position, payload)
        found.append(ChainedEntry(position.seq, payload, position.chain_digest))
    return found


ENTRIES = chained(b"first", b"", b"third" * 100)


def manifest() -> Manifest:
    segment, _ = encode_segment(ENTRIES)
    return Manifest(
        log_id="ab" * 16,
        head_seq=3,
        chain_digest=segment.chain_digest,
        epoch=2,
        base_model_digest="cd" * 32,
        created="2026-01-01T00:00:00+00:00",
        segments=(segment,),
        artifacts=(ArtifactRef("ef" * 32, 5),),
    )


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_a_segment_holds_its_entries(payloads: list[bytes]) -> None:
    entries = chained(*payloads)
    assert decode_segment(*encode_segment(entries), ORIGIN) == tuple(entries)


@given(st.data())
def test_no_changed_segment_is_read(data: st.DataObject) -> None:
    segment, file = encode_segment(ENTRIES)
    at = data.draw(st.integers(0, len(file) - 1))
    changed = bytearray(file)
    changed[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(changed), file[:at], file + file[:1]):
        with pytest.raises(DataLossError, match="entries 1 to 3"):
            decode_segment(segment, bad, ORIGIN)


@pytest.mark.parametrize("raw_bytes", [0, 1, 10**6])
def test_a_segment_is_never_unpacked_beyond_its_announced_length(raw_bytes: int) -> None:
    segment, file = encode_segment(ENTRIES)
    with pytest.raises(DataLossError, match="it is cut short, or longer than it says"):
        decode_segment(replace(segment, raw_bytes=raw_bytes), file, ORIGIN)


def test_a_segment_must_lead_from_the_entry_before_to_its_end() -> None:
    first, second = encode_segment(ENTRIES[:1]), encode_segment(ENTRIES[1:])
    assert decode_segment(*second, first[0].end) == tuple(ENTRIES[1:])
    with pytest.raises(DataLossError):
        decode_segment(*second, ORIGIN)
    other = replace(second[0], chain_digest="00" * 32)
    with pytest.raises(DataLossError, match="another chain digest"):
        decode_segment(other, second[1], first[0].end)


def test_a_cut_record_is_refused_though_its_file_has_the_named_digest() -> None:
    segment, file = encode_segment(ENTRIES)
    magic = file[: file.index(b"\n") + 1]
    raw = zlib.decompress(file[len(magic) :])[:-1]
    cut = magic + zlib.compress(raw)
    named = replace(
        segment,
        digest=hashlib.sha256(cut).hexdigest(),
        size_bytes=len(cut),
        raw_bytes=len(raw),
    )
    with pytest.raises(DataLossError, match="cut short"):
        decode_segment(named, cut, ORIGIN)


def test_a_writer_closes_full_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_ENTRIES", 2)
    writer = SegmentWriter()
    writer.add(ENTRIES[0])
    assert not writer.is_full
    writer.add(ENTRIES[1])
    assert writer.is_full
    segment, _ = writer.close()
    assert is_full(segment)
    assert len(writer) == 0
    writer.add(ENTRIES[2])
    assert not is_full(writer.close()[0])
    monkeypatch.setattr(segments, "MAX_BYTES", 500)
    writer.add(ENTRIES[2])
    assert writer.is_full
    assert is_full(writer.close()[0])


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert read_manifest(manifest().encoded(), "here") == manifest()


def test_no_changed_manifest_is_read() -> None:
    file = manifest().encoded()
    for at in range(len(file)):
        changed = file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]
        for bad in (changed, file[:at]):
            with pytest.raises(DataLossError, match="manifest of the backup here is damaged"):
                read_manifest(bad, "here")


def _signed(**changes: object) -> bytes:
    said = json.loads(manifest().encoded())
    del said["sha256"]
    said |= changes
    return json.dumps({"sha256": form._digest(said), **said}).encode()


def test_a_manifest_of_a_newer_format_is_refused_whatever_it_says() -> None:
    with pytest.raises(PreconditionError, match="upgrade"):
        read_manifest(_signed(format=form.FORMAT + 1, segments="elsewhere"), "here")


@pytest.mark.parametrize(
    "changes",
    [
        {"head_seq": 4},
        {"chain_digest": "00" * 32},
        {"log_id": "ab"},
        {"segments": []},
        {"artifacts": [{"digest": "../../etc/passwd", "size_bytes": 1}]},
        {"segments": [{"digest": "x"}]},
        {"more": 1},
        {"epoch": "2"},
        {"epoch": -1},
        {"artifacts": [{"digest": "ef" * 32, "size_bytes": -1}]},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DataLossError, match="damaged"):
        read_manifest(_signed(**changes), "here")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff", b'{"sha256": 1}'])
def test_a_file_that_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(DataLossError, match="damaged"):
        read_manifest(content, "here")
