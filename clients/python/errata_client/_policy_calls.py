"""Operations of the SDK on previews and probe sets, as `_calls` has the others."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from errata_client import _policy_convert, policy, types
from errata_client._calls import Call, spec_message
from errata_client._chat import chats_in, text, texts_in
from errata_client._gen.errata.v1 import editing_pb2

_SERVICE = "EditingService"


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
