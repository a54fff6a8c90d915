"""What a request can carry at most; docs/limits.md shows this table.

The limits are the same on every deployment and hold before any other work on a request: before its
texts are normalised, tokenised or looked up. Settings such as `writer.max_prompt_chars` lower them.
"""

from __future__ import annotations

import sys

NAME_CHARS = 256
"""Most characters of a name: of a lane, an edit, an author, a replica, a role."""
MAX_PROMPT_CHARS = 1_000_000
"""Most characters of a prompt, and of all texts of one request for an answer."""
MAX_EDIT_CHARS = 100_000
"""Most characters of each text of an edit."""
MAX_NAMED_EDITS = 1_000
"""Most edits that one request can name."""
MAX_NAMESPACES = 16
"""Most namespaces that one request can name."""
MAX_PROBES = 1_000
"""Most prompts of a probe set."""
LEAST_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 10.0
"""Range of temperatures other than 0, which is greedy."""
CHARS_PER_TOKEN = 16
"""A prompt has at most that many characters for each token of the model's window."""
MAX_STATUS_BYTES = 4_096 - 256
"""Most bytes of an error's status in trailing metadata; the rest of 4 KiB is for other keys."""
LEAST_FLOAT = sys.float_info.min
"""Numbers nearer to zero, other than zero, are refused: they have lost digits."""
_NOTE_CHARS = 4_000
_ID_CHARS = 256
_IN_ONE_ENTRY = 1_000_000  # what one entry of the log holds is limited by its size in bytes

