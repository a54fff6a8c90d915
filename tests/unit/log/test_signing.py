"""Signatures hold for what an entry says, at one place in one log, by keys trusted there."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import CommitNotTrustedError, StartupError
from errata.log.entries import KeysTrusted, LaneModelCommitted, Signed, TrustedKey
from errata.log.payload_convert import decode
from errata.log.signature import Signature
from errata.log.signing.keys import SigningKey, fingerprint_of, key_id_of, read_public_key
from errata.log.signing.trust import Pins, TrustState
from tests.unit.log.signed_log import (
    COMMIT,
    COMMITS,
    DECISIONS,
    LANE,
    LANE_MODEL,
    SignedLog,
    chained,
    trusting,
)

KEY, NEW, STRANGER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
SIGNED: tuple[Signed, ...] = (
    *COMMITS,
    *DECISIONS,
    replace(COMMIT, memory=None),
    replace(LANE_MODEL, repository=None),
    trusting(NEW, STRANGER, distrusted=(KEY.key_id,)),
)


def _changed(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every way to change one leaf of a value, and the leaf's path."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            for where, other in _changed(getattr(value, field.name), f"{path}.{field.name}"):
                yield where, replace(value, **{field.name: other})
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            for where, other in _changed(item, f"{path}[{number}]"):
                yield where, (*value[:number], other, *value[number + 1 :])
        yield f"{path}: one less", value[:-1] if value else ("edits/9-9",)
        if len(value) > 1 and value[0] != value[1]:
            yield f"{path}: order", (value[1], value[0], *value[2:])
    elif isinstance(value, bool):
        yield path, not value
    elif isinstance(value, int | float):
        yield path, value - 1
    elif isinstance(value, str):
        yield path, value[:-1] + ("0" if value[-1:] != "0" else "1")
    elif isinstance(value, bytes):
        yield path, value[:-1] + bytes([value[-1] ^ 1])
    else:
        assert value is None, f"{path} has a type that this test cannot change"


def _every_change() -> Iterator[Any]:
    for number, payload in enumerate(SIGNED):
        log = SignedLog.begun(KEY)
        signed = log.signed(payload, KEY)
        for where, other in _changed(signed, type(signed).__name__):
            yield pytest.param(log, other, id=f"{number}-{where}")


@pytest.mark.parametrize(("log", "changed"), list(_every_change()))
def test_a_signature_covers_every_field(log: SignedLog, changed: Signed) -> None:
    with pytest.raises(CommitNotTrustedError) as refused:
        log.append(changed)
    assert refused.value.metadata["seq"] == "3"
    assert "docs/signing.md" in refused.value.message


@pytest.mark.parametrize("payload", SIGNED)
def test_a_signature_holds_after_the_way_through_the_log(payload: Signed) -> None:
    log = SignedLog.begun(KEY)
    signed = log.signed(payload, KEY)
    (*_, stored) = chained([*log.entries, log.entry(signed)])
    read = decode(stored)
    assert read.payload == signed
    assert log.trust.after(read).last != log.trust.last


def test_an_optional_part_cannot_be_added_or_taken_away() -> None:
    for payload in (COMMIT, replace(COMMIT, memory=None)):
        log = SignedLog.begun(KEY)
        signed = log.signed(payload, KEY)
        assert not isinstance(signed, LaneModelCommitted | KeysTrusted)
        other = COMMIT.memory if payload.memory is None else None
        with pytest.raises(CommitNotTrustedError, match="changed after it was signed"):
            log.append(replace(signed, memory=other))  # type: ignore[call-arg]


def test_a_commit_cannot_be_moved_repeated_left_out_or_taken_to_another_log() -> None:
    log, other = SignedLog.begun(KEY), SignedLog.begun(KEY, log_id="b")
    first = log.signed(COMMIT, KEY)
    with pytest.raises(CommitNotTrustedError, match="another place or another log"):
        other.append(first)
    log.append(first)
    with pytest.raises(CommitNotTrustedError, match="another place or another log"):
        log.append(first)
    second = log.signed(LANE_MODEL, KEY)
    without_first = SignedLog.begun(KEY)  # a log's beginning is the same each time
    with pytest.raises(CommitNotTrustedError, match="another place or another log"):
        without_first.append(second)
    log.append(second)


def test_a_changed_lane_is_noticed_at_its_first_commit() -> None:
    log = SignedLog.begun(KEY)
    signed = log.signed(COMMIT, KEY)
    changed = SignedLog()
    changed.append(log.entries[0].payload)
    changed.append(replace(LANE, config_json='{"drop":0.5}'))
    with pytest.raises(CommitNotTrustedError, match="or its lane was"):
        changed.append(signed)


def test_only_trusted_keys_count() -> None:
    log = SignedLog.begun(KEY)
    with pytest.raises(CommitNotTrustedError, match=STRANGER.key_id):
        log.sign(COMMIT, STRANGER)
    with pytest.raises(CommitNotTrustedError, match="is not signed"):
        log.append(COMMIT)
    forged = replace(log.signed(COMMIT, STRANGER), signature=None)
    signature = log.trust.signature(COMMIT, STRANGER)
    with pytest.raises(CommitNotTrustedError, match="changed after it was signed"):
        log.append(replace(forged, signature=replace(signature, key_id=KEY.key_id)))


@pytest.mark.parametrize("payload", [*COMMITS, *DECISIONS])
def test_logs_from_before_are_readable_until_trust_begins(payload: Signed) -> None:
    log = SignedLog()
    log.append(LANE)
    before = log.append(payload).seq
    log.sign(trusting(KEY), KEY)
    assert log.trust.since == before + 1
    log.sign(payload, KEY)
    with pytest.raises(CommitNotTrustedError, match="is not signed"):
        log.append(payload)


def test_a_rotation_is_signed_by_the_old_key_which_counts_no_longer() -> None:
    log = SignedLog.begun(KEY)
    log.sign(COMMIT, KEY)
    rotation = trusting(NEW, distrusted=(KEY.key_id,))
    with pytest.raises(CommitNotTrustedError, match=NEW.key_id):
        log.sign(rotation, NEW)
    log.sign(rotation, KEY)
    assert set(log.trust.keys) == {NEW.key_id}
    log.sign(COMMIT, NEW)
    with pytest.raises(CommitNotTrustedError, match=KEY.key_id):
        log.sign(COMMIT, KEY)


def test_trust_entries_that_cannot_be_are_refused() -> None:
    log = SignedLog()
    with pytest.raises(CommitNotTrustedError, match="is not signed"):
        log.append(trusting(KEY))
    with pytest.raises(CommitNotTrustedError, match="not trusted"):
        log.sign(trusting(KEY), STRANGER)
    with pytest.raises(CommitNotTrustedError, match="leaves no trusted key"):
        log.sign(trusting(KEY, distrusted=(KEY.key_id,)), KEY)
    for key_id, public in ((NEW.key_id, KEY.public_key), (key_id_of(b"short"), b"short")):
        entry = KeysTrusted((TrustedKey(key_id, public),), (), "a")
        with pytest.raises(CommitNotTrustedError, match="does not match its id"):
            log.sign(entry, KEY)
    log.sign(trusting(KEY), KEY)


def test_pins_choose_the_keys_with_which_trust_begins() -> None:
    for pin in (KEY.key_id, fingerprint_of(KEY.public_key)):
        log = SignedLog(Pins(frozenset({pin})))
        with pytest.raises(CommitNotTrustedError, match="trusted_keys_file does not name"):
            log.sign(trusting(KEY, STRANGER), KEY)
        log.sign(trusting(KEY), KEY)
        log.sign(trusting(NEW), KEY)  # what a trusted key vouches for needs no pin


def test_pins_demand_signatures_from_the_start() -> None:
    log = SignedLog(Pins(frozenset({KEY.key_id})))
    with pytest.raises(CommitNotTrustedError, match="unsigned_until_seq"):
        log.append(COMMIT)
    log = SignedLog(Pins(frozenset({KEY.key_id}), unsigned_until=1))
    log.append(COMMIT)
    with pytest.raises(CommitNotTrustedError, match="unsigned_until_seq"):
        log.append(COMMIT)


@given(
    st.binary(max_size=80), st.binary(max_size=40), st.text(max_size=20), st.sampled_from(SIGNED)
)
def test_no_signature_raises_anything_else(
    value: bytes, previous: bytes, key_id: str, payload: Signed
) -> None:
    log = SignedLog.begun(KEY)
    for name in (key_id, KEY.key_id):
        for after in (previous, log.trust.last):
            with pytest.raises(CommitNotTrustedError):
                log.append(replace(payload, signature=Signature(name, value, after)))


def test_trust_survives_json() -> None:
    log = SignedLog(Pins(frozenset({KEY.key_id}), 3))
    log.sign(trusting(KEY), KEY)
    log.append(LANE)
    log.sign(COMMIT, KEY)
    assert TrustState.from_json(json.loads(json.dumps(log.trust.to_json()))) == log.trust


def test_key_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key.pem"
    KEY.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.read(path).public_key == KEY.public_key == read_public_key(path)
    with pytest.raises(StartupError, match="never overwritten"):
        NEW.write(path)
    assert SigningKey.read(path).key_id == KEY.key_id


@pytest.mark.parametrize("content", [None, b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n"])
def test_files_that_are_no_keys_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError, match="errata keys new FILE"):
        SigningKey.read(path)
    with pytest.raises(StartupError, match="errata keys new FILE"):
        read_public_key(path)
