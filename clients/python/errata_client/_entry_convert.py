"""Converts entries of the log to values, described for people."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.message import DecodeError

from errata_client import types
from errata_client._gen.errata.v1 import edit_log_pb2

_OUTCOMES = {
    edit_log_pb2.CanaryEnded.OUTCOME_PROMOTED: "promoted",
    edit_log_pb2.CanaryEnded.OUTCOME_ROLLED_BACK: "rolled back",
}
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def log_entry(message: edit_log_pb2.LogEntry) -> types.LogEntry:
    """One entry, described for people."""
    payload = edit_log_pb2.EntryPayload()
    try:
        payload.ParseFromString(message.payload)
        append_time = payload.append_time.ToDatetime(UTC)
    except (DecodeError, OverflowError, ValueError):  # readers stop there; a list shows it
        payload.Clear()
        append_time = _NO_TIME
    kind = payload.WhichOneof("kind") or ""
    edits, detail = _describe(message.seq, kind, payload)
    return types.LogEntry(
        seq=message.seq,
        kind=kind,
        author=payload.author,
        append_time=append_time,
        chain_digest=message.chain_digest.hex(),
        edits=edits,
        detail=detail,
        on_behalf_of=payload.on_behalf_of,
    )


def _describe(
    seq: int, kind: str, payload: edit_log_pb2.EntryPayload
) -> tuple[tuple[str, ...], str]:
    match kind:
        case "edits_requested" | "edits_scheduled" | "edits_namespaced" | "edits_canaried":
            requested: edit_log_pb2.EditsRequested = getattr(payload, kind)
            names = tuple(f"edits/{seq}-{index}" for index in range(len(requested.edits)))
            canaries = sorted({edit.canary for edit in requested.edits if edit.canary})
            return names, ", ".join([requested.lane, *canaries])
        case "canary_set":
            return (), _canary(payload.canary_set)
        case "canary_ended":
            ended = payload.canary_ended
            said = _OUTCOMES.get(ended.outcome, "ended")
            return tuple(ended.edits), f"{ended.canary} {said}{_because(ended.comment)}"
        case "edits_released":
            return tuple(payload.edits_released.edits), "their time has come"
        case "edits_committed":
            committed = payload.edits_committed
            return tuple(e.edit for e in committed.edits), f"artifact {committed.artifact.digest}"
        case "edits_rejected":
            rejections = payload.edits_rejected.rejections
            return tuple(r.edit for r in rejections), "; ".join(r.error.message for r in rejections)
        case "edits_reverted":
            return tuple(payload.edits_reverted.edits), payload.edits_reverted.comment
        case "lane_model_committed":
            version = payload.lane_model_committed
            return tuple(version.edits), f"{version.lane} model {version.model.digest}"
        case "lane_compacted":
            compacted = payload.lane_compacted
            return tuple(compacted.edits), f"{compacted.lane} artifact {compacted.artifact.digest}"
        case "keys_trusted":
            trust = payload.keys_trusted
            keys = [f"trusts {key.key_id}" for key in trust.keys]
            return (), ", ".join([*keys, *(f"no longer {key_id}" for key_id in trust.distrusted)])
        case "snapshot_taken":
            taken = payload.snapshot_taken
            return (), f"at entry {taken.seq}, manifest {taken.manifest.digest}"
        case "probes_set":
            probes = payload.probes_set
            return (), f"{len(probes.prompts) + len(probes.chats)} prompts"
        case "lane_policy_set":
            set_ = payload.lane_policy_set
            return (), f"{set_.lane} requires {'approval' if set_.requires_approval else 'none'}"
        case "edits_reviewed":
            review = payload.edits_reviewed
            verdict = edit_log_pb2.EditsReviewed.Verdict.Name(review.verdict)
            said = verdict.removeprefix("VERDICT_").lower()
            return tuple(review.edits), f"{said}: {review.comment}" if review.comment else said
        case "entry_voided":
            return (), f"entry {payload.entry_voided.seq}: {payload.entry_voided.reason}"
        case "lane_configured":
            configured = payload.lane_configured
            return (), f"{configured.lane} {configured.method} {configured.config_digest}"
        case _:
            return (), ""


def _canary(payload: edit_log_pb2.CanarySet) -> str:
    """Who is in a canary from an entry on."""
    if payload.rolls_back:
        return f"{payload.canary} is being rolled back{_because(payload.comment)}"
    readers = f", readers {', '.join(payload.readers)}" if payload.readers else ""
    audience = f"share {payload.share_ppm / 10_000:g}%{readers}"
    rule = ", ends by its rule" if payload.HasField("rule") else ""
    return f"{payload.canary} of {payload.lane}: {audience}{rule}{_because(payload.comment)}"


def _because(comment: str) -> str:
    return f": {comment}" if comment else ""
