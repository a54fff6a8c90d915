"""A restored log begins like the log of its backup; its first signed entry parts the two."""

from __future__ import annotations

from dataclasses import replace

import pytest

from errata.errors import CommitNotTrustedError
from errata.log.entries import KeysTrusted
from errata.log.signing.keys import SigningKey
from errata.log.signing.trust import TrustState
from errata.replica.commit_gate import CommitGate
from errata.writer.signing import Signer, WriterKeys
from tests.unit.log.signed_log import COMMIT, LANE, SignedLog, trusting

KEY, NEW = SigningKey.generate(), SigningKey.generate()


def signer(log: SignedLog, *keys: SigningKey) -> Signer:
    gate = CommitGate()
    for entry in log.entries:
        gate.let_pass(entry)
    return Signer(WriterKeys(*keys), gate)


@pytest.fixture
def log() -> SignedLog:
    """As a writer of log "a" left it."""
    log = SignedLog()
    log.append(LANE)
    log.sign(trusting(KEY, log_id="a"), KEY)
    log.sign(COMMIT, KEY)
    return log


def test_a_log_that_was_not_restored_needs_no_second_trust_entry(log: SignedLog) -> None:
    assert signer(log, KEY).trust_entry("a") is None


def test_the_first_writer_of_a_restored_log_names_its_identity_once(log: SignedLog) -> None:
    entry = signer(log, KEY).trust_entry("b")
    assert entry is not None
    assert (entry.log_id, entry.keys, entry.distrusted) == (
        "b",
        trusting(KEY).keys,
        (),
    )
    log.append(entry)
    assert log.trust.keys == {KEY.key_id: KEY.public_key}
    assert signer(log, KEY).trust_entry("b") is None


def test_commits_behind_a_restore_hold_in_neither_direction(log: SignedLog) -> None:
    restored = SignedLog()
    for entry in log.entries:
        restored.append(entry.payload)
    entry = signer(restored, KEY).trust_entry("b")
    assert entry is not None
    restored.append(entry)
    here = replace(COMMIT, seed=1, signature=log.trust.signature(replace(COMMIT, seed=1), KEY))
    there = replace(COMMIT, seed=2)
    there = replace(there, signature=restored.trust.signature(there, KEY))
    for commit, other in ((here, restored), (there, log)):
        with pytest.raises(CommitNotTrustedError, match="another place or another log"):
            other.trust.after(other.entry(commit))
    log.append(here)
    restored.append(there)


def test_a_key_can_be_replaced_at_the_first_start_after_a_restore(log: SignedLog) -> None:
    entry = signer(log, NEW, KEY).trust_entry("b")
    assert isinstance(entry, KeysTrusted)
    assert (entry.log_id, entry.distrusted) == ("b", (KEY.key_id,))
    log.append(entry)
    assert signer(log, NEW, KEY).trust_entry("b") is None


def test_the_identity_survives_json(log: SignedLog) -> None:
    assert log.trust.log_id == "a"
    assert TrustState.from_json(log.trust.to_json()) == log.trust
