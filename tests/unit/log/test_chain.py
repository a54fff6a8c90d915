from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import LogBehindWitnessError
from errata.log.chain import ORIGIN, ChainedEntry, Position, extend, verify_run


def chained(payloads: list[bytes]) -> list[ChainedEntry]:
    position, entries = ORIGIN, []
    for payload in payloads:
        position = extend(position, payload)
        entries.append(ChainedEntry(position.seq, payload, position.chain_digest))
    return entries


def test_chain_digest_is_the_published_formula() -> None:
    first = hashlib.sha256(bytes(32) + bytes(7) + b"\x01" + hashlib.sha256(b"a").digest()).digest()
    second = hashlib.sha256(first + bytes(7) + b"\x02" + hashlib.sha256(b"b").digest()).digest()
    assert extend(extend(ORIGIN, b"a"), b"b") == Position(2, second)


payload_lists = st.lists(st.binary(max_size=20), min_size=1, max_size=12)


@given(payload_lists, st.data())
def test_any_split_of_a_true_history_verifies(payloads: list[bytes], data: st.DataObject) -> None:
    entries = chained(payloads)
    cut = data.draw(st.integers(0, len(entries)))
    middle = verify_run(ORIGIN, entries[:cut])
    end = verify_run(middle, entries[cut:])
    assert end == Position(len(entries), entries[-1].chain_digest)


@pytest.mark.promise("P1")
@given(payload_lists, st.data())
def test_any_change_to_a_history_is_seen(payloads: list[bytes], data: st.DataObject) -> None:
    entries = chained(payloads)
    index = data.draw(st.integers(0, len(entries) - 1))
    entry = entries[index]
    other = data.draw(st.binary(max_size=20).filter(lambda drawn: drawn != entry.payload))
    flipped = bytes([entry.chain_digest[0] ^ 1]) + entry.chain_digest[1:]
    changes = [
        [
            *entries[:index],
            ChainedEntry(entry.seq, other, entry.chain_digest),
            *entries[index + 1 :],
        ],
        [*entries[:index], ChainedEntry(entry.seq, entry.payload, flipped), *entries[index + 1 :]],
        [*entries[:index], entry, *entries[index:]],
    ]
    if index + 1 < len(entries):
        changes.append([*entries[:index], *entries[index + 1 :]])
        changes.append([*entries[:index], entries[index + 1], entry, *entries[index + 2 :]])
    for changed in changes:
        with pytest.raises(LogBehindWitnessError):
            verify_run(ORIGIN, changed)
