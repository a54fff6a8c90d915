"""An ELDER lane: trains shared experts on each batch, routes by a configurable scope test."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.elder.allocation import capacity
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Shape
from errata.editing.elder.fit import FitInputs, encode_all, fit, gather, retrain
from errata.editing.elder.memory import ElderMemory
from errata.editing.elder.packing import (
    BANK,
    BANK_OF,
    FORMAT,
    Packed,
    pack,
    read_artifact,
    read_rows,
)
from errata.editing.elder.peft import export as export_adapters
from errata.editing.elder.state import ElderContents, codes_of
from errata.editing.elder.view import ElderView
from errata.editing.lane.commits import LaneDump, LaneEntry
from errata.editing.lane.contract import (
    NEARLY_FULL,
    Compact,
    Export,
    FitResult,
    LaneReport,
    Progress,
    Resources,
    require_gathered,
)
from errata.editing.lane.repository import Rows
from errata.editing.lane.routed import EMPTY
from errata.editing.lane.search import Indices
from errata.editing.lane.swap import Cell, Change
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import EditedWeights
from errata.editing.retriever.gated_lane import GatedLane
from errata.errors import PreconditionError

_MAX_INT64 = 2**63 - 1  # the largest integer that a message can hold


class ElderLane(GatedLane[ElderContents]):
    """The ELDER lane of one process."""

    row_tensors = FORMAT.row_tensors | {BANK_OF}
    unit_tensors = BANK

    def __init__(
        self,
        model: BaseLLM,
        config: ElderConfig,
        weights: EditedWeights | None,
        *,
        name: str,
        indices: Indices,
    ) -> None:
        """An empty lane, which claims nothing. `weights` stay unchanged.

        Raises:
            InvalidRequestError: layers, rank or experts do not fit the model.
        """
        super().__init__(model, config, name, ElderContents(EMPTY))
        self.config = config
        self.memory = Cell(ElderMemory(config))
        self._shape = Shape.of(model, config) if isinstance(model, CausalLM) else None
        self._keys, self._codes = indices.inner_product(), indices.hamming()
        self._statistics: FitInputs | None = None

    def gather(self, resources: Resources, *, on_progress: Progress | None = None) -> None:
        """Reads held-out prompts, contexts and adapters, as `Lane.gather`; see `elder.fit`."""
        self._statistics = gather(self.causal_lm, self.config, resources)

    def fit(self, batch: EditBatch) -> FitResult:
        """Trains the experts on a batch, as `Lane.fit`; see `elder.fit`."""
        self.check_ready()
        memory = self.memory.value
        return fit(
            self.causal_lm,
            batch,
            self.config,
            self.contents,
            memory,
            require_gathered(self._statistics, self.name),
        )

    def view(self) -> ElderView:
        """Routes by the lane's current contents."""
        return ElderView(self.llm, self.contents, self.config, self._keys, self._codes)

    def prepare(self, entry: LaneEntry) -> Change:
        """As `Lane.prepare`; the entry also updates the memory."""
        memory = self.memory.value.after(entry)
        return super().prepare(entry).followed_by(self.memory.replaced_by(memory))

    def dump(self) -> Callable[[], LaneDump]:
        """As `Lane.dump`, with the memory."""
        contents, memory = super().dump(), self.memory.value
        return lambda: replace(contents(), memory=memory.dump())

    def encode(self, lane_model: bytes, edits: Sequence[Edit]) -> Artifact | None:
        """As `LaneModelSupport.encode`; the experts stay."""
        return encode_all(self.causal_lm, self.config, lane_model, edits)

    @property
    def compact(self) -> Compact:
        """Trains new experts on all active edits; see `elder.fit.retrain`."""
        return self._retrain

    @property
    def export(self) -> Export:
        """Writes the experts as PEFT adapters; see `elder.peft.export`."""
        return self._export

    def report(self) -> LaneReport:
        """Numbers of edits, parameters, bytes, and of banks, or of allocations in a single bank."""
        contents, shape = self.contents, self._shape
        if shape is None and contents.learned is not None:
            shape = contents.learned.experts.shape
        sizes = {"edits": len(contents.inventory.names)}
        if shape is None:
            return LaneReport(sizes)
        num_parameters = shape.num_parameters * (len(contents.frozen.banks) + 1)
        sizes |= {
            "parameters": num_parameters,
            "bytes": 4 * num_parameters + contents.inventory.num_bytes,
        }
        if self.config.bank_edits:
            return LaneReport({**sizes, "banks": len(contents.frozen.banks) + 1})
        total = capacity(len(shape.layers), shape.num_experts, shape.top_k)
        sizes["capacity"] = min(total, _MAX_INT64)
        used = contents.inventory.num_rows / total
        if used < NEARLY_FULL:
            return LaneReport(sizes)
        return LaneReport(
            sizes,
            (
                f"{used:.0%} of the {total:,} allocations are taken; open a new lane with more "
                "experts or layers before they are used up.",
            ),
        )

    def read(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, before: ElderContents
    ) -> tuple[ElderContents, Rows]:
        """As `RoutedLane.read`."""
        unpacked = read_artifact(
            artifact,
            self.llm,
            edits,
            seq,
            gate=before.model_digest,
            expected=self._shape,
            before=before.learned,
        )
        if unpacked.starts_bank:
            before = before.with_frozen()
        frozen = before.frozen.adding(unpacked.frozen.banks)
        return replace(before, learned=unpacked.learned, frozen=frozen), unpacked.rows

    def read_rows(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, contents: ElderContents
    ) -> Rows:
        """As `RoutedLane.read_rows`; the experts stay."""
        return read_rows(
            artifact, self.llm, edits, seq, gate=contents.model_digest, learned=contents.learned
        )

    def write(self, contents: ElderContents) -> Artifact | None:
        """As `RoutedLane.write`."""
        if contents.learned is None:
            return None
        return pack(
            self.llm,
            contents.model_digest,
            contents.inventory.rows(),
            Packed.whole(contents.learned.experts),
            contents.learned.limit,
            contents.learned.idf,
            frozen=contents.frozen,
        )

    def without(self, contents: ElderContents, edits: Collection[str]) -> ElderContents:
        """As `RoutedLane.without`; frozen banks without edits are removed."""
        return replace(super().without(contents, edits), frozen=contents.frozen.without(edits))

    def cleared(self, contents: ElderContents) -> ElderContents:
        """As `RoutedLane.cleared`."""
        return ElderContents(EMPTY, contents.gate)

    def indexed(
        self, contents: ElderContents, values: Callable[[], Mapping[str, Tensor]]
    ) -> ElderContents:
        """The contents with the codes of all stored queries, if codes decide claims."""
        if self.config.scope != "codes":
            return contents
        codes = {name: codes_of(contents.learned, queries) for name, queries in values().items()}
        return replace(contents, codes=codes)

    def _retrain(self, edits: Sequence[Edit], *, num_experts: int, seed: int) -> Artifact:
        return retrain(
            self.causal_lm,
            edits,
            self.config,
            self.contents.gate,
            self.memory.value,
            require_gathered(self._statistics, self.name),
            num_experts=num_experts,
            seed=seed,
        )

    def _export(self, llm: CausalLM, folder: Path, base_model: str) -> Sequence[Path]:
        contents = self.contents
        if contents.learned is None:
            raise PreconditionError(
                f"no edit is committed in {self.name}; there is nothing to export."
            )
        banks = [*(bank.experts for bank in contents.frozen.banks), contents.learned.experts]
        if len(banks) == 1:
            return export_adapters(llm, banks[0], folder, base_model)
        return [
            path
            for number, experts in enumerate(banks)
            for path in export_adapters(llm, experts, folder / f"bank-{number}", base_model)
        ]
