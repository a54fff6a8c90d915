"""A lane that routes, with a lane model as its scope gate if its configuration requires one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.lane.contract import LaneConfig, LaneModelSupport
from errata.editing.lane.routed import LaneContents, RoutedLane
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.retriever import gate_file
from errata.editing.retriever.gate import Gate
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.lane_model import read_bytes
from errata.errors import PreconditionError


@dataclass(frozen=True, eq=False)
class GatedContents(LaneContents):
    """Contents with a gate.

    Attributes:
        gate: decides claims; None without a lane model.
    """

    gate: Gate | None = None

    @property
    def model_digest(self) -> str:
        """SHA-256, hex, of the lane model's bytes; empty without one."""
        return "" if self.gate is None else self.gate.digest


Contents = TypeVar("Contents", bound=GatedContents)


class GatedLane(RoutedLane[Contents]):
    """The part of a lane that handles its lane model."""

    def __init__(self, llm: BaseLLM, config: LaneConfig, name: str, contents: Contents) -> None:
        """Starts with `contents`, which have neither a gate nor edits."""
        super().__init__(llm, name, contents)
        self._needs_model = config.needs_lane_model
        self._takes_gate = config.takes_gate

    def open_model(self, artifact: Artifact) -> GateModel:
        """Reads what decides the lane's claims: a gate, or a lane model of its LLM.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it cannot be used here.
        """
        return gate_file.read(artifact, self.llm)

    @abstractmethod
    def encode(self, lane_model: bytes, edits: Sequence[Edit]) -> Artifact | None:
        """As `LaneModelSupport.encode`."""

    @property
    def lane_model(self) -> LaneModelSupport | None:
        """Reads and encodes its lane model; None if its configuration needs none."""
        if not self._needs_model:
            return None
        return LaneModelSupport(read_bytes, self.encode, self._takes_gate)

    def with_model(self, contents: Contents, model: Artifact, digest: str) -> Contents:
        """As `RoutedLane.with_model`; a lane that needs no lane model ignores it."""
        if not self._needs_model:
            return contents
        return replace(contents, gate=Gate.of(self.open_model(model), digest))

    def check_ready(self) -> None:
        """As `RoutedLane.check_ready`."""
        if self._needs_model:
            self.require_gate()

    def require_gate(self) -> Gate:
        """The gate.

        Raises:
            PreconditionError: no lane model was committed yet.
        """
        if self.contents.gate is None:
            raise PreconditionError(
                f"{self.name} has no lane model yet; name one in the lanes file.", lane=self.name
            )
        return self.contents.gate