CHARS: dict[str, int] = {
    "AcquireEpochRequest.writer": NAME_CHARS,
    "AppendRequest.request_id": _ID_CHARS,
    "ArtifactRef.digest": _ID_CHARS,
    "Chat.tools_json": MAX_EDIT_CHARS,
    "ChatMessage.content": MAX_PROMPT_CHARS,
    "ChatMessage.name": NAME_CHARS,
    "ChatMessage.role": NAME_CHARS,
    "ChatMessage.tool_call_id": _ID_CHARS,
    "CommittedEdit.edit": NAME_CHARS,
    "CompactLaneRequest.author": NAME_CHARS,
    "CompactLaneRequest.lane": NAME_CHARS,
    "CompactLaneRequest.request_id": _ID_CHARS,
    "EditRejection.edit": NAME_CHARS,
    "EditSpec.locality_probes": MAX_EDIT_CHARS,
    "EditSpec.namespace": NAME_CHARS,
    "EditSpec.prompt": MAX_EDIT_CHARS,
    "EditSpec.rephrases": MAX_EDIT_CHARS,
    "EditSpec.separator": NAME_CHARS,
    "EditSpec.source": _NOTE_CHARS,
    "EditSpec.subject": MAX_EDIT_CHARS,
    "EditSpec.target": MAX_EDIT_CHARS,
    "EditsCommitted.base_model_digest": _ID_CHARS,
    "EditsCommitted.lane": NAME_CHARS,
    "EditsCommitted.lane_config_digest": _ID_CHARS,
    "EditsRejected.lane": NAME_CHARS,
    "EditsRequested.lane": NAME_CHARS,
    "EditsReverted.comment": _NOTE_CHARS,
    "EditsReverted.edits": NAME_CHARS,
    "EditsReleased.edits": NAME_CHARS,
    "EditsReviewed.comment": _NOTE_CHARS,
    "EditsReviewed.edits": NAME_CHARS,
    "EditsReviewed.reviewer": NAME_CHARS,
    "EntryPayload.author": NAME_CHARS,
    "EntryPayload.on_behalf_of": NAME_CHARS,
    "EntryPayload.request_id": _ID_CHARS,
    "EntryPayload.trace_parent": _ID_CHARS,
    "EntryVoided.reason": _NOTE_CHARS,
    "FindEditsRequest.author": NAME_CHARS,
    "FindEditsRequest.lane": NAME_CHARS,
    "FindEditsRequest.method": NAME_CHARS,
    "FindEditsRequest.namespace": NAME_CHARS,
    "FindEditsRequest.page_token": _NOTE_CHARS,
    "FindEditsRequest.subject": _NOTE_CHARS,
    "FindEditsRequest.text": _NOTE_CHARS,
    "GenerateEverywhereRequest.namespaces": NAME_CHARS,
    "GenerateEverywhereRequest.prompt": MAX_PROMPT_CHARS,
    "GenerateEverywhereRequest.stop": NAME_CHARS,
    "GenerateRequest.namespaces": NAME_CHARS,
    "GenerateRequest.prompt": MAX_PROMPT_CHARS,
    "GenerateRequest.stop": NAME_CHARS,
    "GetArtifactRequest.digest": _ID_CHARS,
    "GetEditRequest.name": NAME_CHARS,
    "KeysTrusted.distrusted": _ID_CHARS,
    "KeysTrusted.log_id": _ID_CHARS,
    "LaneCompacted.base_model_digest": _ID_CHARS,
    "LaneCompacted.edits": NAME_CHARS,
    "LaneCompacted.lane": NAME_CHARS,
    "LaneConfigured.base_model_digest": _ID_CHARS,
    "LaneConfigured.config_digest": _ID_CHARS,
    "LaneConfigured.config_json": MAX_EDIT_CHARS,
    "LaneConfigured.lane": NAME_CHARS,
    "LaneConfigured.method": NAME_CHARS,
    "LaneModelCommitted.base_model_digest": _ID_CHARS,
    "LaneModelCommitted.edits": NAME_CHARS,
    "LaneModelCommitted.lane": NAME_CHARS,
    "LanePolicySet.lane": NAME_CHARS,
    "LaneVectors.lane": NAME_CHARS,
    "ListEditsRequest.author": NAME_CHARS,
    "ListEditsRequest.contains": _NOTE_CHARS,
    "ListEditsRequest.lane": NAME_CHARS,
    "ListEditsRequest.namespace": NAME_CHARS,
    "ListEditsRequest.page_token": _NOTE_CHARS,
    "ListEntriesRequest.page_token": _NOTE_CHARS,
    "ListLanesRequest.page_token": _NOTE_CHARS,
    "ListReplicasRequest.page_token": _NOTE_CHARS,
    "PreviewEditsRequest.lane": NAME_CHARS,
    "PreviewEditsRequest.names": NAME_CHARS,
    "ProbesSet.prompts": MAX_EDIT_CHARS,
    "Reading.namespaces": NAME_CHARS,
    "ReplicaPosition.ResidentEntry.key": NAME_CHARS,
    "ReplicaPosition.digest_at": _ID_CHARS,
    "ReplicaPosition.replica": NAME_CHARS,
    "ReplicaPosition.role": NAME_CHARS,
    "ReplicaPosition.state_digest": _ID_CHARS,
    "ReportShapedAnswersRequest.reporter": NAME_CHARS,
    "RevertEditsRequest.author": NAME_CHARS,
    "RevertEditsRequest.comment": _NOTE_CHARS,
    "RevertEditsRequest.names": NAME_CHARS,
    "RevertEditsRequest.request_id": _ID_CHARS,
    "ReviewEditsRequest.author": NAME_CHARS,
    "ReviewEditsRequest.comment": _NOTE_CHARS,
    "ReviewEditsRequest.names": NAME_CHARS,
    "ReviewEditsRequest.request_id": _ID_CHARS,
    "RouteRequest.lanes": NAME_CHARS,
    "RouteRequest.prompts": MAX_PROMPT_CHARS,
    "ScoreRequest.continuation": MAX_PROMPT_CHARS,
    "ScoreRequest.namespaces": NAME_CHARS,
    "ScoreRequest.prompt": MAX_PROMPT_CHARS,
    "ScoreRequest.separator": NAME_CHARS,
    "SetProbesRequest.author": NAME_CHARS,
    "SetProbesRequest.prompts": MAX_EDIT_CHARS,
    "SetProbesRequest.request_id": _ID_CHARS,
    "ShapedAnswersRequest.page_token": _NOTE_CHARS,
    "ShapedInHour.edit": NAME_CHARS,
    "Signature.key_id": _ID_CHARS,
    "Sizes.ValuesEntry.key": NAME_CHARS,
    "SnapshotTaken.base_model_digest": _ID_CHARS,
    "SnapshotTaken.state_digest": _ID_CHARS,
    "SnapshotTaken.verified_by": NAME_CHARS,
    "StateAt.state_digest": _ID_CHARS,
    "StreamGenerateRequest.namespaces": NAME_CHARS,
    "StreamGenerateRequest.prompt": MAX_PROMPT_CHARS,
    "StreamGenerateRequest.stop": NAME_CHARS,
    "SubmitEditsRequest.author": NAME_CHARS,
    "SubmitEditsRequest.lane": NAME_CHARS,
    "SubmitEditsRequest.request_id": _ID_CHARS,
    "ToolCall.arguments_json": MAX_EDIT_CHARS,
    "ToolCall.id": _ID_CHARS,
    "ToolCall.name": NAME_CHARS,
    "TrustedKey.key_id": _ID_CHARS,
    "WaitEditsRequest.names": NAME_CHARS,
    "WatchEventsRequest.after": NAME_CHARS,
    "WatchEventsRequest.edit": NAME_CHARS,
    "WithdrawEditsRequest.author": NAME_CHARS,
    "WithdrawEditsRequest.comment": _NOTE_CHARS,
    "WithdrawEditsRequest.names": NAME_CHARS,
    "WithdrawEditsRequest.request_id": _ID_CHARS,
}
"""Most characters of a text, or of each text of a list, by field."""

