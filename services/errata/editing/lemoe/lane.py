"""A LEMoE lane: trains a new expert on each batch; routes prompts to the expert of their edit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.contract import (
    NEARLY_FULL,
    Compact,
    FitResult,
    LaneReport,
    Ordering,
    Progress,
    Resources,
    require_gathered,
)
from errata.editing.lane.repository import Rows
from errata.editing.lane.routed import EMPTY
from errata.editing.lane.search import Indices
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.experts import Shape
from errata.editing.lemoe.fit import FitInputs, encode_all, fit, gather, retrain
from errata.editing.lemoe.lane_experts import ExpertStore
from errata.editing.lemoe.order import plan_order
from errata.editing.lemoe.packing import EXPERT, FORMAT, pack, read_artifact, read_rows
from errata.editing.lemoe.state import LemoeContents
from errata.editing.lemoe.view import LemoeView
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import EditedWeights
from errata.editing.retriever.gated_lane import GatedLane


class LemoeLane(GatedLane[LemoeContents]):
    """The LEMoE lane of one process."""

    row_tensors = FORMAT.row_tensors | {"member_of"}
    unit_tensors = EXPERT

    def __init__(
        self,
        model: BaseLLM,
        config: LemoeConfig,
        weights: EditedWeights | None,
        *,
        name: str,
        indices: Indices,
    ) -> None:
        """Opens an empty lane, which claims nothing. It does not change `weights`.

        Raises:
            InvalidRequestError: the layer or the rank does not fit the model.
        """
        super().__init__(model, config, name, LemoeContents(EMPTY))
        self.config = config
        self._shape = Shape.of(model, config) if isinstance(model, CausalLM) else None
        self._index = indices.inner_product()
        self._store: ExpertStore | None = None
        self._statistics: FitInputs | None = None

    def gather(self, resources: Resources, *, on_progress: Progress | None = None) -> None:
        """Reads held-out prompts and contexts, as `Lane.gather`; see `lemoe.fit`."""
        self._statistics = gather(self.causal_lm, self.config, resources)

    def fit(self, batch: EditBatch) -> FitResult:
        """Trains a new expert, as `Lane.fit`; see `lemoe.fit`."""
        self.check_ready()
        return fit(
            self.causal_lm,
            batch,
            self.config,
            self.contents,
            require_gathered(self._statistics, self.name),
        )

    def view(self) -> LemoeView:
        """Routes by what the lane holds now; all views share the store of experts."""
        contents, llm = self.contents, self.llm
        if self._store is None and contents.routing is not None and isinstance(llm, CausalLM):
            self._store = ExpertStore(llm, contents.routing.shape, self.config.max_resident)
        if self._store is not None:
            self._store.keep(contents.experts)
        return LemoeView(llm, contents, self.config, self._index, self._store)

    def device_usage(self) -> Mapping[str, int]:
        """Number of experts on the device, and their bytes there."""
        if self._store is None:
            return {}
        # After a lane's last reversal, no new view is made that would evict the expert.
        self._store.keep(self.contents.experts)
        return self._store.sizes()

    def encode(self, lane_model: bytes, edits: Sequence[Edit]) -> Artifact | None:
        """As `LaneModelSupport.encode`; the experts stay."""
        return encode_all(self.causal_lm, self.config, lane_model, edits)

    @property
    def ordering(self) -> Ordering:
        """Groups the edits of one expert, by similarity or in log order as configured."""
        return Ordering(
            size=self.config.expert_edits,
            max_wait_seconds=self.config.max_wait_seconds,
            plan=lambda edits, seed: plan_order(self.causal_lm, self.config, edits, seed),
        )

    @property
    def compact(self) -> Compact:
        """Distributes all active edits among few new experts; see `lemoe.fit.retrain`."""
        return self._retrain

    def report(self) -> LaneReport:
        """Edits, experts and their bytes, and a warning if the lane is nearly full."""
        contents, max_experts = self.contents, self.config.max_experts
        num = len(contents.experts)
        sizes = {
            "edits": len(contents.inventory.names),
            "experts": num,
            "max_experts": max_experts,
            "bytes": sum(expert.num_bytes for expert in contents.experts)
            + contents.inventory.num_bytes,
        }
        if num < NEARLY_FULL * max_experts:
            return LaneReport(sizes)
        remedy = self.config.remedy
        warning = f"{num} of {max_experts} experts are taken; before the lane is full, {remedy}."
        return LaneReport(sizes, (warning,))

    def read(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, before: LemoeContents
    ) -> tuple[LemoeContents, Rows]:
        """As `RoutedLane.read`; new experts are appended to the earlier ones."""
        packed = read_artifact(
            artifact,
            self.llm,
            edits,
            seq,
            gate=before.model_digest,
            expected=self._shape,
            before=before.routing,
        )
        first = len(before.experts)
        owners = zip(edits, packed.expert_of, strict=True)
        after = replace(
            before,
            routing=packed.routing,
            experts=(*before.experts, *packed.experts),
            expert_of={**before.expert_of, **{name: first + number for name, number in owners}},
        )
        return after, packed.rows

    def read_rows(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, contents: LemoeContents
    ) -> Rows:
        """As `RoutedLane.read_rows`; the experts stay."""
        return read_rows(artifact, self.llm, edits, seq, gate=contents.model_digest)

    def write(self, contents: LemoeContents) -> Artifact | None:
        """As `RoutedLane.write`."""
        if contents.routing is None:
            return None
        rows = contents.inventory.rows()
        return pack(
            self.llm,
            contents.model_digest,
            rows,
            contents.routing,
            contents.experts,
            [contents.expert_of[name] for name in rows.names],
            with_projection=True,
        )

    def without(self, contents: LemoeContents, edits: Collection[str]) -> LemoeContents:
        """As `RoutedLane.without`; experts without edits are removed."""
        return contents.without(edits)

    def cleared(self, contents: LemoeContents) -> LemoeContents:
        """As `RoutedLane.cleared`."""
        return LemoeContents(EMPTY, contents.gate)

    def _retrain(self, edits: Sequence[Edit], *, num_experts: int, seed: int) -> Artifact:
        return retrain(
            self.causal_lm,
            edits,
            self.config,
            self.contents,
            require_gathered(self._statistics, self.name),
            num_experts=num_experts,
            seed=seed,
        )
