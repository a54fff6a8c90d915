from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import LogUnavailableError, StartupError
from errata.log.chain import ORIGIN, Position
from errata.log.witness import (
    SLOT_BYTES,
    SLOT_SPACING,
    Witness,
    WitnessFile,
    WitnessRecord,
    decode_slot,
    encode_slot,
)

LOG_ID = "0123456789abcdef" * 2


def record(seq: int, epoch: int = 1) -> WitnessRecord:
    return WitnessRecord(LOG_ID, Position(seq, bytes([seq % 256]) * 32), epoch)


records = st.builds(
    WitnessRecord,
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.builds(Position, st.integers(0, 2**63), st.binary(min_size=32, max_size=32)),
    st.integers(0, 2**63),
)


@given(records, st.integers(0, 2**63))
def test_slot_round_trip(drawn: WitnessRecord, generation: int) -> None:
    slot = encode_slot(drawn, generation)
    assert len(slot) == SLOT_BYTES
    assert decode_slot(slot) == (generation, drawn)


@given(records, st.integers(0, SLOT_BYTES - 1), st.integers(1, 255))
def test_damaged_slot_is_not_read(drawn: WitnessRecord, index: int, flip: int) -> None:
    slot = bytearray(encode_slot(drawn, 7))
    slot[index] ^= flip
    assert decode_slot(bytes(slot)) is None
    assert decode_slot(bytes(slot[:index])) is None


@pytest.mark.promise("P2")
@given(st.integers(1, 5), st.integers(0, SLOT_BYTES))
def test_torn_write_keeps_the_older_record(num_writes: int, num_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "witness"
        file = WitnessFile(path)
        for seq in range(1, num_writes + 1):
            file.write(record(seq))
        file.close()
        generation = num_writes + 1
        torn = encode_slot(record(generation), generation)[:num_bytes]
        descriptor = os.open(path, os.O_RDWR)
        os.pwrite(descriptor, torn, generation % 2 * SLOT_SPACING)
        os.close(descriptor)
        file = WitnessFile(path)
        found = file.record
        file.close()
    assert found == record(generation if num_bytes == SLOT_BYTES else num_writes)


def test_new_file_has_no_record(tmp_path: Path) -> None:
    file = WitnessFile(tmp_path / "deep" / "witness")
    assert file.record is None
    file.close()


def test_second_owner_is_refused_until_the_first_leaves(tmp_path: Path) -> None:
    first = WitnessFile(tmp_path / "witness")
    with pytest.raises(StartupError, match="another log service owns"):
        WitnessFile(tmp_path / "witness")
    first.close()
    WitnessFile(tmp_path / "witness").close()


def test_unusable_path_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"log\.witness_path"):
        WitnessFile(tmp_path / "file" / "witness")


class CountingFile(WitnessFile):
    num_writes = 0

    def write(self, record: WitnessRecord) -> None:
        self.num_writes += 1
        super().write(record)


async def test_one_sync_serves_all_who_wait(tmp_path: Path) -> None:
    file = CountingFile(tmp_path / "witness")
    witness = Witness(file, WitnessRecord(LOG_ID, ORIGIN, 0))
    await asyncio.gather(*(witness.cover(record(seq)) for seq in range(1, 101)))
    assert file.record == record(100)
    assert file.num_writes <= 2
    await witness.cover(record(50))
    assert file.num_writes <= 2, "what is covered is not written again"
    await witness.cover(record(50, epoch=9))
    assert file.record == WitnessRecord(LOG_ID, record(100).head, 9)
    await witness.close()


@pytest.mark.promise("P2")
async def test_after_a_failed_sync_nothing_is_covered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness(WitnessFile(tmp_path / "witness"), WitnessRecord(LOG_ID, ORIGIN, 0))
    await witness.cover(record(1))

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(LogUnavailableError, match="restart"):
            await witness.cover(record(2))
    for seq in (1, 3):
        with pytest.raises(LogUnavailableError, match="restart"):
            await witness.cover(record(seq))
    await witness.close()
