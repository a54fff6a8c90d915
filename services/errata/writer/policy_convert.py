"""Messages about previews, conflicts and probe sets: proto ↔ domain."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from errata.editing.chat import Chat, Prompt
from errata.errors import InvalidRequestError
from errata.log.chat_convert import chat_message, chats_in, prompts_of, texts_in
from errata.log.entries import Verdict
from errata.log.payload_convert import figures_message
from errata.log.request_convert import spec_message
from errata.platform.status_convert import to_status
from errata.writer.conflicts import Conflict, Kind
from errata.writer.convert import STATES
from errata.writer.preview import MAX_CHANGES, Answer, Preview
from errata.writer.record import EditRecord
from errata_client._gen.errata.v1 import editing_pb2

_VERDICTS = {
    editing_pb2.ReviewEditsRequest.VERDICT_APPROVE: Verdict.APPROVED,
    editing_pb2.ReviewEditsRequest.VERDICT_REJECT: Verdict.REJECTED,
}
_KINDS = {
    Kind.SUPERSEDES: editing_pb2.EditConflict.KIND_SUPERSEDES,
    Kind.CONTRADICTS: editing_pb2.EditConflict.KIND_CONTRADICTS,
    Kind.REPEATS: editing_pb2.EditConflict.KIND_REPEATS,
}


def verdict_of(request: editing_pb2.ReviewEditsRequest) -> Verdict:
    """What the client decides.

    Raises:
        InvalidRequestError: it says neither.
    """
    found = _VERDICTS.get(request.verdict)
    if found is None:
        raise InvalidRequestError(
            f"verdict {request.verdict} is unknown; approve or reject.", field="verdict"
        )
    return found


def conflict_message(conflict: Conflict, record: EditRecord) -> editing_pb2.EditConflict:
    """A conflict with the edit of `record`."""
    return editing_pb2.EditConflict(
        index=conflict.index,
        kind=_KINDS[conflict.kind],
        edit=conflict.name,
        lane=record.lane,
        state=STATES[record.state],
        prompt=record.edit.said,
        target=record.edit.target,
    )


def preview_message(
    preview: Preview, conflicts: Iterable[editing_pb2.EditConflict]
) -> editing_pb2.EditPreview:
    """A preview; `conflicts` are those that the caller may see."""
    changes = [answer for answer in preview.probe_set if answer.changed]
    return editing_pb2.EditPreview(
        spec=spec_message(preview.edit, preview.source, preview.subject_found, preview.times),
        figures=figures_message(preview.figures) if preview.figures else None,
        error=to_status(preview.error) if preview.error else None,
        answers=map(_answer_message, preview.answers),
        probes=map(_answer_message, preview.probes),
        num_set_probes=len(preview.probe_set),
        num_set_changed=len(changes),
        set_changes=map(_answer_message, changes[:MAX_CHANGES]),
        conflicts=conflicts,
    )


def _answer_message(answer: Answer) -> editing_pb2.AnswerChange:
    prompt = answer.prompt
    return editing_pb2.AnswerChange(
        prompt=prompt if isinstance(prompt, str) else "",
        chat=chat_message(prompt) if isinstance(prompt, Chat) else None,
        before=answer.before,
        after=answer.after,
        changed=answer.changed,
    )


def probes_of(request: editing_pb2.SetProbesRequest) -> tuple[Prompt, ...]:
    """The prompts of a new probe set."""
    return prompts_of(request.prompts, request.chats)


def probes_message(seq: int, prompts: Collection[Prompt]) -> editing_pb2.GetProbesResponse:
    """A probe set, and the position of its entry."""
    return editing_pb2.GetProbesResponse(
        seq=seq, prompts=texts_in(prompts), chats=chats_in(prompts)
    )
