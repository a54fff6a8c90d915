"""A RECIPE lane: encodes edits with its lane model, and routes by the Knowledge Sentinel."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.contract import FitResult, Progress, Resources, require_gathered
from errata.editing.lane.repository import Rows
from errata.editing.lane.routed import EMPTY
from errata.editing.lane.search import Indices
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.model.weights import EditedWeights
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.fit import encode_all, fit, gather
from errata.editing.recipe.state import FORMAT, pack, read_rows
from errata.editing.recipe.view import RecipeView
from errata.editing.retriever.gated_lane import GatedContents, GatedLane
from errata.editing.retriever.lane_model import LaneModel


class RecipeLane(GatedLane[GatedContents]):
    """The RECIPE lane of one process."""

    row_tensors = FORMAT.row_tensors

    def __init__(
        self,
        model: BaseLLM,
        config: RecipeConfig,
        weights: EditedWeights | None,
        *,
        name: str,
        indices: Indices,
    ) -> None:
        """An empty lane without a lane model, which claims nothing. `weights` stay unchanged."""
        super().__init__(model, config, name, GatedContents(EMPTY))
        self.config = config
        self._index = indices.inner_product()
        self._contexts: tuple[str, ...] | None = None

    def gather(self, resources: Resources, *, on_progress: Progress | None = None) -> None:
        """Reads contexts for refinement, as `Lane.gather`."""
        self._contexts = gather(self.config, resources)

    def fit(self, batch: EditBatch) -> FitResult:
        """Encodes a batch, as `Lane.fit`; see `recipe.fit`."""
        gate, contexts = self.require_gate(), require_gathered(self._contexts, self.name)
        return fit(self.causal_lm, batch, self.config, gate, contexts)

    def open_model(self, artifact: Artifact) -> LaneModel:
        """As `GatedLane.open_model`; a gate alone makes no continuous prompts."""
        return LaneModel.from_artifact(artifact, self.llm)

    def view(self) -> RecipeView:
        """Routes by the lane's current contents."""
        return RecipeView(self.contents, self.config, self._index)

    def encode(self, lane_model: bytes, edits: Sequence[Edit]) -> Artifact | None:
        """As `LaneModelSupport.encode`."""
        return encode_all(self.causal_lm, lane_model, edits, self.config, self._contexts or ())

    def read(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, before: GatedContents
    ) -> tuple[GatedContents, Rows]:
        """As `RoutedLane.read`; edits share nothing but the lane model."""
        return before, self.read_rows(artifact, edits, seq, before)

    def read_rows(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, contents: GatedContents
    ) -> Rows:
        """As `RoutedLane.read_rows`."""
        return read_rows(artifact, self.llm, contents.gate, edits, seq)

    def write(self, contents: GatedContents) -> Artifact | None:
        """As `RoutedLane.write`."""
        if not contents.inventory.names:
            return None
        return pack(contents.model_digest, self.llm, contents.inventory.rows())

    def cleared(self, contents: GatedContents) -> GatedContents:
        """As `RoutedLane.cleared`."""
        return GatedContents(EMPTY, contents.gate)
