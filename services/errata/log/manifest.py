"""What a snapshot consists of, as far as the log must know it; `replica/snapshot.py` has it all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from errata.errors import ArtifactCorruptError
from errata.log.entries import ArtifactRef

T = TypeVar("T")


def parts_of(manifest: bytes) -> tuple[ArtifactRef, ...]:
    """The artifacts that are parts of a snapshot, each once.

    Args:
        manifest: JSON whose `parts` are groups of pairs of digest and size.

    Raises:
        ArtifactCorruptError: it is not a manifest.
    """

    def read(values: Any) -> tuple[ArtifactRef, ...]:
        pairs = [pair for group in values["parts"].values() for pair in group]
        return tuple(dict.fromkeys(ArtifactRef(str(digest), int(size)) for digest, size in pairs))

    return _read(manifest, read)


def lane_models_of(manifest: bytes) -> tuple[str, ...]:
    """Digests of the lane models that a snapshot needs; earlier entries of the log name them, too.

    Raises:
        ArtifactCorruptError: it is not a manifest.
    """
    return _read(
        manifest, lambda values: tuple(str(d) for d in values["lane_models"].values() if d)
    )


def _read(manifest: bytes, read: Callable[[Any], T]) -> T:
    try:
        return read(json.loads(manifest))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactCorruptError(
            "a snapshot's manifest cannot be read: it is damaged, or of a newer version of Errata. "
            "Take another snapshot, or upgrade."
        ) from error
