"""Requested edits: proto ↔ domain."""

from __future__ import annotations

from dataclasses import replace

from errata.editing.edit import Edit
from errata.editing.namespaces import own_namespace, place_of
from errata.log.chat_convert import chat_message, chat_of, chats_in, prompts_of, texts_in
from errata.log.entries import UNTIMED, EditsRequested, Schedule
from errata.log.policy_convert import scheduled_of, timestamp
from errata_client._gen.errata.v1 import edit_log_pb2, types_pb2


def edit_name(seq: int, index: int) -> str:
    """The name of the edit at `index` (from 0) in the request at `seq`."""
    return f"edits/{seq}-{index}"


def requested_of(seq: int, kind: str, message: edit_log_pb2.EditsRequested) -> EditsRequested:
    """A request, with what its kind knows.

    Args:
        seq: of the entry.
        kind: the field of the entry's payload.
        message: in that field.
    """
    requested = _requested(seq, message)
    match kind:
        case "edits_scheduled":
            return scheduled_of(requested, message)
        case "edits_namespaced":
            return _namespaced(requested, message)
        case "edits_canaried":
            return _canaried(_namespaced(requested, message), message)
        case _:
            return requested


def _requested(seq: int, message: edit_log_pb2.EditsRequested) -> EditsRequested:
    edits = [
        Edit(
            edit_name(seq, index),
            chat_of(spec.chat) if spec.HasField("chat") else spec.prompt,
            spec.target,
            spec.subject,
            prompts_of(spec.rephrases, spec.chat_rephrases),
            prompts_of(spec.locality_probes, spec.chat_locality_probes),
            spec.separator if spec.HasField("separator") else None,
        )
        for index, spec in enumerate(message.edits)
    ]
    return EditsRequested(
        message.lane,
        tuple(edits),
        tuple([spec.source for spec in message.edits]),
        tuple([spec.subject_found for spec in message.edits]),
    )


def _namespaced(requested: EditsRequested, message: edit_log_pb2.EditsRequested) -> EditsRequested:
    """A request with the namespaces that its message has, and with the times, if there is one.

    In entries of other kinds, namespaces count for nothing: earlier versions read these, too.
    """
    pairs = zip(requested.edits, message.edits, strict=True)
    edits = tuple([replace(edit, namespace=spec.namespace) for edit, spec in pairs])
    timed = scheduled_of(requested, message)
    times = timed.schedules if any(each != UNTIMED for each in timed.schedules) else ()
    return replace(requested, edits=edits, schedules=times)


def _canaried(requested: EditsRequested, message: edit_log_pb2.EditsRequested) -> EditsRequested:
    """A request with canaries; its edits lie in their places."""
    pairs = zip(requested.edits, message.edits, strict=True)
    edits = [
        replace(edit, namespace=place_of(spec.namespace, spec.canary), canary=spec.canary)
        for edit, spec in pairs
    ]
    return replace(requested, edits=tuple(edits))


def put_requested(message: edit_log_pb2.EntryPayload, payload: EditsRequested) -> None:
    """Makes a message that of a request."""
    # Several kinds, because versions that do not know a feature must not overlook it.
    kind = message.edits_scheduled if payload.schedules else message.edits_requested
    if payload.has_namespaces:
        kind = message.edits_namespaced
    if payload.has_canaries:
        kind = message.edits_canaried
    kind.lane = payload.lane
    columns = zip(payload.scheduled(), payload.sources, payload.subjects_found, strict=True)
    kind.edits.extend(
        spec_message(edit, source, found, times) for (edit, times), source, found in columns
    )


def spec_message(
    edit: Edit, source: str, subject_found: bool, times: Schedule = UNTIMED
) -> types_pb2.EditSpec:
    """An edit as its author submitted it, with its subject filled in."""
    return types_pb2.EditSpec(
        prompt=edit.prompt if isinstance(edit.prompt, str) else "",
        chat=None if isinstance(edit.prompt, str) else chat_message(edit.prompt),
        target=edit.target,
        subject=edit.subject,
        rephrases=texts_in(edit.rephrases),
        chat_rephrases=chats_in(edit.rephrases),
        locality_probes=texts_in(edit.locality_probes),
        chat_locality_probes=chats_in(edit.locality_probes),
        source=source,
        separator=edit.separator,
        subject_found=subject_found,
        effective_from=timestamp(times.effective_from),
        expires_at=timestamp(times.expires_at),
        namespace=own_namespace(edit.namespace),
        canary=edit.canary,
    )
