"""What a snapshot consists of, as far as the log must know it."""

from __future__ import annotations

import json

from errata.errors import ArtifactCorruptError
from errata.log.entries import ArtifactRef


def parts_of(manifest: bytes) -> tuple[ArtifactRef, ...]:
    """The artifacts that a snapshot's manifest names.

    Args:
        manifest: a JSON object whose `parts` are objects with `digest` and `size_bytes`.

    Raises:
        ArtifactCorruptError: it is not a manifest.
    """
    try:
        parts = json.loads(manifest)["parts"]
        return tuple(ArtifactRef(str(part["digest"]), int(part["size_bytes"])) for part in parts)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactCorruptError(
            "a snapshot's manifest cannot be read: it is damaged, or of a newer version of Errata. "
            "Take another snapshot, or upgrade."
        ) from error
