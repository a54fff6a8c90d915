"""Signatures and trust entries: proto ↔ domain."""

from __future__ import annotations

from errata.log.entries import KeysTrusted, TrustedKey
from errata.log.signature import Signature
from errata_client._gen.errata.v1 import edit_log_pb2

_SignedMessage = (
    edit_log_pb2.EditsCommitted
    | edit_log_pb2.LaneModelCommitted
    | edit_log_pb2.LaneCompacted
    | edit_log_pb2.KeysTrusted
    | edit_log_pb2.SnapshotTaken
    | edit_log_pb2.LanePolicySet
    | edit_log_pb2.EditsReviewed
    | edit_log_pb2.CanarySet
    | edit_log_pb2.CanaryEnded
)


def signature_of(message: _SignedMessage) -> Signature | None:
    """The signature that a message carries; None if it carries none."""
    if not message.HasField("signature"):
        return None
    found = message.signature
    return Signature(found.key_id, found.value, found.previous)


def signature_message(signature: Signature | None) -> edit_log_pb2.Signature | None:
    """A signature to send."""
    if signature is None:
        return None
    return edit_log_pb2.Signature(
        key_id=signature.key_id, value=signature.value, previous=signature.previous
    )


def trust_of(message: edit_log_pb2.KeysTrusted) -> KeysTrusted:
    """A trust entry, not checked."""
    return KeysTrusted(
        keys=tuple(TrustedKey(key.key_id, key.public_key) for key in message.keys),
        distrusted=tuple(message.distrusted),
        log_id=message.log_id,
        signature=signature_of(message),
    )


def trust_message(payload: KeysTrusted) -> edit_log_pb2.KeysTrusted:
    """A trust entry to send."""
    return edit_log_pb2.KeysTrusted(
        keys=[
            edit_log_pb2.TrustedKey(key_id=key.key_id, public_key=key.public_key)
            for key in payload.keys
        ],
        distrusted=payload.distrusted,
        log_id=payload.log_id,
        signature=signature_message(payload.signature),
    )
