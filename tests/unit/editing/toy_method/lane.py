"""A toy lane: no training, no statistics, no lane model."""

from __future__ import annotations

from errata.editing.artifact import Artifact
from errata.editing.edit import EditBatch
from errata.editing.lane.contract import FitResult, Progress, Resources
from errata.editing.lane.repository import Rows
from errata.editing.lane.routed import EMPTY, LaneContents, RoutedLane
from errata.editing.lane.search import Indices
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import EditedWeights
from tests.unit.editing.toy_method.config import ToyConfig
from tests.unit.editing.toy_method.fit import fit
from tests.unit.editing.toy_method.state import FORMAT, pack
from tests.unit.editing.toy_method.view import ToyView


class ToyLane(RoutedLane[LaneContents]):
    """The toy lane of one process."""

    row_tensors = FORMAT.row_tensors

    def __init__(
        self,
        model: BaseLLM,
        config: ToyConfig,
        weights: EditedWeights | None,
        *,
        name: str,
        indices: Indices,
    ) -> None:
        super().__init__(model, name, LaneContents(EMPTY))
        self.config = config

    def gather(self, resources: Resources, *, on_progress: Progress | None = None) -> None:
        """Nothing is needed."""

    def fit(self, batch: EditBatch) -> FitResult:
        return fit(self.causal_lm, batch, self.config)

    def view(self) -> ToyView:
        last = self.llm.num_layers - 1 if isinstance(self.llm, CausalLM) else 0
        return ToyView(self.contents.inventory, last)

    def read(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, before: LaneContents
    ) -> tuple[LaneContents, Rows]:
        return before, self.read_rows(artifact, edits, seq, before)

    def read_rows(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, contents: LaneContents
    ) -> Rows:
        return FORMAT.read(artifact, self.llm, "", edits, seq)

    def write(self, contents: LaneContents) -> Artifact | None:
        rows = contents.inventory.rows()
        return pack(self.llm, rows) if rows.names else None

    def with_model(self, contents: LaneContents, model: Artifact, digest: str) -> LaneContents:
        return contents

    def cleared(self, contents: LaneContents) -> LaneContents:
        return LaneContents(EMPTY)
