"""The forms that names, digests and lists of an entry must have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection

from errata.artifacts.source import check_digest
from errata.editing.namespaces import is_namespace, own_namespace
from errata.errors import InvalidRequestError
from errata.log.chain import DIGEST_BYTES
from errata.log.entries import ArtifactRef, EditsRequested, LaneConfigured
from errata.log.methods import METHODS

LANE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
"""A lane's name without `lanes/`."""

_METHOD = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_MAX_SHOWN = 80  # characters of a foreign name in a message


def check_lane_name(name: str) -> None:
    """Returns if a lane can have this name.

    Raises:
        InvalidRequestError: it cannot.
    """
    if not name.startswith("lanes/") or not LANE_NAME.fullmatch(name.removeprefix("lanes/")):
        raise InvalidRequestError(
            f"the lane name {shown(name)} is not valid; use lanes/ and at most 63 characters of "
            "a-z, 0-9 and -, starting with a letter.",
            field="lane",
        )


def check_namespaces(payload: EditsRequested, method: str) -> None:
    """Returns if a lane of a method can take edits of these namespaces.

    Raises:
        InvalidRequestError: a name is impossible, or the method takes the default namespace alone.
    """
    for index, edit in enumerate(payload.edits):
        field = f"edits[{index}].namespace"
        if not is_namespace(own_namespace(edit.namespace)):
            raise InvalidRequestError(
                f"{shown(edit.namespace)} cannot be the name of a namespace.", field=field
            )
        if edit.namespace and method in METHODS and not METHODS[method].namespaces:
            raise InvalidRequestError(
                f"{payload.lane} uses {method}, whose edits are in force for every request; it "
                "takes none outside the default namespace.",
                field=field,
            )


def check_some(items: Collection[object]) -> None:
    """Returns if there are items, and no name occurs twice.

    Raises:
        InvalidRequestError: otherwise.
    """
    if not items:
        raise InvalidRequestError("it names no edit; name at least one.", field="edits")
    if all(isinstance(item, str) for item in items) and len(set(items)) < len(items):
        raise InvalidRequestError("it names an edit twice; name each once.", field="edits")


def check_texts(payload: EditsRequested) -> None:
    """Returns if each edit has a prompt and a target.

    Raises:
        InvalidRequestError: one lacks them.
    """
    for index, edit in enumerate(payload.edits):
        for text, what in ((edit.said, "prompt"), (edit.target, "target")):
            if not text.strip():
                raise InvalidRequestError(
                    f"edits[{index}] has no {what}; fill it in.", field=f"edits[{index}].{what}"
                )


def check_config(payload: LaneConfigured) -> None:
    """Returns if method and configuration can be those of a lane.

    Raises:
        InvalidRequestError: they cannot.
    """
    if not _METHOD.fullmatch(payload.method):
        raise InvalidRequestError(
            f"{shown(payload.method)} cannot be a method's name.", field="method"
        )
    try:
        is_object = isinstance(json.loads(payload.config_json), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise InvalidRequestError("config_json is not a JSON object.", field="config_json")
    if hashlib.sha256(payload.config_json.encode()).hexdigest() != payload.config_digest:
        raise InvalidRequestError(
            "config_digest is not the SHA-256 of config_json.", field="config_digest"
        )


def check_ref(ref: ArtifactRef, field: str) -> None:
    """Returns if this can refer to an artifact.

    Raises:
        InvalidRequestError: it cannot.
    """
    check_digest(ref.digest, f"{field}.digest")
    if ref.size_bytes < 1:
        raise InvalidRequestError(f"{field}.size_bytes is not positive.", field=field)


def check_chain_digest(digest: bytes) -> None:
    """Returns if this can be a chain digest.

    Raises:
        InvalidRequestError: it cannot.
    """
    if len(digest) != DIGEST_BYTES:
        raise InvalidRequestError(
            f"chain_digest has {len(digest)} bytes, and not {DIGEST_BYTES}.",
            field="chain_digest",
        )


def shown(text: str) -> str:
    """The start of a foreign text, quoted, for a message."""
    return repr(text[:_MAX_SHOWN])
