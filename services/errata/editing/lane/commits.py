"""The entries that change a lane, with their tensors: what a replica applies in log order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from errata.editing.artifact import Artifact
from errata.editing.lane.pages import LaneTable


@dataclass(frozen=True, slots=True)
class Commit:
    """A batch of edits.

    Attributes:
        seq: position of the commit in the log.
        edits: names of the batch's edits, in the artifact's order.
        artifact: the tensors that carry the effect.
        memory: what later fits of the lane need from this batch; None in processes that never fit.
        namespaces: of those of the edits that are not in the default one.
    """

    seq: int
    edits: tuple[str, ...]
    artifact: Artifact
    memory: Artifact | None = None
    namespaces: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reversal:
    """Edits that lose their effect; they may belong to several commits."""

    edits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Promotion:
    """Edits of a canary that ends: from now on, all readers of their namespace read them.

    Attributes:
        edits: all active edits in the canary's place, in no particular order.
        namespace: to which they move; what they answer stays the same.
    """

    edits: tuple[str, ...]
    namespace: str


@dataclass(frozen=True, slots=True)
class LaneModelCommit:
    """A version of a lane's model, and all active edits of the lane as it encodes them.

    Attributes:
        seq: position in the log.
        model: its tensors.
        digest: SHA-256, hex, of the model's bytes; later commits name it.
        edits: names of all active edits of the lane, oldest first.
        repository: carries their effect under this model; None if there are no edits.
        namespaces: as of a `Commit`.
    """

    seq: int
    model: Artifact
    digest: str
    edits: tuple[str, ...]
    repository: Artifact | None
    namespaces: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compaction:
    """A lane that was retrained from its active edits.

    Attributes:
        seq: position in the log.
        edits: names of all active edits of the lane, oldest first.
        artifact: carries exactly these edits.
        namespaces: as of a `Commit`.
    """

    seq: int
    edits: tuple[str, ...]
    artifact: Artifact
    namespaces: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LaneDump:
    """Everything that a lane holds, for a snapshot.

    Attributes:
        model_digest: SHA-256, hex, of the lane model's bytes; empty without one.
        contents: the effect of the active edits; None if the lane has learned nothing yet.
        memory: what later fits need; None in processes that never fit, and where there is nothing.
    """

    model_digest: str
    contents: LaneTable | None
    memory: LaneTable | None = None


@dataclass(frozen=True, slots=True)
class Restoration:
    """A dump that replaces the lane's contents.

    Attributes:
        seq: position of the snapshot.
        dump: the lane's contents at that position.
        model: the lane model's tensors; None if the dump names none.
        namespaces: as of a `Commit`.
    """

    seq: int
    dump: LaneDump
    model: Artifact | None
    namespaces: Mapping[str, str] = field(default_factory=dict)


LaneEntry = Commit | Reversal | Promotion | LaneModelCommit | Compaction | Restoration
"""What `Lane.prepare` takes."""
