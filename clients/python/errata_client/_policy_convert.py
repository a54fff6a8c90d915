"""Converts messages about previews and probe sets to values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from errata_client import _convert, errors, policy, types
from errata_client._chat import chat_of
from errata_client._gen.errata.v1 import editing_pb2

_KINDS = {
    editing_pb2.EditConflict.KIND_SUPERSEDES: "supersedes",
    editing_pb2.EditConflict.KIND_CONTRADICTS: "contradicts",
    editing_pb2.EditConflict.KIND_REPEATS: "repeats",
}


def submitted(message: editing_pb2.SubmitEditsResponse) -> list[types.Edit]:
    """Accepted edits, with the conflicts that the response names."""
    return [
        replace(_convert.edit(edit), conflicts=_conflicts(message.warnings, index))
        for index, edit in enumerate(message.edits)
    ]


def previews(message: editing_pb2.PreviewEditsResponse) -> list[policy.Preview]:
    """Previews, in the request's order."""
    return [
        policy.Preview(
            spec=_convert.spec(one.spec),
            lane=message.lane,
            seq=message.seq,
            figures=_convert.figures(one.figures) if one.HasField("figures") else None,
            error=one.error.message,
            reason=errors.from_status(one.error).reason,
            answers=_answers(one.answers),
            probes=_answers(one.probes),
            num_set_probes=one.num_set_probes,
            num_set_changed=one.num_set_changed,
            set_changes=_answers(one.set_changes),
            conflicts=_conflicts(one.conflicts, index),
        )
        for index, one in enumerate(message.previews)
    ]


def decision(
    message: editing_pb2.ReviewEditsResponse | editing_pb2.WithdrawEditsResponse,
) -> policy.Decision:
    """A decision, and the edits behind it."""
    return policy.Decision(message.seq, tuple(map(_convert.edit, message.edits)))


def probe_set(message: editing_pb2.GetProbesResponse) -> policy.ProbeSet:
    """The deployment's probe set."""
    return policy.ProbeSet(message.seq, (*message.prompts, *map(chat_of, message.chats)))


def _answers(messages: Iterable[editing_pb2.AnswerChange]) -> tuple[policy.AnswerChange, ...]:
    return tuple(
        policy.AnswerChange(
            prompt=chat_of(one.chat) if one.HasField("chat") else one.prompt,
            before=one.before,
            after=one.after if one.HasField("after") else None,
            changed=one.changed,
        )
        for one in messages
    )


def _conflicts(
    messages: Iterable[editing_pb2.EditConflict], index: int
) -> tuple[types.Conflict, ...]:
    return tuple(
        types.Conflict(
            kind=_KINDS.get(one.kind, ""),
            edit=one.edit,
            lane=one.lane,
            state=types.EditState(one.state),
            prompt=one.prompt,
            target=one.target,
        )
        for one in messages
        if one.index == index
    )
