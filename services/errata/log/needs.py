"""What the log needs: entries in Redis, and the files in which Redis keeps them.

Redis holds an entry in a stream, and its request id in a hash. `tests/integration/log` measures the
overhead of an entry again on every supported server.
"""

from __future__ import annotations

from datetime import UTC, datetime

from errata.editing.edit import Edit
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.needs import EditLoad, Need
from errata.log.entries import ArtifactRef, EditsCommitted, EditsRequested, Figures, Payload
from errata.log.payload_convert import encode
from errata.log.request_convert import edit_name

REDIS_ENTRY_BYTES = 250
"""Bytes of one entry in Redis besides its payload: stream, two digests, request id; measured."""

REQUEST_ID_BYTES = 100
"""Bytes of these that stay after a trim until the id's horizon: docs/trimming.md."""

FILE_ENTRY_BYTES = 430
"""Bytes of one entry in the append-only file besides its payload: the commands; measured."""
_CHARACTERS_PER_TOKEN = 4


def log_needs(load: EditLoad, commits: int, kept_entries: int | None = None) -> list[Need]:
    """Entries of N requests of one edit each, and of c commits.

    Args:
        load: the edits; a token of a text counts as four characters.
        commits: c, of all lanes.
        kept_entries: what trims leave in Redis; None if nothing is trimmed.
    """
    entries = load.num_edits + commits
    batch = -(-load.num_edits // commits) if commits else 0
    payloads = load.num_edits * request_bytes(load) + commits * commit_bytes(batch)
    return [
        *_in_redis(entries, payloads, kept_entries),
        Need(
            "append-only file",
            entries * FILE_ENTRY_BYTES + payloads,
            f"(N + c)·{FILE_ENTRY_BYTES} + payloads",
            "disk",
            is_estimate=True,
        ),
    ]


def _in_redis(entries: int, payloads: int, kept_entries: int | None) -> list[Need]:
    """What stays in Redis, and what leaves it only with a trim."""
    everything = entries * REDIS_ENTRY_BYTES + payloads
    if kept_entries is None or entries <= kept_entries:
        formula = f"(N + c)·{REDIS_ENTRY_BYTES} + payloads"
        return [Need("entries in Redis", everything, formula, "host", is_estimate=True)]
    kept = everything * kept_entries // entries
    trimmed = entries - kept_entries
    return [
        Need(
            "entries in Redis",
            kept,
            f"{kept_entries:,}·{REDIS_ENTRY_BYTES} + payloads",
            "host",
            is_estimate=True,
        ),
        Need(
            "request ids of trimmed entries",
            trimmed * REQUEST_ID_BYTES,
            f"(N + c − {kept_entries:,})·{REQUEST_ID_BYTES}",
            "host",
            is_estimate=True,
        ),
        Need(
            "entries until they are trimmed",
            everything - kept - trimmed * REQUEST_ID_BYTES,
            f"(N + c − {kept_entries:,})·{REDIS_ENTRY_BYTES - REQUEST_ID_BYTES} + payloads",
            "host",
            during="commit",
            is_estimate=True,
        ),
    ]


def request_bytes(load: EditLoad) -> int:
    """The payload of a request with one edit, encoded as the log holds it."""
    prompt = "x" * (_CHARACTERS_PER_TOKEN * (load.text_tokens - load.target_tokens))
    edit = Edit(
        name=edit_name(1, 0),
        prompt=prompt,
        target="x" * (_CHARACTERS_PER_TOKEN * load.target_tokens),
        subject="x" * (len(prompt) // 4),
        rephrases=(prompt,) * load.num_rephrases,
    )
    return _size(EditsRequested("lanes/main", (edit,), ("",), (True,)))


def commit_bytes(num_edits: int) -> int:
    """The payload of a commit of `num_edits` edits, encoded as the log holds it."""
    digest = fact_of("")
    artifact = ArtifactRef(digest, 2**20)
    figures = Figures(reliability=0.5, generality=0.5, locality=0.5, already_answered=False)
    names = tuple(edit_name(10_000, 0) for _ in range(num_edits))
    return _size(
        EditsCommitted(
            "lanes/main", names, (figures,) * num_edits, artifact, artifact, 2**62, digest, digest
        )
    )


def _size(payload: Payload) -> int:
    message = encode(payload, "an author", trace_parent="0" * 55)
    message.request_id = "0" * 36
    message.append_time.FromDatetime(datetime(2026, 1, 1, microsecond=1, tzinfo=UTC))
    return int(message.ByteSize())
