"""Operations of the SDK on previews and probe sets, as `_calls` has the others."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from errata_client import _policy_convert, policy, types
from errata_client._calls import Call, spec_message
from errata_client._chat import chats_in, text, texts_in
from errata_client._gen.errata.v1 import editing_pb2

_SERVICE = "EditingService"


_VERDICTS = {
    True: editing_pb2.ReviewEditsRequest.VERDICT_APPROVE,
    False: editing_pb2.ReviewEditsRequest.VERDICT_REJECT,
}


def preview_names(names: Sequence[str]) -> Call[list[policy.Preview]]:
    """Tries edits that wait."""
    request = editing_pb2.PreviewEditsRequest(names=names)
    return Call(_SERVICE, "PreviewEdits", request, _policy_convert.previews)


def review_edits(
    names: Sequence[str], approve: bool, comment: str, author: str, request_id: str | None
) -> Call[policy.Decision]:
    """Approves or rejects edits."""
    request = editing_pb2.ReviewEditsRequest(
        request_id=request_id or str(uuid.uuid4()),
        names=names,
        verdict=_VERDICTS[approve],
        comment=text(comment, "comment"),
        author=text(author, "author"),
    )
    return Call(_SERVICE, "ReviewEdits", request, _policy_convert.decision)


def withdraw_edits(
    names: Sequence[str], comment: str, author: str, request_id: str | None
) -> Call[policy.Decision]:
    """Withdraws edits."""
    request = editing_pb2.WithdrawEditsRequest(
        request_id=request_id or str(uuid.uuid4()),
        names=names,
        comment=text(comment, "comment"),
        author=text(author, "author"),
    )
    return Call(_SERVICE, "WithdrawEdits", request, _policy_convert.decision)


def preview_edits(edits: Iterable[types.EditSpec], lane: str) -> Call[list[policy.Preview]]:
    """Tries edits."""
    request = editing_pb2.PreviewEditsRequest(
        edits=[spec_message(spec, f"edits[{index}]") for index, spec in enumerate(edits)],
        lane=text(lane, "lane"),
    )
    return Call(_SERVICE, "PreviewEdits", request, _policy_convert.previews)


def set_probes(prompts: Sequence[types.Prompt], author: str, request_id: str | None) -> Call[int]:
    """Replaces the probe set."""
    request = editing_pb2.SetProbesRequest(
        request_id=request_id or str(uuid.uuid4()),
        prompts=texts_in(prompts, "prompts"),
        chats=chats_in(prompts, "chats"),
        author=text(author, "author"),
    )
    return Call(_SERVICE, "SetProbes", request, lambda r: int(r.seq))


def get_probes() -> Call[policy.ProbeSet]:
    """The probe set."""
    return Call(_SERVICE, "GetProbes", editing_pb2.GetProbesRequest(), _policy_convert.probe_set)
