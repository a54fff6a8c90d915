"""An edit and its state as the writer knows them, and everything in a ledger at one position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from errata.editing.chat import Prompt
from errata.editing.edit import Edit
from errata.errors import ErrataError
from errata.log.entries import ArtifactRef, Figures, LaneConfigured


class State(Enum):
    """The state of an edit."""

    REQUESTED = "requested"
    FITTING = "fitting"
    COMMITTED = "committed"
    REJECTED = "rejected"
    REVERTED = "reverted"

    @property
    def settled(self) -> bool:
        """Whether fits no longer change it."""
        return self not in (State.REQUESTED, State.FITTING)


@dataclass(frozen=True, slots=True)
class EditRecord:
    """An edit and its state; `commit_seq` and `revert_seq` are 0 until they happen."""

    edit: Edit
    source: str
    lane: str
    author: str
    request_time: datetime
    state: State = State.REQUESTED
    commit_seq: int = 0
    revert_seq: int = 0
    figures: Figures | None = None
    artifact: ArtifactRef | None = None
    base_model_digest: str = ""
    error: ErrataError | None = None
    trace_parent: str = ""
    subject_found: bool = False


@dataclass(frozen=True, slots=True)
class LedgerState:
    """Everything in a ledger at one position.

    Attributes:
        seq: of the last entry that was folded in.
        lanes: name → position of its configuration, and the configuration.
        lane_models: lane → digest of its active model.
        compactions: position → lane.
        records: all edits, in log order.
        request_seqs: request id → position.
        probes: the deployment's probe set.
        probes_seq: of the entry that set them; 0 before the first.
    """

    seq: int
    lanes: Mapping[str, tuple[int, LaneConfigured]]
    lane_models: Mapping[str, str]
    compactions: Mapping[int, str]
    records: Sequence[EditRecord]
    request_seqs: Mapping[str, int]
    probes: tuple[Prompt, ...] = ()
    probes_seq: int = 0
