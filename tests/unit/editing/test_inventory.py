"""Rows of edits: what their digests are of, and how facts are packed."""

from __future__ import annotations

import hashlib

import torch

from errata.editing.lane.inventory import Inventory, fact_of, pack_facts, unpack_facts
from errata.editing.lane.repository import Rows

FACTS = tuple(fact_of(f"prompt {number}") for number in range(3))
NAMES = ("edits/2-0", "edits/2-1", "edits/3-0")


def _digest(name: str, fact: str, key: torch.Tensor, value: torch.Tensor) -> bytes:
    """As every version has computed it: replicas and snapshots compare these digests."""
    parts = (name.encode(), fact.encode(), key.numpy().tobytes(), value.numpy().tobytes())
    return hashlib.sha256(b"|".join(parts)).digest()


def _digests(rows: Rows) -> bytes:
    return b"".join(map(_digest, rows.names, rows.facts, rows.keys, rows.values))


def test_each_row_has_the_digest_of_its_name_fact_key_and_value() -> None:
    keys, values = torch.randn(3, 4), torch.randn(2, 5, 3).permute(2, 0, 1)  # not contiguous
    rows = Rows(NAMES, FACTS, keys, values)
    assert rows.digests() == _digests(rows)
    without_keys = Rows(NAMES, FACTS, torch.zeros(3, 0), values)
    assert without_keys.digests() == _digests(without_keys)
    assert Rows.none(4, 2, 5).digests() == b""


def test_a_reversal_takes_the_edits_digest_and_leaves_the_others() -> None:
    rows = Rows(NAMES, (FACTS[0], FACTS[1], FACTS[0]), torch.randn(3, 4), torch.randn(3, 2))
    inventory = Inventory.of(rows)
    assert inventory.repository.names == NAMES[1:], "the third edit supersedes the first"
    left = inventory.without([NAMES[2]])
    assert left.names == NAMES[:2]
    assert left.digests() == _digests(rows)[:64]
    assert left.repository.edit_about(FACTS[0]) == NAMES[0]


def test_packed_facts_are_the_bytes_of_their_digests() -> None:
    packed = pack_facts(FACTS)
    assert packed.shape == (3, 32)
    assert packed.dtype == torch.uint8
    assert bytes(packed[1].tolist()) == bytes.fromhex(FACTS[1])
    assert unpack_facts(packed) == FACTS
    assert unpack_facts(pack_facts(())) == ()