ITEMS: dict[str, int] = {
    "Chat.messages": 4_096,
    "Chat.tools_json": 256,
    "ChatMessage.tool_calls": 256,
    "EditSpec.chat_locality_probes": 1_000,
    "EditSpec.chat_rephrases": 1_000,
    "EditSpec.locality_probes": 1_000,
    "EditSpec.rephrases": 1_000,
    "EditsCommitted.edits": _IN_ONE_ENTRY,
    "EditsRejected.rejections": _IN_ONE_ENTRY,
    "EditsRequested.edits": 10_000,
    "EditsReverted.edits": MAX_NAMED_EDITS,
    "EditsReleased.edits": MAX_NAMED_EDITS,
    "EditsReviewed.edits": MAX_NAMED_EDITS,
    "FindEditsRequest.states": 16,
    "GenerateEverywhereRequest.namespaces": MAX_NAMESPACES,
    "GenerateEverywhereRequest.stop": 16,
    "GenerateRequest.namespaces": MAX_NAMESPACES,
    "GenerateRequest.stop": 16,
    "KeysTrusted.distrusted": 1_000,
    "KeysTrusted.keys": 1_000,
    "LaneCompacted.edits": _IN_ONE_ENTRY,
    "LaneModelCommitted.edits": _IN_ONE_ENTRY,
    "PreviewEditsRequest.edits": 1_000,
    "PreviewEditsRequest.names": MAX_NAMED_EDITS,
    "ProbesSet.chats": MAX_PROBES,
    "ProbesSet.prompts": MAX_PROBES,
    "Reading.namespaces": MAX_NAMESPACES,
    "ReplicaPosition.recent": 1_000,
    "ReplicaPosition.resident": 1_000,
    "ReportShapedAnswersRequest.counts": 100_000,
    "RevertEditsRequest.names": MAX_NAMED_EDITS,
    "ReviewEditsRequest.names": MAX_NAMED_EDITS,
    "RouteRequest.lanes": 1_000,
    "RouteRequest.prompts": 100_000,
    "RouteRequest.readings": 100_000,
    "RouteRequest.vectors": 1_000,
    "ScoreRequest.namespaces": MAX_NAMESPACES,
    "SetProbesRequest.chats": MAX_PROBES,
    "SetProbesRequest.prompts": MAX_PROBES,
    "Sizes.values": 64,
    "StreamGenerateRequest.namespaces": MAX_NAMESPACES,
    "StreamGenerateRequest.stop": 16,
    "SubmitEditsRequest.edits": 10_000,
    "WaitEditsRequest.names": MAX_NAMED_EDITS,
    "WatchEventsRequest.kinds": 64,
    "WithdrawEditsRequest.names": MAX_NAMED_EDITS,
}
"""Most items of a list, by field."""

BYTES: dict[str, int] = {
    "LaneVectors.values": 16 * 1024 * 1024,
    "ReplicaPosition.chain_digest": 1_024,
    "Signature.previous": 1_024,
    "Signature.value": 1_024,
    "SnapshotTaken.chain_digest": 1_024,
    "TrustedKey.public_key": 1_024,
}
"""Most bytes of a field of bytes."""

TOTAL_CHARS: dict[str, int] = {
    "GenerateEverywhereRequest": MAX_PROMPT_CHARS,
    "GenerateRequest": MAX_PROMPT_CHARS,
    "PreviewEditsRequest": MAX_PROMPT_CHARS,
    "ReportPositionRequest": 100_000,
    "ScoreRequest": MAX_PROMPT_CHARS,
    "SetProbesRequest": MAX_PROMPT_CHARS // 10,
    "StreamGenerateRequest": MAX_PROMPT_CHARS,
    "SubmitEditsRequest": 4 * MAX_PROMPT_CHARS,
}
"""Most characters of all texts of a request together."""
